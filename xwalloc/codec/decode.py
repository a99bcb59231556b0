"""Frame -> array: what every reader of a store runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.frame import DecodeLimits, Frame, Mode, Section
from xwalloc.bitstream.tables import shipped_id
from xwalloc.codec import engine, lattice_mode, learned_mode, resident, transform_mode, transform_sections
from xwalloc.codec.bound import early_nodata, stored, substitute
from xwalloc.codec.devices import CPU, DeviceMemoryError, fall_back
from xwalloc.codec.engine import blas_in_one_thread
from xwalloc.codec.layout import Layout, bits_of, unpack_exceptions, unpack_mask
from xwalloc.errors import FormatError, LimitError, UnsupportedFormatError
from xwalloc.models import library
from xwalloc.models.model import ModelReference
from xwalloc.settings import decode_limit

__all__ = ["decode_frame", "decode_there"]

T = TypeVar("T")


def decode_frame(
    frame: bytes,
    *,
    out: NDArray[np.generic] | None = None,
    shape: Sequence[int] | None = None,
    dtype: np.dtype | None = None,
    limits: DecodeLimits | None = None,
    region: Sequence[slice] | None = None,
    model: ModelReference | None = None,
) -> NDArray[np.generic]:
    """Decode a frame, or a region of it.

    Parameters
    ----------
    frame
        Bytes of a frame; untrusted.
    out
        Array to fill instead of a new one.
    shape, dtype
        What the caller expects; a frame that holds something else is refused before anything is allocated.
    limits
        Largest array to allocate; by default the setting ``decode.max_bytes``.
    region
        A slice of each axis, of step 1. Of large chunks, only segments that the region touches are decoded.

    model
        What the configuration of the codec says of the model that the frame may name.

    Returns
    -------
    ndarray
        Of exactly the shape and dtype, byte order included, that was encoded; or the region of that.

    Raises
    ------
    FormatError
        If the bytes are not a whole and valid frame, or not of the chunk that was expected.
    ModelError
        If the frame names a model that is not to be found.
    ValueError
        If the region is not one slice of step 1 for each axis.
    ConfigError
        If the setting ``decode.max_bytes`` is not a number of bytes, or the model is a network and torch is not
        installed.
    """
    parsed, wanted = _expected(frame, shape, dtype, limits, region)
    header = parsed.header
    size = tuple(part.stop - part.start for part in wanted)
    if out is not None and (out.shape != size or out.dtype != header.dtype):
        raise FormatError(
            f"Expected an output array of shape {size} and dtype {header.dtype}. Got {out.shape}, {out.dtype}."
        )
    array = _computed(parsed, wanted, model, resident.decoded).astype(header.dtype, copy=False)
    if out is not None:
        out[...] = array
        return out
    return array


def decode_there(
    frame: bytes,
    *,
    shape: Sequence[int] | None = None,
    limits: DecodeLimits | None = None,
    region: Sequence[slice] | None = None,
    model: ModelReference | None = None,
) -> NDArray[np.generic] | resident.DeviceArray:
    """`decode_frame` for whoever computes on a device: samples stay where they were decoded.

    Returns
    -------
    DeviceArray or ndarray
        Samples on the device in native byte order, if the setting ``device`` names one and it can decode the chunk;
        else on the host, as `decode_frame` returns them.
    """
    parsed, wanted = _expected(frame, shape, None, limits, region)
    return _computed(parsed, wanted, model, resident.left_there)


def _expected(
    frame: bytes,
    shape: Sequence[int] | None,
    dtype: np.dtype | None,
    limits: DecodeLimits | None,
    region: Sequence[slice] | None,
) -> tuple[Frame, tuple[slice, ...]]:
    """A frame that holds what the caller expects, and the region with starts and stops."""
    parsed = Frame.parse(memoryview(bytes(frame)), limits or DecodeLimits(max_bytes=decode_limit()))
    header = parsed.header
    if shape is not None and tuple(shape) != header.shape:
        raise FormatError(f"Expected a chunk of shape {tuple(shape)}. The frame holds one of shape {header.shape}.")
    if dtype is not None and np.dtype(dtype) != header.dtype:
        raise FormatError(f"Expected a chunk of dtype {np.dtype(dtype)}. The frame holds one of {header.dtype}.")
    return parsed, _wanted(header.shape, region)


def _computed(
    frame: Frame, region: tuple[slice, ...], model: ModelReference | None, on_device: Callable[[resident.Job], T]
) -> NDArray[np.generic] | T:
    """Samples of a region; `on_device` decodes what a device can.

    Raises
    ------
    LimitError
        If there is too little memory.
    """
    try:
        with blas_in_one_thread():
            return _decode(frame, region, partial(library.find, reference=model), on_device)
    except MemoryError as error:
        raise LimitError(f"Not enough memory to decode a chunk of {frame.header.nbytes} bytes.") from error


def _wanted(shape: tuple[int, ...], region: Sequence[slice] | None) -> tuple[slice, ...]:
    """A region as slices with start and stop.

    Raises
    ------
    ValueError
        If it is not one slice of step 1 for each axis.
    """
    parts = tuple(region) if region is not None else (slice(None),) * len(shape)
    if len(parts) != len(shape) or any(getattr(part, "step", 0) not in (None, 1) for part in parts):
        raise ValueError(f"Expected a region of {len(shape)} slices of step 1. Got {region}.")
    edges = [part.indices(n)[:2] for part, n in zip(parts, shape, strict=True)]
    return tuple(slice(start, max(start, stop)) for start, stop in edges)


def _decode(
    frame: Frame,
    region: tuple[slice, ...],
    models: transform_sections.Models,
    on_device: Callable[[resident.Job], T],
) -> NDArray[np.generic] | T:
    header, sections = frame.header, dict(frame.sections)
    native = header.dtype.newbyteorder("=")
    wanted = {
        Mode.STORED: {Section.STORED},
        Mode.LATTICE: {Section.LATTICE, Section.LATTICE_SYMBOLS},
        Mode.TRANSFORM: {Section.MODEL, Section.LATENTS},
        Mode.LEARNED: {Section.MODEL, Section.LATTICE, Section.LATTICE_SYMBOLS},
    }[header.mode]
    optional = set() if header.mode == Mode.STORED else {Section.MASK, Section.EXCEPTIONS}
    if header.mode in (Mode.TRANSFORM, Mode.LEARNED):
        optional.add(Section.RESIDUAL)
    if not wanted <= set(sections) <= wanted | optional or (header.size == 0 and header.mode != Mode.STORED):
        raise FormatError(f"The frame has impossible sections: {[section.name for section in sections]}.")
    if header.mode == Mode.STORED:
        raw = sections[Section.STORED]
        if len(raw) != header.nbytes:
            raise FormatError(f"Expected {header.nbytes} stored bytes. The frame holds {len(raw)}.")
        return np.frombuffer(raw, native.newbyteorder("<")).reshape(header.shape)[region].astype(header.dtype)
    if header.tables != shipped_id():
        raise UnsupportedFormatError(
            f"The frame was coded with tables {header.tables:08x}; this xwalloc has {shipped_id():08x}. "
            "Install the version of xwalloc that wrote it."
        )
    layout = Layout(header.shape, header.roles)
    if layout.thin:
        raise FormatError("The frame has too many planes of too few samples.")
    shape = layout.canonical
    box = layout.box(region)
    size = tuple(part.stop - part.start for part in box)
    cut, inner = layout.cut(region)
    if not all(size):
        return np.empty([part.stop - part.start for part in region], header.dtype)
    working = np.dtype(np.float32) if native == np.float16 else native
    mask: NDArray[np.uint8] | None = None
    palette: tuple[int, ...] = ()
    if Section.MASK in sections:
        mask, palette = unpack_mask(sections[Section.MASK], shape, native.itemsize)
    nodata = np.empty(0, native)
    if header.nodata is not None:
        value = np.array([header.nodata], np.uint64).astype(f"u{native.itemsize}").view(native)[0]
        nodata = np.array([value, substitute(value)], native)
    positions, values = np.empty(0, np.int64), np.empty(0, np.uint64)
    if Section.EXCEPTIONS in sections:
        positions, values = unpack_exceptions(sections[Section.EXCEPTIONS], header.size, native.itemsize)
    if header.mode == Mode.LATTICE:
        parameters, symbols = sections[Section.LATTICE], sections[Section.LATTICE_SYMBOLS]
        dtype = native if lattice_mode.holds_bits(parameters) else working
        decoded = lattice_mode.decode(parameters, symbols, shape, mask, dtype, early_nodata(nodata), box)
    elif header.mode == Mode.LEARNED:
        decoded = learned_mode.decode(sections, shape, layout.dimensions, mask, nodata, box, models)
    else:
        contents = transform_sections.read(sections, shape, layout.dimensions, models)
        if engine.device() != CPU and resident.can_decode(contents):
            try:
                return on_device(resident.Job.of(contents, layout, region, nodata, mask, palette, positions, values))
            except DeviceMemoryError as error:
                fall_back(error)
        decoded = transform_mode.decode(contents, mask, working, early_nodata(nodata), box)
    samples = np.ascontiguousarray(stored(decoded, nodata))
    bits = bits_of(samples)
    if mask is not None:
        for label, pattern in enumerate(palette, start=1):
            bits[mask[box] == label] = pattern
    if positions.size:
        places = np.array(np.unravel_index(positions, shape))
        first, last = (np.array([getattr(part, edge) for part in box])[:, None] for edge in ("start", "stop"))
        inside = np.all((places >= first) & (places < last), axis=0)
        bits[tuple((places - first)[:, inside])] = values[inside].astype(bits.dtype)
    return np.ascontiguousarray(cut.restore(samples)[inner]).astype(header.dtype, copy=False)
