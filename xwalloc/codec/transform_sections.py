# mypy: disable-error-code="no-untyped-call"
"""Sections of a chunk in transform mode: its model, its symbols and its residuals, written and read."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream import segments
from xwalloc.bitstream.contexts import MAGNITUDES, Kind
from xwalloc.bitstream.frame import Section
from xwalloc.bitstream.planes import Order
from xwalloc.bitstream.tables import Tables
from xwalloc.codec.bound import Finish
from xwalloc.codec.engine import map_parallel
from xwalloc.errors import BudgetError, FormatError, UnsupportedFormatError
from xwalloc.models.model import KEY_BYTES, Model
from xwalloc.models.spec import SIDE_CODE, Grid, LinearModel, pack_vectors, unpack_vectors
from xwalloc.types import Buffer, Region

if TYPE_CHECKING:
    from xwalloc.models.fitted import Fitted
    from xwalloc.models.neural import Network

__all__ = [
    "LINEAR", "NAMED", "REFINED", "ROTATED", "Contents", "Models", "decode_residuals", "encode_latents",
    "encode_residuals", "head", "inverse", "latent_parts", "latent_parts_of", "named_model", "pack_codes",
    "pack_further", "pad", "read", "residual_cuts", "residual_parts", "split_codes",
]  # fmt: skip

Models = Callable[[bytes], Model]
"""Finds the model that a frame names by its key."""

HEAD = struct.Struct("<BBbdIB")
"""Kind of the model; whether samples are integers; fraction bits; unit; step of the residual layer; profile."""

LINEAR, NAMED, REFINED, ROTATED = range(4)
"""Kinds of models: a linear one that the frame holds; one that the frame names; that and its network; one within the
span of that which the frame names."""

LENGTH = struct.Struct("<I")
"""Length of a stream within a section: that of magnitude codes of a residual layer, that of further vectors."""

LATENTS_PER_SEGMENT = 1 << 18
"""Cutting latents costs next to nothing, and there are few of them: smaller segments keep all cores busy."""


def pad(array: NDArray[Any], signal: Sequence[int]) -> NDArray[Any]:
    """The array continued by its last samples."""
    widths = [(0, 0), (0, 0)] + [(0, to - n) for to, n in zip(signal, array.shape[2:], strict=True)]
    return np.pad(array, widths, mode="edge") if any(w for _, w in widths) else array


def inverse(unit: float) -> float:
    """Units per sample, from the value of a unit."""
    return 1.0 / unit if unit > 0 else math.inf


def named_model(section: Buffer) -> str:
    """What section MODEL says of the model: "self-fitted", or the beginning of the id of the one that it names."""
    if section[:1] == bytes([LINEAR]):
        return "self-fitted"
    return f"sha256:{section[HEAD.size : HEAD.size + KEY_BYTES].hex()}"


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What the sections of a chunk in transform mode say.

    Parameters
    ----------
    model
        The chunk's linear model.
    finish
        How products become samples.
    dimensions
        Number of signal axes.
    shape
        (batch, channel, z, y, x), with padding.
    order
        How symbols and residuals are coded.
    codebook
        Frequency tables; None for those that ship.
    residual_codes : (channel,) int
        Magnitude codes of the residual layer; None where there is none.
    network
        What refines the latents; None for the linear decoder.
    latent_streams, residual_streams
        Bytes of the symbols and of the residuals.
    """

    model: LinearModel
    finish: Finish
    dimensions: int
    shape: tuple[int, ...]
    order: Order
    codebook: Tables | None
    residual_codes: NDArray[np.int64] | None
    network: Network | None
    latent_streams: Buffer
    residual_streams: Buffer

    def symbols(self) -> NDArray[np.int32]:
        """Symbols of the latents: (batch, rank, z, y, x).

        Raises
        ------
        FormatError
            If their section is damaged.
        """
        return _decode_latents(self.model, self.latent_streams, self.shape[0], self.order, self.codebook)

    def residuals(self, mask: NDArray[np.uint8] | None, region: Region) -> NDArray[np.int32]:
        """Residuals (batch, channel, z, y, x) of the slabs that a region touches; zeros elsewhere.

        Raises
        ------
        FormatError
            If their section is damaged.
        """
        if self.residual_codes is None:
            return np.zeros(self.shape, np.int32)
        return decode_residuals(
            self.residual_streams,
            self.residual_codes,
            self.shape,
            mask,
            self.dimensions,
            self.order,
            region,
            self.codebook,
        )


def read(sections: Mapping[Section, Buffer], shape: Sequence[int], dimensions: int, models: Models) -> Contents:
    """What the sections say of a chunk of that canonical shape (without padding).

    Raises
    ------
    FormatError, ModelError
        As for `decode`.
    """
    data = sections[Section.MODEL]
    if len(data) < HEAD.size + 3:
        raise FormatError("The model of the frame is cut.")
    kind, integral, fraction, unit, step, order = HEAD.unpack_from(data)
    if kind not in (LINEAR, NAMED, REFINED, ROTATED):
        raise UnsupportedFormatError(
            f"The frame's model is of kind {kind}, which this version of xwalloc does not know: update xwalloc."
        )
    if integral > 1 or order > max(Order) or not 0 < unit < math.inf or abs(fraction) > 60:
        raise FormatError("The model of the frame has impossible units.")
    batch, channels = shape[:2]
    signal = shape[2], shape[3], shape[4]
    finish = Finish(0, fraction if integral else None, unit, step)
    layer = sections.get(Section.RESIDUAL)
    codes: NDArray[np.int64] | None = None
    codebook = network = None
    if kind == LINEAR:
        model = LinearModel.from_bytes(data[HEAD.size :], signal, dimensions, channels, batch)
        if layer is not None:
            codes, layer = split_codes(layer, channels)
    else:
        start = HEAD.size + KEY_BYTES
        fitted = models(bytes(data[HEAD.size : start])).fitted
        if (fitted.channels, fitted.dimensions) != (channels, dimensions):
            raise FormatError(
                f"The model of the frame is for {fitted.channels} channels and {fitted.dimensions} signal axes. "
                f"The frame has {channels} and {dimensions}."
            )
        per_sample = 2.0**fraction if integral else inverse(unit)
        residual = layer is not None
        if kind == ROTATED:
            wide, start = _unpack_further(data, start, fitted)
            own = LinearModel.from_bytes(data[start:], signal, dimensions, wide.rank, batch)
            try:
                model = wide.rotated(own, per_sample)
            except BudgetError as error:
                raise FormatError(f"The model of the frame is impossible: {error}") from None
            if layer is not None:
                codes, layer = _unpack_codes(layer, fitted.residual_codes)
        else:
            if kind == REFINED:
                network = fitted.network
                if network is None:
                    raise FormatError("The frame wants its latents refined by a network. Its model has none.")
            model, found = fitted.unpack(data[start:], signal, per_sample, batch, residual=residual)
            codes = found if residual else None
        codebook = fitted.codebook
        if fitted.scaled:
            if not unit * float(fitted.scales.max()) < math.inf:
                raise FormatError("The model of the frame has impossible units.")
            finish = replace(finish, scales=fitted.scales)
    return Contents(
        model=model, finish=replace(finish, shift=model.shift), dimensions=dimensions,
        shape=(batch, channels, *model.grid.signal), order=Order(order), codebook=codebook,
        residual_codes=codes, network=network, latent_streams=sections[Section.LATENTS], residual_streams=layer or b"",
    )  # fmt: skip


def pack_further(wide: Fitted, rank: int) -> bytes:
    """Vectors of a model beyond the first `rank`."""
    count = wide.rank - rank
    if count == 0:
        return bytes([0])
    stream = pack_vectors(wide.vectors[rank:], wide.precisions[rank:])
    return bytes([count]) + LENGTH.pack(len(stream)) + stream


def _unpack_further(data: Buffer, start: int, fitted: Fitted) -> tuple[Fitted, int]:
    """Inverse of `pack_further`: the model with its further vectors, and where they end.

    Raises
    ------
    FormatError
        If the bytes are no such vectors.
    """
    count = data[start] if start < len(data) else 0
    if count == 0:
        return fitted, start + 1
    first = start + 1 + LENGTH.size
    if len(data) < first or fitted.rank + count > fitted.channels:
        raise FormatError("The model of the frame is cut, or has more vectors than there are channels.")
    end = first + LENGTH.unpack_from(data, start + 1)[0]
    return fitted.widened(*unpack_vectors(data[first:end], count, fitted.channels)), end


def pack_codes(codes: NDArray[np.int64], expected: NDArray[np.int64]) -> bytes:
    """Magnitude codes (channel,) of a residual layer, as differences from those that a model expects."""
    stream = coder.encode((codes - expected).astype(np.int32), _codes_plane(len(codes)), Kind.SIDE, 1)
    return LENGTH.pack(len(stream)) + stream


def _unpack_codes(layer: Buffer, expected: NDArray[np.int64]) -> tuple[NDArray[np.int64], Buffer]:
    """Inverse of `pack_codes`, and what follows.

    Raises
    ------
    FormatError
        If the bytes are no such codes.
    """
    if len(layer) < LENGTH.size:
        raise FormatError("The residual layer of the frame is cut.")
    end = LENGTH.size + LENGTH.unpack_from(layer)[0]
    differences = np.zeros(len(expected), np.int32)
    coder.decode(layer[LENGTH.size : end], differences, _codes_plane(len(expected)), Kind.SIDE, 1)
    codes = expected + differences
    if not 0 <= codes.min() <= codes.max() < len(MAGNITUDES):
        raise FormatError("The residual layer of the frame is damaged.")
    return codes, layer[end:]


def _codes_plane(channels: int) -> NDArray[np.void]:
    plane = coder.planes_of(1)
    plane["nx"], plane["code"] = channels, SIDE_CODE
    return plane


def head(kind: int, finish: Finish, order: Order) -> bytes:
    """First bytes of section MODEL."""
    return HEAD.pack(kind, finish.fraction is not None, finish.fraction or 0, finish.unit, finish.step, order)


def latent_parts(model: LinearModel, batch: int) -> list[NDArray[np.void]]:
    """Planes of the symbols (batch, rank, z, y, x), segment by segment."""
    return latent_parts_of(model.grid, batch, model.codes)


def latent_parts_of(grid: Grid, batch: int, codes: NDArray[np.int64]) -> list[NDArray[np.void]]:
    """Planes, segment by segment, of symbols with magnitude codes (rank, subband)."""
    axis, parts = segments.cuts((batch, len(codes), *grid.signal), 1 << grid.levels, LATENTS_PER_SEGMENT)
    slabs = [(axis, start, stop) for start, stop in parts]
    return [grid.planes(batch, codes, slab, last=slab is slabs[-1]) for slab in slabs]


def encode_latents(model: LinearModel, symbols: NDArray[np.int32], order: Order, codebook: Tables | None) -> bytes:
    """Section LATENTS of symbols (batch, rank, z, y, x)."""
    parts = latent_parts(model, symbols.shape[0])
    buffer = symbols.reshape(-1)
    return coder.encode_segments(
        buffer, parts, order.latents, model.grid.dimensions, coder.NO_MASK, map_parallel, order, codebook
    )


def _decode_latents(
    model: LinearModel, data: Buffer, batch: int, order: Order, codebook: Tables | None
) -> NDArray[np.int32]:
    parts = latent_parts(model, batch)
    symbols = np.zeros((batch, model.rank, *model.grid.signal), np.int32)
    buffer = symbols.reshape(-1)
    coder.decode_segments(
        data, buffer, parts, order.latents, model.grid.dimensions, coder.NO_MASK, map_parallel, None, order, codebook
    )
    return symbols


def residual_cuts(shape: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
    """Signal axis along which residuals (batch, channel, z, y, x) are cut, and the slabs."""
    return segments.cuts(shape, coder.GROUP)


def residual_parts(shape: Sequence[int], codes: NDArray[np.int64]) -> tuple[int, list[tuple[int, int]], list[Any]]:
    """Planes of residuals (batch, channel, z, y, x), segment by segment: axis that is cut, slabs, planes."""
    axis, parts = residual_cuts(shape)
    return axis, parts, [_residual_planes(shape, codes, axis, *part) for part in parts]


def _residual_planes(
    shape: Sequence[int], codes: NDArray[np.int64], axis: int, start: int, stop: int
) -> NDArray[np.void]:
    """Planes of the residual layer in a slab: one per batch item and channel."""
    batch, channels, z, y, x = shape
    planes = coder.planes_of(batch * channels)
    strides = (y * x, x, 1)
    size = [z, y, x]
    size[axis] = stop - start
    planes["base"] = np.arange(batch * channels) * (z * y * x) + start * strides[axis]
    planes["nz"], planes["ny"], planes["nx"] = size
    planes["sz"], planes["sy"] = y * x, x
    planes["code"] = np.tile(codes, batch)
    inner = np.arange(batch * channels) % channels > 0
    inner[1:] &= planes["code"][:-1] > 0
    planes["previous"][1:] = np.where(inner[1:], planes["base"][:-1], coder.NO_PLANE)
    planes["previous_code"][1:] = planes["code"][:-1]
    return planes


def encode_residuals(
    residuals: NDArray[np.int32],
    codes: NDArray[np.int64],
    mask: NDArray[np.uint8] | None,
    dimensions: int,
    order: Order,
    codebook: Tables | None,
) -> bytes:
    """Streams of the residual layer, whose channels have these magnitude codes."""
    _, _, slabs = residual_parts(residuals.shape, codes)
    buffer = residuals.reshape(-1)
    holes = coder.NO_MASK if mask is None else mask.reshape(-1)
    return coder.encode_segments(buffer, slabs, order.residuals, dimensions, holes, map_parallel, order, codebook)


def decode_residuals(
    data: Buffer,
    codes: NDArray[np.int64],
    shape: Sequence[int],
    mask: NDArray[np.uint8] | None,
    dimensions: int,
    order: Order,
    region: Region,
    codebook: Tables | None,
) -> NDArray[np.int32]:
    """Residuals (batch, channel, z, y, x) of the slabs that a region touches, zeros elsewhere, from their streams.

    Raises
    ------
    FormatError
        If these are damaged.
    """
    axis, parts, slabs = residual_parts(shape, codes)
    residuals = np.zeros(tuple(shape), np.int32)
    buffer = residuals.reshape(-1)
    holes = coder.NO_MASK if mask is None else mask.reshape(-1)
    wanted = segments.touching(parts, region[2 + axis])
    coder.decode_segments(
        data, buffer, slabs, order.residuals, dimensions, holes, map_parallel, wanted, order, codebook
    )
    return residuals


def split_codes(layer: Buffer, channels: int) -> tuple[NDArray[np.int64], Buffer]:
    """Magnitude codes (channel,) at the beginning of section RESIDUAL, and what follows.

    Raises
    ------
    FormatError
        If they are no such codes.
    """
    codes, rest = np.frombuffer(layer[:channels], "u1").astype(np.int64), layer[channels:]
    if len(codes) != channels or codes.max(initial=0) >= len(MAGNITUDES):
        raise FormatError("The residual layer of the frame is damaged.")
    return codes, rest
