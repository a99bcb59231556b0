"""Samples, latents and symbols on a device: the same bits as the kernels for a CPU."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xwalloc.codec import bound
from xwalloc.codec.bound import Finish
from xwalloc.models import analysis
from xwalloc.models import quantise as q
from xwalloc.transform.wavelet import plan

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from xwalloc.device import arithmetic, quantiser  # noqa: E402
from xwalloc.device import samples as kernels  # noqa: E402

# The interpreter computes with NumPy, which warns of infinities and NaN where a device is silent.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DTYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"]
few = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(name="put")
def put_fixture(device):
    """Puts arrays on the device."""
    return lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device)


def same_bits(tensor, array):
    found = tensor.cpu().numpy()
    return found.dtype == array.dtype and found.shape == array.shape and found.tobytes() == array.tobytes()


def extremes(dtype, shape, seed=0):
    """Samples with the extremes of their type among them."""
    dtype, rng = np.dtype(dtype), np.random.default_rng(seed)
    if dtype.kind == "f":
        x = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 6, shape)
        x.reshape(-1)[:4] = 0.0, -0.0, 0.5, -0.5
        return x.astype(dtype)
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    x.reshape(-1)[:3] = info.min, info.max, 0
    return x


HALVES = [0.0, -0.0, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 0.49999999999999994, -0.49999999999999994, 0.3, -0.3,
          4503599627370495.5, -4503599627370495.5, 4503599627370497.0, 9007199254740991.0, 2.0**62, 1e300, -1e300,
          2251799813685248.5, 2251799813685249.5]  # fmt: skip


def test_rounding_is_that_of_numpy(device, put):
    x = np.array([*HALVES, *np.random.default_rng(0).integers(-99, 99, 200) / 4])[None, None]
    one, zero = put(np.ones((1, 1))), put(np.zeros((1, 1)))
    expected = np.empty_like(x)
    analysis.to_units(x[0], np.ones(1), np.zeros(1), expected[0])
    assert same_bits(kernels.to_units(put(x), one, zero), expected)
    products = put(x)
    largest = kernels.round_products(products, one)
    assert same_bits(products, np.rint(x))
    assert largest.item() == 1e300


@pytest.mark.parametrize("dtype", DTYPES)
def test_units(put, dtype):
    x = extremes(dtype, (2, 3, 1100))
    per_sample, means = np.array([[0.3, 1.0, 7.77], [2.5, 0.1, 1 / 3]]), np.array([[0.0, 5.0, -9.0], [1e6, 0.0, 3.0]])
    expected = np.empty(x.shape)
    for item in range(2):
        analysis.to_units(x[item], per_sample[item], means[item], expected[item])
    assert same_bits(kernels.to_units(put(x), put(per_sample), put(means)), expected)


def test_projection(put):
    rng = np.random.default_rng(0)
    x, means = rng.integers(-3000, 3000, (2, 5, 1, 30, 40)).astype("i2"), rng.integers(-99, 99, 5).astype(float)
    matrix = rng.normal(size=(3, 5))
    latents, largest = analysis.project(x, 3.7, means, matrix, 20000.0, lambda fn, items: [fn(i) for i in items])
    shift = analysis.exact_shift(matrix, 20000.0)
    units = kernels.to_units(put(x.reshape(2, 5, -1)), put(np.array([[3.7]])), put(means[None]))
    products = put(np.rint(np.ldexp(matrix, shift))) @ units
    found = kernels.round_products(products, put(np.array([[2.0**-shift]])))
    assert np.array_equal(products.cpu().numpy(), latents.reshape(2, 3, -1))
    assert found.shape == (2, 3)
    assert float(found.max()) + 1.0 == largest


def test_dequantisation(put):
    rng = np.random.default_rng(1)
    symbols = rng.integers(-5, 6, (2, 3, 1, 7, 200)).astype("i4")
    symbols[..., 0], symbols[..., 1] = 2**31 - 1, -(2**31)
    quanta = np.array([[3.0, 100.0, 1.0], [77.0, 2.0, 9.0]])
    points = rng.integers(-40, 40, (2, 3, 3)).astype(float)
    expected = np.empty(symbols.shape)
    for plane in np.ndindex(2, 3):
        q.dequantise(symbols[plane].reshape(-1), quanta[plane], points[plane], expected[plane].reshape(-1))
    assert same_bits(quantiser.dequantise(put(symbols), put(quanta), put(points)), expected)


GEOMETRIES = [((1, 21, 37), 2, "dyadic"), ((1, 1, 4500), 1, "dyadic"), ((3, 5, 4), 1, "dyadic"),
              ((1, 10, 6), 1, "packet"), ((1, 1, 1), 1, "dyadic")]  # fmt: skip


def boxes_of(signal, levels, tree):
    """Start and stop of each subband along z, y, x."""
    subbands = plan(signal, levels, tree).subbands
    return np.array([[edge for part in s.slices for edge in (part.start, part.stop)] for s in subbands], np.int64)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_quantisation(put, geometry):
    # Two chunks, of one batch item and of two, in one call.
    boxes, rng = boxes_of(*geometry), np.random.default_rng(2)
    latents = np.rint(rng.laplace(size=(3, 2, *geometry[0])) * 10.0 ** rng.integers(0, 6, (3, 2, *geometry[0])))
    latents[0, 1] = np.rint(rng.normal(size=geometry[0]))  # all symbols 0
    latents[:, :, 0, 0, 0] = 1e13, -1e13
    quanta = np.array([[70.0, 70.0], [9.0, 9.0], [9.0, 9.0]])
    chunks = [slice(0, 1), slice(1, 3)]
    symbols, sums = np.empty(latents.shape, "i4"), np.zeros((2, 2, len(boxes), 8), "i8")
    for chunk, part in enumerate(chunks):
        for k in range(2):
            own = latents[part], k, boxes, quanta[part][0, 0], symbols[part], sums[chunk, k]
            q.quantise_planes(*own)
    guesses = quantiser.magnitude_sums(put(latents), boxes, put(quanta), 1.0 - q.TYPICAL_THRESHOLD).cpu().numpy()
    rises = np.empty((3, 2, len(boxes)))
    for part in chunks:
        sizes = (part.stop - part.start) * np.prod(boxes[:, 1::2] - boxes[:, ::2], axis=1)
        own = np.empty((2, len(boxes)))
        q.rises(guesses[part], sizes, own)
        rises[part] = own
    found, found_sums = quantiser.quantise(put(latents), boxes, put(quanta), put(rises))
    assert same_bits(found, symbols)
    found_sums = found_sums.cpu().numpy()
    assert np.array_equal(np.stack([found_sums[part].sum(axis=0) for part in chunks]), sums)


def test_planes_that_are_not_kept_have_no_symbols(put):
    boxes = boxes_of(*GEOMETRIES[0])
    latents, rises = np.full((1, 1, *GEOMETRIES[0][0]), 500.0), np.full((1, 1, len(boxes)), 0.4)
    rises[..., 1] = -np.inf
    symbols, sums = quantiser.quantise(put(latents), boxes, put(np.array([[10.0]])), put(rises))
    z0, z1, y0, y1, x0, x1 = boxes[1]
    assert not symbols[:, :, z0:z1, y0:y1, x0:x1].any()
    assert not sums[:, :, 1].any()
    assert (symbols != 0).sum() == latents.size - (z1 - z0) * (y1 - y0) * (x1 - x0)


FINISHES = [
    Finish(5, 4, 1.0, 5), Finish(3, None, 0.0123, 256), Finish(7, 6, 1.0, 0), Finish(0, None, 1e300, 0),
    Finish(0, -3, 1.0, 3), Finish(6, 2, 2.5, 1, np.array([1.0, 2.2, 0.4])),
    Finish(4, None, 0.7, 256, np.array([1.0, 1e-3, 30.0])),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("finish", FINISHES[:4], ids=lambda f: f"{f.shift}, {f.fraction}, {f.unit}, {f.step}")
def test_samples_and_residuals_of_every_type(put, finish, dtype):
    check_samples_and_residuals(put, finish, dtype)


@pytest.mark.parametrize("dtype", ["i2", "f4"])
@pytest.mark.parametrize("finish", FINISHES[4:], ids=lambda f: f"{f.shift}, {f.fraction}, {f.unit}, {f.step}")
def test_samples_and_residuals(put, finish, dtype):
    check_samples_and_residuals(put, finish, dtype)


def check_samples_and_residuals(put, finish, dtype):
    rng, shape = np.random.default_rng(3), (2, 3, 1100 if dtype == "i2" else 60)
    x = extremes(dtype, shape)
    mean = rng.integers(-300, 300, 3).astype(float)
    unit = finish.unit if finish.fraction is None else 2.0**-finish.fraction
    base = np.clip(x.astype("f8") / unit, -(2.0**40), 2.0**40) + rng.integers(-4000, 4000, shape)
    product = np.rint((base - mean[:, None]) * 2.0**finish.shift) + rng.integers(-40, 40, shape)
    product[:, :, 5:9] = 0.0, 2.0**52, -(2.0**52), -1.0
    mask = (rng.random(shape) < 0.3).astype("u1") * 7
    for has_mask, nodata in ((False, ()), (True, (x[0, 0, 9], bound.substitute(x[0, 0, 9])))):
        nodata = np.array(nodata, x.dtype)
        there = put(nodata) if nodata.size else None
        table, integral = put(finish.table(mean)), finish.fraction is not None
        rest, decoded, sums = np.empty(shape, "i4"), np.empty_like(x), np.empty((2, 3), "i8")
        for item in range(2):
            given = mask[item] if has_mask else np.zeros((1, 0), "u1")
            tile = product[item].copy()
            if finish.step:
                own = finish.residuals(x[item], tile, mean, given, nodata, rest[item], decoded[item])
                sums[item] = own
            else:
                finish.samples(tile, mean, np.zeros((1, 0), "i4"), nodata, decoded[item])
        if finish.step:
            given = put(mask) if has_mask else None
            found = kernels.residuals(put(x), put(product), table, given, there, integral=integral)
            assert same_bits(found[0], rest)
            assert same_bits(found[1], decoded)
            assert same_bits(found[2], sums)
            bounds = put(np.array([[finish.step / 2.0], [1e-3]]) * unit)
            missed, largest = kernels.misses(put(x), found[1], bounds)
            again = kernels.bounded_residuals(put(x), put(product), table, given, there, bounds, integral=integral)
            for a, b in zip(again, (found[0], found[2], missed, largest), strict=True):
                assert torch.equal(a, b)
        given = put(rest) if finish.step else None
        out = torch.empty_like(put(x))
        assert kernels.finish(put(product), table, given, there, out, integral=integral) is out
        assert same_bits(out, decoded)


def test_a_negative_zero_stays_one(put):
    expected = np.empty((1, 3), "f4")
    product = np.array([[-3.0, 3.0, 0.0]])
    finish = Finish(0, 7, 1.0, 0)
    finish.samples(product, np.zeros(1), np.zeros((1, 0), "i4"), np.empty(0, "f4"), expected)
    assert np.signbit(expected[0]).tolist() == [True, False, False]
    out = put(np.empty((1, 1, 3), "f4"))
    kernels.finish(put(product[None]), put(finish.table(np.zeros(1))), None, None, out, integral=True)
    assert same_bits(out[0], expected)


def compared(put, a, b, bounds):
    """Marks and largest error on the device, after a comparison with those of the CPU."""
    missed, largest = kernels.misses(put(a), put(b), put(bounds))
    expected = np.zeros(a.shape, bool)
    figures = [
        [
            bound.misses(a[i, c : c + 1], b[i, c : c + 1], bounds[i, c : c + 1], expected[i, c : c + 1])
            for c in range(a.shape[1])
        ]
        for i in range(len(a))
    ]
    assert same_bits(missed, expected)
    assert same_bits(largest, np.array(figures))
    return expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_misses(put, dtype):
    a = extremes(dtype, (2, 2, 1100))
    b = a.copy()
    b[:, :, 3::5] = extremes(dtype, (2, 2, 1100), 1)[:, :, 3::5]
    b[:, :, 4::5] += np.array(2, dtype)
    with np.errstate(over="ignore"):
        marks = compared(put, a, b, np.array([[1.5, 2.0], [1e9, 40.0]]))
    assert marks.any()
    assert not marks.all()


@few
@given(st.floats(-1e300, 1e300), st.floats(1e-300, 1e280), st.integers(-2, 2), st.integers(-2, 2))
def test_misses_where_it_is_close(put, a, limit, ulps, more):
    b = np.full(2, a + limit)
    for _ in range(abs(ulps)):
        b = np.nextafter(b, math.copysign(np.inf, ulps))
    for _ in range(abs(more)):
        limit = float(np.nextafter(limit, np.inf if more > 0 else 0))
    compared(put, np.array([[[a, b[0]]]]), np.array([[[b[0], a]]]), np.array([[limit]]))


def test_misses_sees_infinities_and_nan(put):
    a, b = np.ones((1, 1, 4)), np.array([[[np.inf, -np.inf, np.nan, 1.25]]])
    assert compared(put, a, b, np.array([[1e308]])).tolist() == [[[True, True, True, False]]]


@pytest.mark.parametrize("dtype", ["i2", "u4", "f4"])
def test_squares(put, dtype):
    a, b = extremes(dtype, (2, 1, 2500)), extremes(dtype, (2, 1, 2500), 1)
    sums = kernels.squares(put(a), put(b), put(np.array([[7.0], [0.3]])))
    for item, scale in ((0, 7.0), (1, 0.3)):
        exact = math.fsum((((a[item].astype("f8") - b[item]) / scale) ** 2).reshape(-1))
        assert math.fsum(sums[item].reshape(-1).tolist()) == pytest.approx(exact, rel=1e-13)
    assert arithmetic.EXACT == {"enable_fp_fusion": False}
