# mypy: disable-error-code="no-untyped-call"
"""One chunk: array <-> frame.

`ChunkCodec.encode` looks at the chunk, keeps special samples apart, tries the modes that can win, proves the bound on
what the decoder will return, and takes the smallest frame; a chunk that nothing makes smaller is stored as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xwalloc.bitstream.frame import AxisRole, DecodeLimits, Frame, Header, Mode, Quality, Section, is_big_endian
from xwalloc.bitstream.planes import Order
from xwalloc.bitstream.tables import shipped_id
from xwalloc.codec import engine, examine, lattice_mode, learned_mode, resident, transform_mode
from xwalloc.codec.bound import substitute
from xwalloc.codec.candidates import (
    Candidate,
    Chunk,
    draft_of,
    exact_draft,
    exactly,
    in_lattice_mode,
    lossless,
    promising,
    search,
    smaller,
)  # fmt: skip
from xwalloc.codec.config import CodecConfig
from xwalloc.codec.decode import decode_frame
from xwalloc.codec.devices import CPU, DeviceMemoryError, fall_back
from xwalloc.codec.engine import blas_in_one_thread
from xwalloc.codec.examine import Examine
from xwalloc.codec.layout import (
    Layout,
    Special,
    bits_of,
    fill_holes,
    pack_exceptions,
    pack_mask,
    separate,
)
from xwalloc.codec.resident.arrays import DeviceArray, on_host
from xwalloc.codec.survey import survey
from xwalloc.codec.transform_mode import Target
from xwalloc.errors import ConfigError
from xwalloc.models import library
from xwalloc.models.model import PUBLISHED, Model
from xwalloc.models.spec import Grid, padded
from xwalloc.transform.tree import fitting_levels
from xwalloc.types import cached_property

__all__ = ["ChunkCodec", "decode_frame"]

MAX_CHANNELS = 1024
"""Chunks with more channels are coded in lattice mode: the spectral basis costs time with their cube."""

MANY_CHANNELS = 16
"""From so many channels on, transform mode is tried first, else lattice mode."""

CLEAR, LOOSE = 1.0, 1.0
"""Bits per sample below which transform mode wins with many channels; and above which it loses with few."""

NEARLY = 0.95
"""Lattice mode is not tried where it is estimated to take more than so many times the bits of transform mode."""

LARGEST_BOUND = 2**30
LARGEST_REAL_BOUND = 2.0**1020
"""Larger bounds are taken for these: a step stays below 2^32, or finite."""

MAX_CHUNK_BYTES = 2**32 - 2**20
"""A frame states its length in 32 bits."""

NOTHING_SPECIAL = Special(None, (), np.empty(0, np.int64), np.empty(0, np.uint64))


class ChunkCodec:
    """Encode and decode chunks with one configuration. Thread-safe; the GIL is released while computing.

    Parameters
    ----------
    config
        The codec's configuration.

    Examples
    --------
    >>> codec = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), max_error=0.5))
    >>> chunk = np.arange(48, dtype="f4").reshape(3, 4, 4)
    >>> bool(np.all(np.abs(codec.decode(codec.encode(chunk)) - chunk) <= 0.5))
    True
    """

    def __init__(self, config: CodecConfig) -> None:
        self.config = config

    @cached_property
    def model(self) -> Model | None:
        """The model of the configuration, found.

        Raises
        ------
        ModelError
            If it is not to be found.
        """
        return None if self.config.model is None else library.resolve(self.config.model)

    @cached_property
    def network(self) -> Model | None:
        """The model if it is a published one."""
        return self.model if self.model is not None and self.model.kind == PUBLISHED else None

    @cached_property
    def shared(self) -> Model | None:
        """The model if it is a linear one."""
        return self.model if self.network is None else None

    def encode(self, array: ArrayLike | DeviceArray) -> bytes:
        """Encode a chunk.

        Parameters
        ----------
        array
            Any memory order and byte order; it is left alone. What lies on the device that chunks are computed on comes
            to the host only where something is special about it, or where a mode of the host may be better.

        Raises
        ------
        ConfigError
            If the chunk does not fit the configuration.
        """
        return self.encode_and_measure(array)[0]

    def encode_and_measure(self, array: ArrayLike | DeviceArray) -> tuple[bytes, float | None]:
        """`encode`, with the largest error that the decoder will make; None where no bound is asked for.

        The error is that of finite valid samples, rounded to float64. For float networks, whose values agree within a
        tolerance only, it is the largest that any decoder will make.
        """
        given = array if isinstance(array, DeviceArray) else np.asarray(array)
        self.config.check(given.shape, given.dtype)
        if self.model is not None:
            self.config.check_model(self.model, given.shape)
        if given.nbytes > MAX_CHUNK_BYTES:
            raise ConfigError(
                f"Expected chunks of at most {MAX_CHUNK_BYTES} bytes. Got {given.nbytes}. Choose smaller chunks: "
                "4 to 16 MiB suit most uses."
            )
        header = self._header(given)
        layout = Layout(header.shape, header.roles)
        if given.size and not layout.thin:
            with blas_in_one_thread():
                chunk = self._look_there(given, layout) or self.look(layout.arrange(on_host(given)))
                candidate = self._best(chunk, layout)
            if candidate is not None:
                frame = _frame(header, chunk, candidate)
                if len(frame) < given.nbytes:
                    bounded = self.config.max_error is not None or self.config.lossless
                    return frame, candidate.figure if bounded else None
        native = np.ascontiguousarray(on_host(given), given.dtype.newbyteorder("<"))
        header = _with_mode(header, Mode.STORED)
        return Frame(header=header, sections={Section.STORED: native.tobytes()}).to_bytes(), 0.0

    def decode(
        self,
        frame: bytes,
        *,
        out: NDArray[np.generic] | None = None,
        shape: Sequence[int] | None = None,
        dtype: np.dtype | None = None,
        limits: DecodeLimits | None = None,
        region: Sequence[slice] | None = None,
    ) -> NDArray[np.generic]:
        """`decode_frame`: the configuration is not needed, a frame says all."""
        return decode_frame(
            frame, out=out, shape=shape, dtype=dtype, limits=limits, region=region, model=self.config.model
        )

    def _header(self, array: NDArray[np.generic] | DeviceArray) -> Header:
        config = self.config
        roles = [AxisRole.BATCH] * array.ndim
        for axis in config.signal_axes:
            roles[axis] = AxisRole.SIGNAL
        if config.channel_axis is not None:
            roles[config.channel_axis] = AxisRole.CHANNEL
        quality, value = Quality.LOSSLESS, 0.0
        if config.max_error is not None:
            quality, value = Quality.MAX_ERROR, config.max_error
        elif config.snr is not None:
            quality, value = Quality.SNR, config.snr
        elif config.step is not None:
            quality, value = Quality.STEP, config.step
        nodata = config.nodata_as(array.dtype.newbyteorder("="))
        return Header(
            mode=Mode.STORED,
            dtype=array.dtype if is_big_endian(array.dtype) else array.dtype.newbyteorder("="),
            shape=array.shape,
            roles=tuple(roles),
            quality=quality,
            value=float(value),
            nodata=None if nodata is None else int(bits_of(np.array([nodata]))[0]),
        )

    def _look_there(self, given: NDArray[np.generic] | DeviceArray, layout: Layout) -> Chunk | None:
        """A chunk that stays on the device; None where it does not lie there, or where the host is to have it."""
        config = self.config
        if not isinstance(given, DeviceArray) or config.lossless or self.network is not None:
            return None
        if engine.device() == CPU or not resident.can_encode(layout.canonical, Order.of(config.profile), given.dtype):
            return None
        nodata = self._nodata(given.dtype)
        try:
            canonical = given.arranged(layout.order, layout.canonical)
            found = resident.survey(canonical, nodata[:1], outliers=True)
        except DeviceMemoryError as error:
            fall_back(error)
            return None
        return None if found is None else Chunk(canonical, canonical, found, NOTHING_SPECIAL, nodata)

    def _nodata(self, dtype: np.dtype) -> NDArray[np.generic]:
        """Nodata and its substitute in the type of samples; nothing where there is none."""
        value = self.config.nodata_as(dtype)
        return np.empty(0, dtype) if value is None else np.array([value, substitute(value)], dtype)

    def look(self, canonical: NDArray[np.generic]) -> Chunk:
        """Find special samples and fill their holes; takes samples (batch, channel, z, y, x)."""
        samples = canonical.astype(np.float32) if canonical.dtype == np.float16 else canonical
        nodata = self._nodata(canonical.dtype)
        look = survey(samples, nodata[:1].astype(samples.dtype), outliers=not self.config.lossless)
        if look.special is None:
            return Chunk(samples, canonical, look, NOTHING_SPECIAL, nodata)
        special = separate(canonical, look.special)
        return Chunk(fill_holes(samples, look.special), canonical, look, special, nodata)

    def _best(self, chunk: Chunk, layout: Layout) -> Candidate | None:
        """The smallest way to code a chunk that keeps the promise; None where nothing beats the raw samples."""
        config = self.config
        if config.max_error is not None and not _is_exact(chunk, config.max_error * self._scales().max()):
            return self._bounded(chunk, layout, config.max_error)
        if config.step is not None and chunk.look.valid:
            # The step of a published model is that of its latents: there is no other layer.
            target = Target(integral=False, step=0.0, quantum=config.step if self.network is None else 0.0)
            return self._transform(chunk, layout, target, examine.nothing) or lossless(chunk, config.profile)
        if config.snr is not None and chunk.look.valid:
            return self._at_snr(chunk, layout, config.snr)
        return lossless(chunk, config.profile)

    def _scales(self) -> NDArray[np.float64]:
        """Bounds of the channels, by `max_error`."""
        return np.ones(1) if self.shared is None else self.shared.fitted.scales

    def _grid(self, layout: Layout) -> Grid:
        """The wavelet transform over a chunk."""
        config = self.config
        if self.shared is not None:
            z, y, x = layout.canonical[2:]
            return self.shared.fitted.grid((z, y, x))
        levels = fitting_levels(layout.canonical[2:], config.levels, config.tree)
        return Grid(
            signal=padded(layout.canonical[2:], levels, config.tree, config.boundary),
            dimensions=layout.dimensions,
            levels=levels,
            tree=config.tree,
            boundary=config.boundary,
            wavelet=config.wavelet,
        )

    def _transform(self, chunk: Chunk, layout: Layout, target: Target, look: Examine) -> Candidate | None:
        config, shared = self.config, self.shared
        many = chunk.there.shape[1] > MAX_CHANNELS
        if self.network is not None:
            draft = self._draft(chunk, layout)
            learned = None if draft is None else _learned(draft, target, look)
            if not target.step:
                return learned
        elif many and shared is None:
            return None
        grid = self._grid(layout)
        edges = chunk.look.low, chunk.look.high

        def code(model: Model | None, rotated: bool = False) -> Candidate | None:
            coded = transform_mode.encode(
                chunk.there, edges, chunk.mask, target, grid, config.profile, chunk.early_nodata, look, model, rotated
            )
            return None if coded is None else Candidate(Mode.TRANSFORM, coded.sections, coded.missed, coded.figure)

        if self.network is not None:
            return learned if many else smaller(learned, code(None))
        found = code(shared)
        if shared is None or not target.step or shared.fitted.scaled or many:
            return found
        # A model may know nothing of what this chunk shows. Without a bound, latents stay comparable instead.
        return smaller(smaller(found, code(shared, rotated=True)), code(None))

    def _draft(self, chunk: Chunk, layout: Layout) -> learned_mode.Draft | None:
        """The chunk seen by a published model; None where it does not suit that."""
        if self.network is None:
            return None
        edges, dtype = (chunk.look.low, chunk.look.high), chunk.given.dtype
        return learned_mode.draft(
            chunk.samples, dtype, edges, chunk.mask, chunk.nodata, layout.dimensions, self.config.profile, self.network
        )

    def _bounded(self, chunk: Chunk, layout: Layout, limit: float) -> Candidate | None:
        config = self.config
        largest = max(abs(chunk.look.low), abs(chunk.look.high))
        if chunk.look.integral:
            grid = lattice_mode.for_integers(min(limit, LARGEST_BOUND), chunk.span)
            target = Target(
                integral=True, step=grid.step, quantum=0.0, bound=limit if self._scales().max() > 1 else 1.0
            )
        else:
            # Room for the rounding of the last multiply and cast: what is left over would be exceptions.
            edge = np.array(largest, chunk.given.dtype)
            inner = min(limit, largest, LARGEST_REAL_BOUND) - 0.5 * float(edge - np.nextafter(edge, edge.dtype.type(0)))
            if not inner > 0 or (inner <= limit * 0.125 and limit < largest):
                return lossless(chunk, config.profile)
            grid = lattice_mode.for_reals(2 * inner * (1 - 2.0**-40), largest)
            target = Target(integral=False, step=grid.step, quantum=0.0)
        look = examine.misses(limit, chunk.nodata)
        look_at_channels = examine.misses(limit * self._scales(), chunk.nodata)
        size = chunk.there.size
        if chunk.there.shape[1] < MANY_CHANNELS:
            coded = in_lattice_mode(chunk, draft_of(chunk, grid, config.profile), look)
            if coded is not None and 8 * coded.nbytes > LOOSE * size and self._scales().max() == 1:
                return coded
            transformed = self._transform(chunk, layout, target, look_at_channels)
            return smaller(coded, transformed) or lossless(chunk, config.profile)
        transformed = self._transform(chunk, layout, target, look_at_channels)
        if transformed is not None and 8 * transformed.nbytes < CLEAR * size:
            return transformed
        draft = draft_of(chunk, grid, config.profile)
        if transformed is not None and draft is not None and draft.bits > NEARLY * 8 * transformed.nbytes:
            return transformed
        return smaller(transformed, in_lattice_mode(chunk, draft, look)) or lossless(chunk, config.profile)

    def _at_snr(self, chunk: Chunk, layout: Layout, snr: float) -> Candidate | None:
        """The coarsest step that reaches a signal-to-noise ratio, in whichever mode it takes fewer bytes."""
        config = self.config
        largest = max(abs(chunk.look.low), abs(chunk.look.high))
        scale = largest or 1.0
        values = chunk.samples if chunk.look.special is None else chunk.samples[~chunk.look.special]
        allowed = float(np.var(values.astype(np.float64) / scale)) / 10 ** (snr / 10)
        if not allowed > 0:
            return lossless(chunk, config.profile)
        look = examine.squares(scale, chunk.nodata)
        step = scale * math.sqrt(12 * allowed)
        seen = self._draft(chunk, layout)

        def code(step: float) -> Candidate | None:
            target = Target(integral=False, step=0.0, quantum=step)
            if self.network is None:
                return self._transform(chunk, layout, target, look)
            return None if seen is None else _learned(seen, target, look)

        best = None if seen is None else code(0.0)  # a published model may be good enough by itself
        if best is None or best.figure > allowed * values.size:
            best = search(code, values.size, step, allowed)
        clear = best is not None and 8 * best.nbytes < CLEAR * chunk.there.size
        if not clear or chunk.there.shape[1] < MANY_CHANNELS:
            found = search(
                lambda step: in_lattice_mode(
                    chunk,
                    promising(draft_of(chunk, lattice_mode.for_reals(step, largest), config.profile), best),
                    look,
                ),
                values.size, step, allowed,
            )  # fmt: skip
            best = smaller(best, found)
        exact = promising(exact_draft(chunk, config.profile), best)
        return smaller(best, exactly(exact))


def _learned(draft: learned_mode.Draft, target: Target, look: Examine) -> Candidate | None:
    """The candidate that a published model makes of a chunk; None where its tolerance is too coarse for the bound."""
    coded = draft.encode(target, look)
    return None if coded is None else Candidate(Mode.LEARNED, coded.sections, coded.missed, coded.figure)


def _is_exact(chunk: Chunk, limit: float) -> bool:
    """Whether a bound leaves no room: nothing valid, or integers and a bound below 1."""
    if not chunk.look.valid:
        return True
    return chunk.given.dtype.kind in "iu" and limit < 1


def _with_mode(header: Header, mode: Mode) -> Header:
    return replace(header, mode=mode, tables=0 if mode == Mode.STORED else shipped_id())


def _frame(header: Header, chunk: Chunk, candidate: Candidate) -> bytes:
    """Bytes of a candidate, with exceptions for every sample that would miss the bound."""
    special = chunk.special
    sections = dict(candidate.sections)
    positions, bits = special.positions, special.bits
    if candidate.missed is not None and header.quality == Quality.MAX_ERROR:
        missed = np.flatnonzero(candidate.missed)
        if chunk.look.special is not None:
            missed = missed[~chunk.look.special.reshape(-1)[missed]]
        if missed.size:
            positions = np.concatenate([positions, missed])
            bits = np.concatenate([bits, bits_of(chunk.original).reshape(-1)[missed].astype(np.uint64)])
            order = np.argsort(positions, kind="stable")
            positions, bits = positions[order], bits[order]
    if special.labels is not None:
        sections[Section.MASK] = pack_mask(special.labels, special.palette)
    if positions.size:
        sections[Section.EXCEPTIONS] = pack_exceptions(positions, bits, header.dtype.itemsize)
    return Frame(header=_with_mode(header, candidate.mode), sections=sections).to_bytes()
