"""The benchmark of a GPU worker, on CPU workers."""

import json
import os

import numpy as np
import pytest

pytest.importorskip("distributed", reason="distributed is not installed")

from benchmarks import gpu_convert
from xwalloc.errors import ConfigError


def test_both_workers_convert_the_same_chunks(tmp_path):
    cube = np.random.default_rng(0).normal(size=(4, 20, 20)).cumsum(1).cumsum(2).astype("f4")
    found = gpu_convert.run(
        tmp_path, cube, device="cpu", threads=1, gigabytes=0, side=32, bands=4, fraction=0.01, repeats=1
    )
    assert (found["chunks"], found["chunks that differ"]) == (gpu_convert.WARM, 0)
    assert found["times as fast"] > 0
    for worker in ("gpu", "cpu"):
        assert found[worker]["nbytes"] == gpu_convert.WARM * 4 * 4 * 32**2
        assert 0 < found[worker]["stored"] < found[worker]["nbytes"]
        assert len(found[worker]["seconds"]) == 1
    json.dumps(found)


def test_a_worker_without_the_device_is_refused(monkeypatch):
    monkeypatch.setenv("XWALLOC_DEVICE", "cpu")
    with pytest.raises(ConfigError, match="cuda:99"), gpu_convert.worker("cuda:99", 1, {}):
        pass
    assert os.environ["XWALLOC_DEVICE"] == "cpu"
