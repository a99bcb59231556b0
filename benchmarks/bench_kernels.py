"""Regressions of our own kernels, with pytest-benchmark.

python -m pytest benchmarks/bench_kernels.py --benchmark-autosave          # keep what is now
python -m pytest benchmarks/bench_kernels.py --benchmark-compare --benchmark-compare-fail=median:15%
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream import rans
from xwalloc.bitstream.contexts import Kind, magnitude_code
from xwalloc.bitstream.tables import shipped
from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig
from xwalloc.models import lattice

SHAPE = (24, 256, 256)


@pytest.fixture(scope="module")
def cube() -> NDArray[np.float32]:
    """24 bands of 3 smooth sources and noise."""
    rng = np.random.default_rng(0)
    sources = rng.normal(size=(3, *SHAPE[1:])).cumsum(1).cumsum(2)
    return (np.tensordot(rng.normal(size=(24, 3)), sources, 1) + rng.normal(size=SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def symbols() -> tuple[NDArray[np.int32], NDArray[np.void]]:
    """A buffer of symbols, and its planes."""
    buffer = np.rint(np.random.default_rng(1).laplace(size=SHAPE)).astype(np.int32)
    planes = coder.planes_of(SHAPE[0])
    planes["base"] = np.arange(SHAPE[0]) * SHAPE[1] * SHAPE[2]
    planes["ny"], planes["nx"], planes["sz"], planes["sy"] = SHAPE[1], SHAPE[2], SHAPE[1] * SHAPE[2], SHAPE[2]
    planes["code"] = magnitude_code(np.array([1.0]))[0]
    return buffer.reshape(-1), planes


def test_rans_encode(benchmark: Any) -> None:
    rng = np.random.default_rng(2)
    values = rng.integers(-9, 10, 1_000_000).astype(np.int32)
    contexts = rng.integers(0, 60, len(values)).astype(np.uint16)
    benchmark(rans.encode, values, contexts, shipped())


def test_rans_decode(benchmark: Any) -> None:
    rng = np.random.default_rng(2)
    contexts = rng.integers(0, 60, 1_000_000).astype(np.uint16)
    stream = rans.encode(rng.integers(-9, 10, len(contexts)).astype(np.int32), contexts, shipped())
    benchmark(rans.decode, stream, contexts, shipped())


@pytest.mark.parametrize("kind", [Kind.LATENT, Kind.RESIDUAL])
def test_classify(benchmark: Any, kind: Kind, symbols: Any) -> None:
    benchmark(coder.classify, *symbols, kind, 2)


@pytest.mark.parametrize("kind", [Kind.LATENT, Kind.RESIDUAL])
def test_decode_planes(benchmark: Any, kind: Kind, symbols: Any) -> None:
    buffer, planes = symbols
    stream = coder.encode(buffer, planes, kind, 2)
    benchmark(lambda: coder.decode(stream, np.zeros_like(buffer), planes, kind, 2))


@pytest.mark.parametrize("radius", [0, 7])
def test_lattice_encode(benchmark: Any, radius: int, cube: NDArray[np.float32]) -> None:
    q = np.rint(cube[:6] * 50).astype(np.int32)[None, :, None]
    benchmark(lambda: lattice.draft(q, None, 32, radius).encode())


@pytest.mark.parametrize("radius", [0, 7])
def test_lattice_decode(benchmark: Any, radius: int, cube: NDArray[np.float32]) -> None:
    q = np.rint(cube[:6] * 50).astype(np.int32)[None, :, None]
    coded = lattice.draft(q, None, 32, radius).encode()
    benchmark(lattice.decode, coded.parameters, coded.symbols, q.shape, None, 32, radius)


@pytest.mark.parametrize("quality", [{"max_error": 3.0}, {"step": 6.0}], ids=["bound", "step"])
def test_transform_encode(benchmark: Any, quality: dict[str, float], cube: NDArray[np.float32]) -> None:
    codec = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), **quality))
    benchmark(codec.encode, cube)


@pytest.mark.parametrize("quality", [{"max_error": 3.0}, {"step": 6.0}], ids=["bound", "step"])
def test_transform_decode(benchmark: Any, quality: dict[str, float], cube: NDArray[np.float32]) -> None:
    codec = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), **quality))
    frame = codec.encode(cube)
    benchmark(codec.decode, frame)
