"""The linear model: its bytes, and a synthesis that is the same bits however it is computed."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from xwalloc.errors import FormatError
from xwalloc.models import linear
from xwalloc.models.analysis import Scale
from xwalloc.models.samples import HostSamples
from xwalloc.models.spec import HEAD, Grid, LinearModel, padded
from xwalloc.types import in_turn


def smooth(batch=2, channels=12, side=40):
    rng = np.random.default_rng(5)
    maps = rng.normal(size=(batch, 3, 1, side, side)).cumsum(-1).cumsum(-2)
    mixing = rng.normal(size=(channels, 3))
    return np.einsum("ck,bkzyx->bczyx", mixing, maps) * 100 + rng.normal(size=(batch, channels, 1, side, side))


@pytest.fixture(scope="module", params=["dyadic", "packet"])
def fitted(request):
    samples = smooth()
    signal = padded(samples.shape[2:], 3, request.param, "reflect")
    samples = np.pad(
        samples, [(0, 0)] * 2 + [(0, to - n) for to, n in zip(signal, samples.shape[2:], strict=True)], "edge"
    )
    grid = Grid(signal=signal, dimensions=2, levels=3, tree=request.param, boundary="reflect", wavelet="bior4.4")
    edges = float(samples.min()), float(samples.max())
    model, symbols = linear.fit(HostSamples(samples, in_turn), edges, Scale(16.0, 0.0, 128), grid, None)
    return samples, model, symbols


def whole(model, latents):
    return [linear.products(model, latents, (item, slice(0, latents.shape[2]))) for item in range(len(latents))]


def test_bytes_of_a_model_come_back(fitted):
    samples, model, _ = fitted
    again = LinearModel.from_bytes(model.to_bytes(), (1, 40, 40), 2, samples.shape[1])
    for name in ("means", "precisions", "vectors", "codes"):
        assert np.array_equal(getattr(again, name), getattr(model, name)), name
    assert (again.quantum, again.points, again.filter_shift) == (model.quantum, model.points, model.filter_shift)
    for cut in range(0, len(model.to_bytes()), 3):
        with pytest.raises(FormatError):
            LinearModel.from_bytes(model.to_bytes()[:cut], (1, 40, 40), 2, samples.shape[1])


def test_synthesis_is_close_to_the_samples(fitted):
    samples, model, symbols = fitted
    latents = linear.synthesise(model, symbols, in_turn)
    step = model.quantum / 16.0
    for item, product in enumerate(whole(model, latents)):
        values = (np.rint(product * 2.0**-model.shift) + model.mean_units[:, None]) / 16.0
        error = values.reshape(samples.shape[1:]) - samples[item]
        assert np.sqrt(np.mean(error**2)) < step


def test_one_chunk_or_a_batch_one_thread_or_two_give_the_same_bits(fitted):
    _, model, symbols = fitted
    latents = linear.synthesise(model, symbols, in_turn)
    alone = np.concatenate([linear.synthesise(model, symbols[i : i + 1].copy(), in_turn) for i in range(len(symbols))])
    assert latents.tobytes() == alone.tobytes()
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads, "blas"):
            results.append(np.stack(whole(model, latents)).tobytes())
    starts = range(0, latents.shape[2], 111)
    parts = [
        np.concatenate([linear.products(model, latents, (item, slice(s, s + 111))) for s in starts], axis=1)
        for item in range(len(latents))
    ]
    assert results[0] == results[1] == np.stack(parts).tobytes()


def test_torch_gives_the_same_bits(fitted):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    _, model, symbols = fitted
    latents = linear.synthesise(model, symbols, in_turn)
    expected = np.stack(whole(model, latents))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found = torch.from_numpy(model.matrix) @ torch.from_numpy(latents)
            # Signs of zeros are the one thing that the order of a sum decides; rounding to units drops them.
            assert np.array_equal(found.numpy(), expected)
    finally:
        torch.set_num_threads(before)


def test_every_partial_sum_stays_exact(fitted):
    _, model, symbols = fitted
    latents = linear.synthesise(model, symbols, in_turn)
    assert float((np.abs(model.matrix) @ np.abs(latents).max(axis=(0, 2))).max()) < 2.0**53
    exact = [
        [sum(int(a) * int(b) for a, b in zip(row, latents[0, :, i], strict=True)) for i in (0, 77)]
        for row in model.matrix
    ]
    assert np.array_equal(whole(model, latents)[0][:, [0, 77]], np.array(exact, np.float64))


def test_too_many_subbands_are_refused_before_anything_is_made():
    data = HEAD.pack(1, 0, 8, 20, 128, 0, 0, 0, 1, 0) + bytes(60)
    with pytest.raises(FormatError, match="65536 subbands"):
        LinearModel.from_bytes(data, (1 << 10, 1 << 10, 1 << 10), 3, 1)
