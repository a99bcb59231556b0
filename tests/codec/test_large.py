"""Chunks that are large along an axis or two and thin along the others: what small random chunks never show."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig
from xwalloc.errors import ConfigError, FormatError
from xwalloc.models.spec import Grid, LinearModel


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((2, 300, 300), {"signal_axes": (0, 1, 2)}),
        ((2, 100_000), {"signal_axes": (0, 1)}),
        ((20_000, 10), {"signal_axes": (0, 1)}),
        ((40, 1000, 8), {"channel_axis": 0, "signal_axes": (1, 2)}),
        ((40, 8, 8, 60), {"channel_axis": 0, "signal_axes": (1, 2, 3)}),
        ((5000, 40, 1), {"channel_axis": 1, "signal_axes": (2,)}),
        ((40_000, 4), {"signal_axes": (1,)}),
    ],
)
def test_thin_chunks(shape, axes):
    array = np.random.default_rng(0).normal(size=shape).cumsum(-1).astype("f4")
    codec = ChunkCodec(CodecConfig(**axes, max_error=1.0))
    assert np.abs(codec.decode(codec.encode(array)).astype("f8") - array).max() <= 1.0


@pytest.mark.parametrize("quality", [{"step": 1e-4}, {"snr": 60.0}, {"max_error": 1e-4}])
def test_many_batch_items(quality):
    array = np.sort(np.random.default_rng(0).normal(size=(100_000, 2)).astype("f4"), axis=0)
    codec = ChunkCodec(CodecConfig(signal_axes=(1,), **quality))
    error = np.abs(codec.decode(codec.encode(array)).astype("f8") - array).max()
    assert error <= quality.get("max_error", 0.1)


def test_concurrent_callers_get_the_same_bytes():
    """Callers share the pool, the BLAS and its limit of threads; none of it may reach a frame."""
    rng = np.random.default_rng(0)
    array = (np.tensordot(rng.normal(size=(40, 5)), rng.normal(size=(5, 120, 110)).cumsum(1).cumsum(2), 1)).astype("f4")
    array += rng.normal(size=array.shape)
    for quality in ({"max_error": 0.5}, {"max_error": 10.0}):
        encode = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), **quality)).encode
        alone = encode(array)
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(encode, [array] * 12)) == {alone}


def test_a_basis_is_never_larger_than_the_chunk():
    """Memory for the model of a hostile frame follows from the chunk that the caller asked for."""
    channels = 600
    grid = Grid(
        signal=(1, 1, 1), dimensions=1, levels=0, tree="dyadic", boundary="reflect", wavelet="bior4.4"
    )  # fmt: skip
    model = LinearModel(
        grid=grid, quantum=1, points=(0, 0, 0), mean_shift=0, means=np.zeros(channels, np.int64),
        precisions=np.zeros(channels, np.int64), vectors=np.zeros((channels, channels), np.int64),
        codes=np.zeros((channels, 1), np.int64), filter_shift=8,
    )  # fmt: skip
    with pytest.raises(FormatError, match="more basis vectors"):
        LinearModel.from_bytes(model.to_bytes(), (1, 1, 1), 1, channels)
    again = LinearModel.from_bytes(model.to_bytes(), (1, 1, 1), 1, channels, batch=channels)
    assert again.rank == channels


def test_wavelets_that_cannot_reflect_are_refused_at_once():
    for wavelet in ("haar", "db3", "sym4"):
        with pytest.raises(ConfigError, match="periodization"):
            CodecConfig(signal_axes=(0,), max_error=1, wavelet=wavelet)
        CodecConfig(signal_axes=(0,), max_error=1, wavelet=wavelet, boundary="periodization")
