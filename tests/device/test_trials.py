"""Moments of chunks and trials in their windows on a device: the same numbers as on the CPU."""

import numpy as np
import pytest

from xwalloc.models import choice, trials
from xwalloc.models import quantise as q
from xwalloc.models.analysis import Scale
from xwalloc.models.samples import HostSamples
from xwalloc.models.spec import Grid
from xwalloc.models.trials import HostTrials
from xwalloc.types import in_turn

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from xwalloc.codec.resident import fit  # noqa: E402
from xwalloc.codec.resident.encode import OnDevice  # noqa: E402
from xwalloc.device import trials as kernels  # noqa: E402

NOTHING = np.empty(0)


def grid_over(signal, levels):
    return Grid(signal=signal, dimensions=2, levels=levels, tree="dyadic", boundary="reflect", wavelet="bior4.4")


@pytest.fixture(name="put")
def put_fixture(device):
    """Puts arrays on the device."""
    return lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device)


def test_quanta(put):
    rng = np.random.default_rng(0)
    latents = np.rint(rng.laplace(size=(2, 3, 1, 9, 14)) * 10.0 ** rng.integers(0, 5, (2, 3, 1, 9, 14)))
    latents[0, 0, 0, 0, :3] = 2.0**45, -(2.0**45), 0.0
    boxes = trials.boxes_of(grid_over((1, 9, 14), 1))
    quanta = np.array([[3.0, 700.0], [1.0, 40.0]])
    quantised, sums = kernels.try_quanta(put(latents), boxes.tolist(), put(quanta), put([1.0 - q.TYPICAL_THRESHOLD]))
    for window, candidate in np.ndindex(2, 2):
        expected, expected_sums = np.empty(latents[window].shape), np.empty((3, len(boxes), 3), np.int64)
        q.try_quantum(latents[window], boxes, quanta[window, candidate], expected, expected_sums)
        assert np.array_equal(quantised[window, candidate].cpu().numpy(), expected)
        assert np.array_equal(sums[window, candidate].cpu().numpy(), expected_sums)
    assert expected_sums.any(axis=(0, 1)).all()


@pytest.mark.parametrize("masked", [False, True])
def test_residual_sums(put, masked):
    rng = np.random.default_rng(1)
    units, latents = rng.integers(-9999, 9999, (2, 11, 150)) * 1.0, rng.integers(-99, 99, (2, 2, 5, 150)) * 1.0
    basis, ranks = rng.integers(-4000, 4000, (2, 5, 11)) * 1.0, np.array([[1, 2, 4, 5], [2, 5, 5, 5]], np.int32)
    scales, holes = np.array([[16.0, 0.01], [1.0, 0.3]]), (rng.random((2, 11, 150)) < 0.4).astype(np.uint8)
    found = kernels.residual_sums(
        put(units), put(latents), put(basis), put(ranks), put(scales), put(holes) if masked else None
    )
    for window, candidate, r in np.ndindex(2, 2, 4):
        rank = ranks[window, r]
        rest = units[window] * scales[window, 0] - basis[window, :rank].T @ latents[window, candidate, :rank]
        sizes = np.abs(np.rint(rest * scales[window, 1]))
        expected = np.where(holes[window] == 0, sizes, 0).sum(axis=1) if masked else sizes.sum(axis=1)
        assert np.array_equal(found[window, candidate, r].cpu().numpy(), expected)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1, 3, 1, 9, 11), "f4"), ((3, 2, 1, 7, 40), "u2"), ((1, 5, 1, 1, 40_000), "i1"), ((5, 2, 3, 80, 90), "f8"),
     ((40_000, 1, 1, 1, 2), "u4")],
    ids=str,
)  # fmt: skip
def test_moments(places, device, shape, dtype):
    rng = np.random.default_rng(2)
    two = [(rng.normal(size=shape).cumsum(-1) * 10.0**k).clip(0, 100).astype(dtype) for k in (0, 2)]
    some = [OnDevice(samples, None, NOTHING) for samples in two]
    found = fit.moments(device, list(zip(some, [16.0, 1e4], strict=True)))
    for samples, per_sample, (means, covariance) in zip(two, [16.0, 1e4], found, strict=True):
        expected = HostSamples(samples, in_turn).moments(Scale(per_sample, 0.0, 1), 100 * per_sample)
        assert np.array_equal(means, expected[0])
        assert np.array_equal(covariance, expected[1])
        assert covariance.any()


def windows_of(samples, mask, levels, ranks, step=30.0):
    """What `choose` wants to know of a chunk, and nothing more."""
    seen = []

    def look(windows):
        seen.append(windows)
        raise InterruptedError

    rng = np.random.default_rng(3)
    channels = samples.shape[1]
    grid = grid_over(samples.shape[2:], levels)
    basis = np.linalg.qr(rng.normal(size=(channels, channels)))[0]
    variances = np.where(np.arange(channels) < ranks, 1e6, 0.0)
    with pytest.raises(InterruptedError):
        choice.choose(
            look, samples.shape, Scale(4.0, step, None if step else 90), grid, np.rint(rng.normal(size=channels) * 20),
            5000.0, variances, basis, mask,
        )  # fmt: skip
    return seen[0]


@pytest.mark.parametrize(("masked", "step"), [(False, 0.0), (True, 30.0)])
def test_trials(monkeypatch, places, device, masked, step):
    monkeypatch.setattr(choice, "CROP", {2: 10})
    monkeypatch.setattr(trials, "CHANNELS", 4)
    rng = np.random.default_rng(4)
    shape = (1, 7, 1, 24, 10) if step else (2, 5, 1, 10, 24)
    chunks = [rng.normal(size=shape).cumsum(-1).clip(-900, 900).astype("i2") for _ in range(2)]
    masks = [(rng.random(shape) < 0.2).astype(np.uint8) if masked else None for _ in chunks]
    windows = [windows_of(*own, levels=1, ranks=n, step=step) for *own, n in zip(chunks, masks, (2, 3), strict=True)]
    assert [len(own.boxes) for own in windows] == [2, 2]
    items = [fit.ToTry(OnDevice(own, None, NOTHING), look) for own, look in zip(chunks, windows, strict=True)]
    for samples, look, found in zip(chunks, windows, fit.trials(device, items), strict=True):
        expected = HostTrials(samples, look, in_turn)
        limit = len(look.basis)
        for quantum in look.quanta:
            theirs, ours = expected.quantise(quantum, limit), found.quantise(quantum, limit)
            assert theirs.bits.any()
            assert theirs.saved.any()
            assert np.array_equal(theirs.bits, ours.bits)
            assert np.array_equal(theirs.saved, ours.saved)
            if step:
                bits = theirs.residual_bits(look.ranks)
                assert np.array_equal(ours.residual_bits(look.ranks), bits)
                assert bits.min() > 0


def test_what_is_not_certain_is_left_to_the_host(places, device):
    samples = np.random.default_rng(5).normal(size=(1, 3, 1, 9, 11))
    windows = windows_of(samples, None, 1, 3)
    place = OnDevice(samples * 2.0**38, None, NOTHING)  # far beyond what the windows were told
    assert fit.trials(device, [fit.ToTry(place, windows)]) == [None]
