"""The benchmark of stages watches functions by name: all of them are there and called."""

import functools

import numpy as np
import pytest

pytest.importorskip("benchmarks.stages", reason="the benchmarks are not part of the package")

from benchmarks import stages
from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig
from xwalloc.settings import settings


def test_every_stage_is_watched(monkeypatch):
    monkeypatch.setattr(stages, "REPEATS", 1)
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(3, 64, 64)).cumsum(1).cumsum(2)
    cube = np.einsum("ck,kyx->cyx", rng.normal(size=(20, 3)), maps).astype("f4")
    codec = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), max_error=0.01 * float(np.ptp(cube))))
    with settings.set(threads=1):
        frame = codec.encode(cube)
        seen = {}
        for direction, run in (
            ("encode", functools.partial(codec.encode, cube)), ("decode", functools.partial(codec.decode, frame)),
        ):  # fmt: skip
            seconds = stages.measure(run)
            assert 0 <= seconds["rest"] < seconds["all"]
            least = stages.work(cube, stages.rank_of(codec, cube), direction)
            assert set(least) <= set(seconds)
            seen |= seconds
    assert set(stages.STAGES) <= set(seen)
