"""Chunks and configurations that a codec meets in the wild, and some that it should never meet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from xwalloc.bitstream.frame import DTYPES
from xwalloc.codec.config import Boundary, CodecConfig, Profile, Tree

__all__ = ["CHUNK_KINDS", "AxisLayout", "Case", "Chunk", "cases", "chunks", "configurations", "dtypes", "layouts"]

MOST_SAMPLES = 4096
KINDS = ("walk", "walk", "ramp", "noise", "constant", "bits", "outliers", "steps", "tiny", "ramp")
WAVELETS = ("bior4.4", "bior2.2", "bior4.4", "haar", "db3")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A chunk and the configuration that it is encoded with."""

    array: NDArray[Any]
    config: CodecConfig

    def __repr__(self) -> str:
        return f"<{self.array.dtype.str} {self.array.shape} {self.config}>"


@st.composite
def cases(draw: st.DrawFn, *, quality: str | None = None, most_samples: int = MOST_SAMPLES) -> Case:
    """Chunks of every dtype, byte order, rank from 1 to 4, axis role and size from 0, with every quality target.

    Parameters
    ----------
    quality
        One of "max_error", "snr", "step" and "lossless"; None: any of them.
    most_samples
        Size of the largest chunks.
    """
    dtype = draw(st.sampled_from(DTYPES)).newbyteorder(draw(st.sampled_from("<>")))
    shape = draw(shapes(most_samples))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    array = values(rng, draw(st.sampled_from(KINDS)), shape, dtype, draw(st.integers(-3, 6)))
    nodata = None
    if array.size and draw(st.booleans()):
        nodata = sprinkle(rng, array, special_fraction=draw(st.sampled_from([0.0, 0.01, 0.3, 1.0])))
    axes = draw(st.permutations(range(array.ndim)))
    signal = draw(st.integers(1, min(3, array.ndim)))
    channel = axes[signal] if array.ndim > signal and draw(st.booleans()) else None
    boundary: Boundary = draw(st.sampled_from(get_args(Boundary)))
    config = CodecConfig(
        channel_axis=channel,
        signal_axes=tuple(axes[:signal]),
        nodata=nodata,
        levels=draw(st.integers(0, 8)),
        tree=draw(st.sampled_from(get_args(Tree))),
        boundary=boundary,
        wavelet=draw(st.sampled_from(WAVELETS)) if boundary == "periodization" else "bior4.4",
        **draw(targets(array, quality)),
    )
    return Case(array=array, config=config)


@st.composite
def shapes(draw: st.DrawFn, most_samples: int) -> tuple[int, ...]:
    """Shapes of rank 1 to 4 with at most so many samples; sides of 0 and 1 are frequent enough to matter."""
    rank = draw(st.integers(1, 4))
    room = draw(st.sampled_from([most_samples, most_samples, most_samples // 8, 64]))
    sides: list[int] = []
    for axis in range(rank):
        even = max(1, round(room ** (1 / (rank - axis))))
        side = draw(st.one_of(st.integers(even // 2 + 1, min(room, 3 * even)), st.integers(1, min(room, 5))))
        sides.append(side)
        room = max(1, room // side)
    if draw(st.integers(0, 40)) == 0:
        sides[draw(st.integers(0, len(sides) - 1))] = 0
    return tuple(sides)


def targets(array: NDArray[Any], quality: str | None) -> st.SearchStrategy[dict[str, Any]]:
    """Quality targets in proportion to the range of a chunk, from hopelessly tight to coarser than it."""
    finite = array[np.isfinite(array)].astype("f8")
    extent = min(4 * float(np.ptp(finite / 4)), 1e308) if finite.size else 1.0
    extent = extent or 1.0
    bound = st.floats(-7, 0.7).map(lambda power: max(extent * 10**power, 5e-324))
    options: dict[str, st.SearchStrategy[dict[str, Any]]] = {
        "max_error": st.one_of(bound, bound, st.sampled_from([0.5, 1.0, 3.0])).map(
            lambda e: {"max_error": min(e, 1e308)}
        ),
        "snr": st.floats(5, 120).map(lambda snr: {"snr": snr}),
        "step": bound.map(lambda step: {"step": min(step, 1e308)}),
        "lossless": st.just({"lossless": True}),
    }
    if quality is not None:
        return options[quality]
    return st.one_of(options["max_error"], options["max_error"], options["snr"], options["step"], options["lossless"])


def values(
    rng: np.random.Generator, kind: str, shape: tuple[int, ...], dtype: np.dtype[Any], power: int
) -> NDArray[Any]:
    """A chunk of one kind, with magnitudes of about 10^power."""
    size = math.prod(shape)
    if kind == "bits":
        return np.frombuffer(rng.bytes(size * dtype.itemsize), dtype).reshape(shape).copy()
    data = rng.normal(size=shape)
    if kind == "walk":
        for axis in range(len(shape)):
            data = np.cumsum(data, axis=axis)
    elif kind == "constant":
        data = np.full(shape, data.flat[0] if size else 0.0)
    elif kind == "outliers":
        data = np.where(rng.random(shape) < 0.02, data * 1e6, data)
    elif kind == "steps":
        data = np.round(data)
    elif kind == "ramp":
        data = np.linspace(-1, 1, size).reshape(shape)
    scale = 10.0**power if kind != "tiny" or dtype.kind != "f" else float(np.finfo(dtype).smallest_subnormal) * 8
    data = data * scale
    if dtype.kind != "f":
        info = np.iinfo(dtype)
        return np.clip(np.round(data), info.min, info.max).astype(dtype)
    limit = float(np.finfo(dtype).max)
    return np.clip(data, -limit, limit).astype(dtype)


def sprinkle(rng: np.random.Generator, array: NDArray[Any], *, special_fraction: float) -> float | int | None:
    """Put nodata into a chunk (in blocks and singly), and NaN of any payload and infinities into floats."""
    where = rng.random(array.shape) < special_fraction
    where[tuple(slice(0, n // 3) for n in array.shape)] |= special_fraction > 0
    if array.dtype.kind != "f":
        fill = int(rng.choice([np.iinfo(array.dtype).min, np.iinfo(array.dtype).max, int(array.flat[0])]))
        array[where] = fill
        return fill
    unsigned = np.dtype(f"u{array.dtype.itemsize}").newbyteorder(array.dtype.byteorder)
    payloads = rng.integers(1, 2 ** min(8, np.finfo(array.dtype).nmant), array.shape)
    bits = np.array(np.inf, array.dtype).view(unsigned).astype("u8") | payloads.astype("u8")
    sign = rng.integers(0, 2, array.shape).astype("u8") << np.uint64(8 * array.dtype.itemsize - 1)
    nans = (bits | sign).astype(unsigned).view(array.dtype)
    kinds = rng.integers(0, 4, array.shape)
    nodata = [-9999.0, 0.0, float(np.finfo(array.dtype).max)][int(rng.integers(0, 3))]
    array[where & (kinds == 0)] = nans[where & (kinds == 0)]
    array[where & (kinds == 1)] = np.inf
    array[where & (kinds == 2)] = -np.inf
    array[where & (kinds == 3)] = -0.0 if nodata == 0 and rng.random() < 0.5 else nodata
    return nodata


@dataclass(frozen=True, kw_only=True)
class AxisLayout:
    """A shape and what its axes are to the codec.

    Parameters
    ----------
    shape
        Shape of the chunk as stored.
    channel_axis, signal_axes
        As in the configuration of the codec; the other axes are batch axes.
    """

    shape: tuple[int, ...]
    channel_axis: int | None
    signal_axes: tuple[int, ...]

    @property
    def axes(self) -> dict[str, Any]:
        """The axis keys of a configuration."""
        return {"channel_axis": self.channel_axis, "signal_axes": self.signal_axes}


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A chunk as a store would hand it over, and what its axes mean.

    Parameters
    ----------
    array
        Samples, in any memory order and either byte order, perhaps read-only.
    layout
        Shape and axis roles.
    nodata
        Value that stands for missing data in `array`, or None.
    kind
        What the samples look like: one of `CHUNK_KINDS`.
    """

    array: NDArray[Any]
    layout: AxisLayout
    nodata: float | int | None
    kind: str

    def __repr__(self) -> str:
        a = self.array
        flags = "".join(c for c, on in (("C", a.flags.c_contiguous), ("F", a.flags.f_contiguous)) if on) or "strided"
        return f"<{self.kind} {a.dtype.str} {a.shape} {flags} {self.layout.axes} nodata={self.nodata!r}>"


def dtypes() -> st.SearchStrategy[np.dtype[Any]]:
    """Every sample type that the codec accepts, in either byte order.

    Returns
    -------
    SearchStrategy of numpy.dtype
    """
    return st.builds(lambda dtype, order: dtype.newbyteorder(order), st.sampled_from(DTYPES), st.sampled_from("<>"))


@st.composite
def layouts(draw: st.DrawFn, *, most_samples: int = MOST_SAMPLES) -> AxisLayout:
    """Shapes of rank 1 to 4 with 1 to 3 signal axes, at most one channel axis, and batch axes, in any order.

    Parameters
    ----------
    most_samples
        Size of the largest chunks. Sides of 1 are frequent, sides of 0 rare.

    Returns
    -------
    SearchStrategy of AxisLayout
    """
    shape = draw(shapes(most_samples))
    axes = draw(st.permutations(range(len(shape))))
    signal = draw(st.integers(1, min(3, len(shape))))
    channel = axes[signal] if len(shape) > signal and draw(st.booleans()) else None
    return AxisLayout(shape=shape, channel_axis=channel, signal_axes=tuple(sorted(axes[:signal])))


@st.composite
def chunks(
    draw: st.DrawFn,
    *,
    dtype: st.SearchStrategy[np.dtype[Any]] | None = None,
    layout: st.SearchStrategy[AxisLayout] | None = None,
    kind: st.SearchStrategy[str] | None = None,
    specials: bool = True,
) -> Chunk:
    """Chunks as they are met in the wild, and some that should never be.

    Parameters
    ----------
    dtype, layout, kind
        Strategies to narrow down what is drawn; by default `dtypes()`, `layouts()` and any of `CHUNK_KINDS`.
    specials
        Whether NaN of any payload, infinities, negative zeros and nodata may occur.

    Returns
    -------
    SearchStrategy of Chunk
    """
    kind_drawn = draw(st.sampled_from(CHUNK_KINDS) if kind is None else kind)
    type_drawn = draw(dtypes() if dtype is None else dtype)
    axes = draw(layouts() if layout is None else layout)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    array = _samples(rng, kind_drawn, axes.shape, type_drawn)
    nodata = None
    if specials and array.size:
        nodata = _scatter_specials(rng, array, draw(st.sampled_from(SPECIAL_PATTERNS)))
    array = _laid_out(array, draw(st.sampled_from(MEMORY_ORDERS)))
    array.flags.writeable = draw(st.booleans())
    return Chunk(array=array, layout=axes, nodata=nodata, kind=kind_drawn)


@st.composite
def configurations(draw: st.DrawFn, chunk: Chunk, *, quality: str | None = None) -> CodecConfig:
    """Configurations that fit a chunk.

    Parameters
    ----------
    chunk
        What is to be encoded. Its nodata value is declared, unless that is left out on purpose now and then.
    quality
        One of "max_error", "snr", "step" and "lossless"; None: any of them.

    Returns
    -------
    SearchStrategy of CodecConfig
    """
    boundary: Boundary = draw(st.sampled_from(get_args(Boundary)))
    return CodecConfig(
        **chunk.layout.axes,
        nodata=chunk.nodata if draw(st.integers(0, 3)) else None,
        levels=draw(st.integers(0, 8)),
        tree=draw(st.sampled_from(get_args(Tree))),
        boundary=boundary,
        wavelet=draw(st.sampled_from(WAVELETS)) if boundary == "periodization" else "bior4.4",
        profile=draw(st.sampled_from(get_args(Profile))),
        **draw(targets(chunk.array, quality)),
    )


CHUNK_KINDS = (
    "smooth",
    "noisy",
    "constant",
    "spiky",
    "integers",
    "huge",
    "tiny",
    "denormal",
    "wide",
    "plateaus",
    "bits",
)
"""What the samples of a chunk look like; see `_samples`."""

SPECIAL_PATTERNS = ("none", "none", "single", "scattered", "block", "padding", "everything")
MEMORY_ORDERS = ("C", "C", "F", "reversed", "strided", "unaligned")


def _samples(rng: np.random.Generator, kind: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A new C-contiguous array of one kind."""
    size = math.prod(shape)
    if kind == "bits":
        return np.frombuffer(rng.bytes(size * dtype.itemsize), dtype).reshape(shape).copy()
    whole = dtype.kind != "f"
    largest = float(np.iinfo(dtype).max if whole else np.finfo(dtype).max)
    noise = rng.normal(size=shape)
    walk = noise
    for axis in range(len(shape)):
        walk = np.cumsum(walk, axis=axis)
    span = float(np.abs(walk).max(initial=0.0)) or 1.0
    modest = 0.4 * min(largest, 10.0 ** rng.integers(0, 6))
    if kind == "smooth":
        data = walk / span * modest
    elif kind == "noisy":
        data = noise * modest / 8
    elif kind == "constant":
        data = np.full(shape, modest * rng.uniform(-1, 1))
    elif kind == "spiky":
        data = np.where(rng.random(shape) < 0.01, noise * (largest / 16), walk / span * modest)
    elif kind == "integers":
        data = np.rint(walk / span * min(modest, 4000.0))
    elif kind == "huge":
        data = walk / span * largest * rng.choice([0.3, 0.999, 1.0])
    elif kind == "wide":
        data = noise * 2.0 ** (rng.uniform(-0.9, 0.9, shape) * math.log2(largest))
    elif kind == "plateaus":
        data = np.rint(walk / span * 3) * modest / 8
    elif whole:
        data = np.rint(noise)
    elif kind == "tiny":
        data = walk / span * float(np.finfo(dtype).smallest_normal) * 64
    else:
        data = np.rint(noise * 20) * float(np.finfo(dtype).smallest_subnormal)
    if not whole:
        return np.clip(data, -largest, largest).astype(dtype)
    info = np.iinfo(dtype)
    if info.min == 0 and kind != "constant":
        data = data + min(modest, largest / 2)
    return np.clip(np.rint(data), info.min, info.max).astype(dtype)


def _special_places(rng: np.random.Generator, shape: tuple[int, ...], pattern: str) -> NDArray[np.bool_]:
    """Where special values go."""
    where = np.zeros(shape, np.bool_)
    if pattern == "everything":
        where[...] = True
    elif pattern == "single":
        where.flat[rng.integers(where.size)] = True
    elif pattern == "scattered":
        where |= rng.random(shape) < rng.choice([0.01, 0.2, 0.7])
    elif pattern == "block":
        corner = [int(rng.integers(0, n)) for n in shape]
        where[tuple(slice(c, c + max(1, n // 2)) for c, n in zip(corner, shape, strict=True))] = True
    elif pattern == "padding":
        axis = int(rng.integers(len(shape)))
        where[(slice(None),) * axis + (slice(int(rng.integers(0, shape[axis])), None),)] = True
    return where


def _scatter_specials(rng: np.random.Generator, array: NDArray[Any], pattern: str) -> float | int | None:
    """Write special values into an array; returns the nodata value among them, if there is one."""
    where = _special_places(rng, array.shape, pattern)
    if array.dtype.kind != "f":
        if pattern == "none":
            return None
        info = np.iinfo(array.dtype)
        fill = int(rng.choice([info.min, info.max, 0, int(array.flat[rng.integers(array.size)])]))
        array[where] = fill
        return fill
    finite = array[np.isfinite(array)]
    typical = float(finite[rng.integers(finite.size)]) if finite.size else 1.0
    nodata = float(rng.choice([-9999.0, 0.0, float(np.finfo(array.dtype).max), typical]))
    unsigned = np.dtype(f"u{array.dtype.itemsize}").newbyteorder(array.dtype.byteorder)
    quiet = rng.random() < 0.5  # one NaN as software writes it, or any payload and sign
    payload = rng.integers(1, 1 << np.finfo(array.dtype).nmant, array.shape, dtype=np.uint64)
    sign = rng.integers(0, 2, array.shape, dtype=np.uint64) << np.uint64(8 * array.dtype.itemsize - 1)
    infinite = np.uint64(np.array(np.inf, array.dtype).view(unsigned))
    nans = np.full(array.shape, np.nan, array.dtype) if quiet else (infinite | payload | sign).astype(unsigned)
    values = [nans.view(array.dtype)]
    for value in (np.inf, -np.inf, -0.0, nodata, -0.0 if nodata == 0 else nodata):
        values.append(np.full(array.shape, value, array.dtype))
    used = rng.permutation(len(values))[: int(rng.integers(1, len(values) + 1))]
    which = rng.choice(used, size=array.shape)
    for i in used:
        np.copyto(array.view(unsigned), values[i].view(unsigned), where=where & (which == i))
    return nodata if rng.random() < 0.7 else None


def _laid_out(array: NDArray[Any], order: str) -> NDArray[Any]:
    """The same array elsewhere in memory."""
    if order == "F":
        return np.asfortranarray(array)
    if order == "reversed":
        flip = (slice(None, None, -1),) * array.ndim
        return np.ascontiguousarray(array[flip])[flip]
    if order == "strided":
        room = np.zeros([2 * n + 1 for n in array.shape], array.dtype)
        view = room[tuple(slice(1, None, 2) for _ in array.shape)]
        view[...] = array
        return view
    if order == "unaligned":
        room = np.zeros(array.nbytes + 1, np.uint8)
        view = room[1:].view(array.dtype).reshape(array.shape)
        view[...] = array
        return view
    return array
