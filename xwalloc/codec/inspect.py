"""What a frame says about itself, read from its header alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xwalloc.bitstream.frame import FORMAT_VERSION, AxisRole, Mode, Section, parse_header
from xwalloc.codec import learned_mode, transform_sections
from xwalloc.errors import FormatError

__all__ = ["FrameInfo", "inspect"]


@dataclass(frozen=True, kw_only=True, repr=False)
class FrameInfo:
    """One encoded chunk, seen from outside.

    Parameters
    ----------
    version
        Version of the format.
    mode
        How the samples are coded: "stored", "lattice", "transform" or "learned".
    dtype, shape
        Of the chunk as stored, byte order included.
    channel_axis, signal_axes
        What the axes are; the others are batch axes.
    quality, value
        The target that the encoder was given ("max_error", "snr", "step" or "lossless") and its value (0 for lossless).
    nodata
        Value that stands for missing data, or None.
    model
        "self-fitted" where the frame carries its model, "sha256:" and 16 digits of its id where the frame names it,
        None where its mode needs none.
    sections
        Bytes of every part, the header included, by lower-case name.
    """

    version: int
    mode: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    channel_axis: int | None
    signal_axes: tuple[int, ...]
    quality: str
    value: float
    nodata: float | int | None
    model: str | None
    sections: Mapping[str, int]

    @property
    def size(self) -> int:
        """Samples of the chunk."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def nbytes(self) -> int:
        """Bytes of the frame."""
        return sum(self.sections.values())

    @property
    def ratio(self) -> float:
        """Bytes of the chunk by bytes of the frame."""
        return self.size * self.dtype.itemsize / self.nbytes

    @property
    def bits_per_sample(self) -> float:
        """Bits of the frame by samples of the chunk; NaN for an empty chunk."""
        return 8 * self.nbytes / self.size if self.size else float("nan")

    @property
    def target(self) -> str:
        """Quality target in words."""
        return self.quality if self.quality == "lossless" else f"{self.quality} {self.value:g}"

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {n / self.nbytes:.1%}" for name, n in self.sections.items())
        return (
            f"<FrameInfo version {self.version}, {self.mode}, {self.dtype} {self.shape}, {self.target}, "
            f"{self.nbytes} bytes = {self.bits_per_sample:.3f} bits per sample, ratio {self.ratio:.2f}; {shares}>"
        )


def inspect(frame: bytes) -> FrameInfo:
    """Read the header of a frame; nothing is decoded.

    Parameters
    ----------
    frame
        The whole frame.

    Raises
    ------
    FormatError
        If the bytes are no frame, or its header is damaged. Damage elsewhere is not seen.

    Examples
    --------
    >>> import numpy as np
    >>> from xwalloc.numcodecs import Walloc
    >>> info = inspect(Walloc(signal_axes=[0], max_error=0.5).encode(np.zeros(1000, "f4")))
    >>> info.shape, info.quality, info.value
    ((1000,), 'max_error', 0.5)
    """
    try:
        data = bytes(memoryview(frame))
    except TypeError:
        raise FormatError(f"Expected the bytes of a frame. Got {type(frame).__name__}.") from None
    header, table, start = parse_header(data)
    nodata = None
    if header.nodata is not None:
        plain = header.dtype.newbyteorder("=")
        nodata = np.array(header.nodata, f"u{plain.itemsize}").view(plain).item()
    model = None
    at = start
    for section, size, _ in table:
        if section == Section.MODEL:
            naming = learned_mode if header.mode == Mode.LEARNED else transform_sections
            model = naming.named_model(data[at : at + size])
        at += size
    return FrameInfo(
        version=FORMAT_VERSION,
        mode=header.mode.name.lower(),
        dtype=header.dtype,
        shape=header.shape,
        channel_axis=header.roles.index(AxisRole.CHANNEL) if AxisRole.CHANNEL in header.roles else None,
        signal_axes=tuple(axis for axis, role in enumerate(header.roles) if role == AxisRole.SIGNAL),
        quality=header.quality.name.lower(),
        value=header.value,
        nodata=nodata,
        model=model,
        sections={"header": start, **{name.name.lower(): size for name, size, _ in table}},
    )
