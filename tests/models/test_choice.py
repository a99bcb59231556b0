"""Quantum and rank found by trial: close to the best there is, whatever surrounds the samples."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from xwalloc.codec import chunk as chunk_module
from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig
from xwalloc.models import choice, linear
from xwalloc.models.analysis import Scale, project
from xwalloc.models.spec import Grid, padded
from xwalloc.types import in_turn

CUBE = CodecConfig(channel_axis=0, signal_axes=(1, 2), max_error=40.0)


@pytest.fixture(scope="module")
def scene():
    """64 x 64 pixels of Indian Pines, 200 bands: noisy, so that the rank matters."""
    indian_pines = pytest.importorskip("tensorly.datasets", reason="the scene is in the package tensorly")
    cube = np.asarray(indian_pines.load_indian_pines().tensor).transpose(2, 0, 1)
    return np.ascontiguousarray(cube[:, 40:104, 40:104], np.float32)


def forced(monkeypatch, quantum, rank):
    monkeypatch.setattr(linear, "choose", lambda *_: (quantum, rank))


def chosen(monkeypatch, array, config=CUBE):
    """What is chosen for a chunk, and its frame."""
    found = []

    def spy(*arguments):
        found.append(choice.choose(*arguments))
        return found[-1]

    monkeypatch.setattr(linear, "choose", spy)
    frame = ChunkCodec(config).encode(array)
    monkeypatch.setattr(linear, "choose", choice.choose)
    return found[0], frame


def test_the_choice_is_close_to_the_best(monkeypatch, scene):
    (quantum, rank), frame = chosen(monkeypatch, scene)
    sizes = {}
    for share in (0.6, 0.8, 1.0, 1.3, 1.6):
        for ranks in (0.5, 0.7, 1.0, 1.4, 2.0):
            forced(monkeypatch, round(quantum * share), max(1, round(rank * ranks)))
            sizes[share, ranks] = len(ChunkCodec(CUBE).encode(scene))
    assert len(frame) == sizes[1.0, 1.0]
    assert len(frame) <= min(sizes.values()) * 1.03
    assert max(sizes.values()) > len(frame) * 1.05  # it does matter


def test_what_is_not_coded_does_not_count(monkeypatch, scene):
    """A chunk in the corner of a larger one that is NaN elsewhere: the same choice, or nearly."""
    (quantum, rank), frame = chosen(monkeypatch, scene)
    edge = np.full((200, 150, 130), np.nan, np.float32)
    edge[:, :64, :64] = scene
    (other_quantum, other_rank), larger = chosen(monkeypatch, edge)
    assert 0.7 * quantum <= other_quantum <= 1.4 * quantum
    assert 0.6 * rank <= other_rank <= 1.6 * rank
    assert len(larger) <= 1.25 * len(frame)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda d: st.tuples(st.just(d), st.tuples(*[st.integers(1, 200 if d > 1 else 60_000)] * d))
    ),
    st.integers(0, 8),
    st.sampled_from(["dyadic", "packet"]),
    st.sampled_from(["reflect", "periodization"]),
    st.data(),
)
def test_windows_can_be_transformed(shape, levels, tree, boundary, data):
    """Of every extent, and wherever the samples lie: windows are inside, not empty, and suit tree and boundary."""
    dimensions, lengths = shape
    signal = padded([1] * (3 - dimensions) + list(lengths), levels, tree, boundary)
    grid = Grid(
        signal=signal, dimensions=dimensions, levels=levels, tree=tree, boundary=boundary, wavelet="bior4.4"
    )  # fmt: skip
    box = []
    for n in signal:
        first = data.draw(st.integers(0, n - 1))
        box.append(slice(first, data.draw(st.integers(first + 1, n))))
    where = choice.aligned(box, signal, 1 << levels)
    for part, around, n in zip(box, where, signal, strict=True):
        assert 0 <= around.start <= part.start < part.stop <= around.stop <= n
    for window in choice.windows_in(where, dimensions):
        extent = tuple(part.stop - part.start for part in window)
        assert min(extent) > 0
        assert all(0 <= part.start < part.stop <= n for part, n in zip(window, signal, strict=True))
        assert padded(extent, levels, tree, boundary) == extent
        grid.cropped(extent).forward(np.zeros((1, 1, *extent)), 8, 1.0)


def test_threads_of_the_blas_change_neither_choice_nor_latents(monkeypatch, scene):
    """Products are exact: a BLAS that takes another order, because somebody else sets its threads, gives the same."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(200, 200)))[0]
    found = []
    monkeypatch.setattr(chunk_module, "blas_in_one_thread", nullcontext)
    for threads in (1, 2):
        with threadpool_limits(threads, "blas"):
            latents, _ = project(scene[None, :, None], 16.0, np.zeros(200), basis, 16.0 * 65536, in_turn)
            found.append((latents.tobytes(), *chosen(monkeypatch, scene)))
    assert found[0] == found[1]


def test_a_wide_range_over_a_small_step_holds_the_bound():
    """2^16 quanta and more."""
    y, x = np.mgrid[:48, :48]
    samples = np.stack([(k + 1) * 1e4 * np.hypot(x, y) + 3e5 * k for k in range(6)])
    config = CodecConfig(channel_axis=0, signal_axes=(1, 2), max_error=0.5)
    frame = ChunkCodec(config).encode(samples)
    assert np.abs(ChunkCodec(config).decode(frame) - samples).max() <= 0.5


def test_without_a_bound_the_rank_follows_from_the_quantum(monkeypatch, scene):
    config = CodecConfig(channel_axis=0, signal_axes=(1, 2), step=200.0)
    (quantum, rank), _ = chosen(monkeypatch, scene, config)
    (finer, more), _ = chosen(monkeypatch, scene, CodecConfig(channel_axis=0, signal_axes=(1, 2), step=20.0))
    assert quantum == finer
    assert rank < more
    assert Scale(1.0, 0.0, 3).quantum == 3
