"""Chunks and configurations that a codec meets in the wild, and some that it should never meet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from xwalloc.bitstream.frame import DTYPES
from xwalloc.codec.config import Boundary, CodecConfig, Tree

__all__ = ["Case", "cases"]

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
