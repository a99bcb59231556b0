"""A chunk from samples to symbols and back on a device: the bits that the linear model and its finish have on a CPU."""

import numpy as np
import pytest

from xwalloc.codec.transform_mode import Target
from xwalloc.models import analysis, linear
from xwalloc.models import quantise as q
from xwalloc.models.samples import HostSamples
from xwalloc.models.spec import Grid
from xwalloc.models.trials import boxes_of
from xwalloc.types import in_turn

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from xwalloc.device import quantiser, wavelet  # noqa: E402
from xwalloc.device import samples as kernels  # noqa: E402


@pytest.fixture(name="chunk")
def chunk_fixture():
    """Samples (batch, channel, z, y, x), what the transform aims at, and the model that a CPU fits."""
    y, x = np.mgrid[:22, :30] / 9.0
    rng = np.random.default_rng(0)
    planes = [np.sin(x + 0.2 * c) * 400 + np.cos(y * (1 + 0.1 * c)) * 300 + 50 * c for c in range(5)]
    samples = np.rint(np.stack([planes, planes[::-1]]) + rng.normal(size=(2, 5, 22, 30)) * 4).astype("i2")[:, :, None]
    finish, scale = Target(integral=True, step=5.0, quantum=0.0).finish()
    grid = Grid(signal=(1, 22, 30), dimensions=2, levels=2, tree="dyadic", boundary="reflect", wavelet="bior4.4")
    edges = float(samples.min()), float(samples.max())
    model, symbols = linear.fit(HostSamples(samples, in_turn), edges, scale, grid, None)
    return samples, finish, scale, edges, model, symbols


def test_symbols(device, chunk):
    samples, _, scale, (low, high), model, _ = chunk
    put = lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device)  # noqa: E731
    means, matrix = model.mean_units, linear._dual(model)
    reach = max(high * scale.per_sample - means.min(), means.max() - low * scale.per_sample) + 1.0
    again = HostSamples(samples, in_turn).quantise(model, scale.per_sample, matrix, reach, np.zeros(model.rank))
    expected, _ = analysis.project(samples, scale.per_sample, means, matrix, reach, in_turn)
    shift = analysis.exact_shift(matrix, reach)
    units = kernels.to_units(put(samples.reshape(2, 5, -1)), put([[scale.per_sample]]), put(means[None]))
    latents = put(np.rint(np.ldexp(matrix, shift))) @ units
    largest = kernels.round_products(latents, put([[2.0**-shift]])).max().item() + 1.0
    assert np.array_equal(latents.cpu().numpy(), expected.reshape(2, model.rank, -1))
    filters = model.grid.filters("analysis", analysis.filter_shift(largest))
    planes = latents.reshape(-1, *model.grid.signal)
    wavelet.forward_exact(planes, model.grid.plan, [filters], "reflect", bounds=[largest], out=planes)
    coefficients, quantum = planes.reshape(2, model.rank, *model.grid.signal), put([[float(model.quantum)]])
    boxes = boxes_of(model.grid)
    guesses = quantiser.magnitude_sums(coefficients, boxes, quantum, 1.0 - q.TYPICAL_THRESHOLD).cpu().numpy()
    rises = np.empty((model.rank, len(boxes)))
    q.rises(guesses, 2 * np.prod(boxes[:, 1::2] - boxes[:, ::2], axis=1), rises)
    found, sums = quantiser.quantise(coefficients, boxes, quantum, put(np.stack([rises, rises])))
    model, symbols = again
    assert np.array_equal(found.cpu().numpy()[:, : model.rank], symbols)
    points = q.reconstruction_points(sums.cpu().numpy()[:, : model.rank].sum(axis=(0, 1, 2)), model.quantum)
    assert tuple(points) == tuple(model.points)


def test_samples(device, chunk):
    samples, finish, _, _, model, symbols = chunk
    finish = type(finish)(model.shift, finish.fraction, finish.unit, finish.step)
    put = lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device)  # noqa: E731
    rest, decoded = np.empty((2, 5, 660), "i4"), np.empty((2, 5, 660), "i2")
    expected = linear.synthesise(model, symbols, in_turn)
    for item in range(2):
        product = linear.products(model, expected, (item, slice(None)))
        finish.residuals(
            samples[item].reshape(5, -1), product, model.mean_units, np.zeros((1, 0), "u1"), np.empty(0, "i2"),
            rest[item], decoded[item],
        )  # fmt: skip
    latents = quantiser.dequantise(put(symbols), put([[float(model.quantum)]]), put([[np.array(model.points, "f8")]]))
    planes = latents.reshape(-1, *model.grid.signal)
    filters = model.grid.filters("synthesis", model.filter_shift)
    wavelet.inverse_exact(planes, model.grid.plan, [filters], "reflect", out=planes)
    latents = planes.reshape(2, model.rank, -1)
    assert np.array_equal(latents.cpu().numpy(), expected)
    products, table = put(model.matrix) @ latents, put(finish.table(model.mean_units))
    found, sums, missed, largest = kernels.bounded_residuals(
        put(samples.reshape(2, 5, -1)), products, table, None, None, put([[2.0]]), integral=True
    )
    assert np.array_equal(found.cpu().numpy(), rest)
    assert np.array_equal(sums.cpu().numpy(), np.abs(rest.astype("i8")).sum(axis=2))
    assert not missed.any()
    assert largest.max() == np.abs(decoded.astype("f8") - samples.reshape(2, 5, -1)).max() <= 2.0
    out = torch.empty((2, 5, 660), dtype=torch.int16, device=device)
    kernels.finish(products, table, found, None, out, integral=True)
    assert np.array_equal(out.cpu().numpy(), decoded)
