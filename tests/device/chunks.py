"""Chunks that transform mode codes, computed on the CPU or where kernels run."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import wraps

import numpy as np

from xwalloc import settings
from xwalloc.bitstream import planes
from xwalloc.bitstream.frame import DecodeLimits, Frame
from xwalloc.codec import chunk as chunk_module
from xwalloc.codec import engine
from xwalloc.codec.devices import owner
from xwalloc.codec.resident import decode, encode
from xwalloc.device import wavelet
from xwalloc.models import choice
from xwalloc.settings import device_choice

CUBE = {"channel_axis": 0, "signal_axes": (1, 2), "profile": "parallel"}


class Places:
    """Has chunks computed on the CPU or where kernels run.

    Modes that stay on the host are not tried. Where kernels are interpreted, streams have many lanes, and tiles are
    large, so that there are few steps to take.
    """

    def __init__(self, monkeypatch, device):
        self.name = "cuda:0" if device.type == "cuda" else "cpu:0"
        self.encoded, self.decoded = [], []
        """Sizes of the batches that were encoded and decoded there."""
        if device.type != "cuda":
            monkeypatch.setattr(engine, "device", lambda: "cpu" if device_choice() == "cpu" else self.name)
            monkeypatch.setattr(planes, "LANE_COST", 4.0)
            set_tiles(monkeypatch, (16, 32, 16, 32))
            # Fewer candidates, here as on the CPU: test_trials.py has those that are used.
            monkeypatch.setattr(choice, "RATIOS", choice.RATIOS[2:5])
            monkeypatch.setattr(choice, "FIRST", 1)
        monkeypatch.setattr(chunk_module, "in_lattice_mode", lambda *_: None)
        for module, name, sizes in ((encode, "attempt", self.encoded), (decode, "decode", self.decoded)):
            monkeypatch.setattr(module, name, counted(getattr(module, name), sizes))

    def on_cpu(self, function, *args, **more):
        """What a function returns if chunks are computed on the CPU."""
        with settings.set({"device": "cpu"}):
            return function(*args, **more)

    def together(self, function, chunks, waiting=None):
        """What a function returns for chunks that all, or so many, are there before the device takes the first."""
        device, go_on = owner(self.name), threading.Event()
        device.executor.submit(go_on.wait, 60)
        with ThreadPoolExecutor(len(chunks)) as pool:
            found = [pool.submit(function, chunk) for chunk in chunks]
            while len(device.batcher._waiting) < (waiting or len(chunks)):
                assert not any(future.done() for future in found), [future.result() for future in found]
            go_on.set()
            return [future.result(timeout=300) for future in found]


def set_tiles(monkeypatch, sizes):
    """Sizes of the tiles of the wavelet's kernels: line pairs, lines, pairs, columns."""
    for name, size in zip(("LINE_PAIRS", "LINES", "PAIRS", "COLUMNS"), sizes, strict=True):
        monkeypatch.setattr(wavelet, name, size)


def counted(work, sizes):
    """A function of a device and items that notes how many items there are."""

    @wraps(work)
    def call(device, items, *more):
        sizes.append(len(items))
        return work(device, items, *more)

    return call


def mixture(shape, dtype, seed=0):
    """A chunk of few sources and some noise."""
    rng = np.random.default_rng(seed)
    sources = rng.normal(size=(2, *shape[1:])).cumsum(1).cumsum(2) * 3
    data = np.tensordot(rng.normal(size=(shape[0], 2)), sources, 1) + rng.normal(size=shape) / 2
    if np.dtype(dtype).kind in "iu":
        data = (data - data.min()).clip(0, 125)
    return data.astype(dtype)


def with_holes(shape):
    """A chunk with everything that is kept apart: NaN, infinities, an outlier, nodata (-9999)."""
    data = mixture(shape, "f4")
    data[:, 3:9, 2:12] = np.nan
    data[1, 15, 3:6] = 1e30, np.inf, -np.inf
    data[2, :, :4] = -9999
    return data


def parsed(frame):
    """A frame, taken apart."""
    return Frame.parse(frame, DecodeLimits(max_bytes=2**30))
