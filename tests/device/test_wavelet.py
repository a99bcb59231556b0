"""Exact wavelet transforms on a device: the same bits as on a CPU."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xwalloc.errors import BudgetError, ConfigError
from xwalloc.transform import wavelet as cpu
from xwalloc.transform.wavelet import exact_filters, get_wavelet, plan

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from xwalloc.device import wavelet  # noqa: E402

GEOMETRIES = [
    ((21, 30), 2, "dyadic"), ((13, 30), 1, "packet"), ((70,), 4, "dyadic"), ((45,), 2, "packet"),
    ((6, 5, 7), 2, "dyadic"), ((4, 6, 5), 1, "packet"), ((4, 30), 2, "dyadic"), ((30, 4), 2, "dyadic"),
    ((5, 1, 20), 2, "dyadic"), ((1, 30, 1), 2, "dyadic"), ((4,), 1, "dyadic"), ((5, 4), 1, "packet"),
    ((3, 3), 2, "dyadic"),
]  # fmt: skip
SHIFTS = 14, 9


@pytest.fixture(name="large_tiles", autouse=True)
def large_tiles_fixture(device, monkeypatch, chunks):
    """Few programs per plane and step: the interpreter takes its time for each."""
    if device.type == "cpu":
        chunks.set_tiles(monkeypatch, (16, 32, 16, 32))


def integers(shape, top=2**20, seed=0):
    return np.random.default_rng(seed).integers(-top, top, shape, endpoint=True).astype(np.float64)


def filters_of(name, side, shifts=SHIFTS):
    return [exact_filters(get_wavelet(name), side, shift) for shift in shifts]


def check(device, x, p, name="bior4.4", boundary="reflect", shifts=SHIFTS, in_place=False, **options):
    """Both transforms of planes x with alternating filters, into new tensors or in place, against those of the CPU."""
    which = np.arange(len(x)) % len(shifts)
    for side, here, there in (
        ("analysis", cpu.forward_exact, wavelet.forward_exact),
        ("synthesis", cpu.inverse_exact, wavelet.inverse_exact),
    ):
        filters = filters_of(name, side, shifts)
        expected = np.stack([here(plane, p, filters[w], boundary) for plane, w in zip(x, which, strict=True)]).tobytes()
        given = torch.from_numpy(x.copy()).to(device)
        found = there(given, p, filters, boundary, which=which, out=given if in_place else None, **options)
        assert found.cpu().numpy().tobytes() == expected
        if in_place:
            assert found is given
        else:
            assert given.cpu().numpy().tobytes() == x.tobytes()


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_the_same_bits_as_on_a_cpu(device, geometry):
    check(device, integers((2, *geometry[0])), plan(*geometry))
    check(device, integers((1, *geometry[0])), plan(*geometry), shifts=SHIFTS[:1], in_place=True)


@pytest.mark.parametrize("name", ["db1", "db4"])
def test_periodic(device, name):
    check(device, integers((2, 8, 16)), plan((8, 16), 1, "dyadic"), name, "periodization")
    check(device, integers((2, 32)), plan((32,), 2, "packet"), name, "periodization")


@pytest.mark.parametrize("name", ["bior2.2", "bior6.8"])
def test_filters_longer_than_the_axis(device, name):
    check(device, integers((2, 5, 21)), plan((5, 21), 1, "dyadic"), name)
    check(device, integers((2, 13)), plan((13,), 2, "packet"), name)


@pytest.mark.parametrize("geometry", [((21, 30), 1, "dyadic"), ((45,), 2, "packet"), ((40,), 2, "dyadic")], ids=str)
def test_many_tiles(device, monkeypatch, chunks, geometry):
    chunks.set_tiles(monkeypatch, (8, 16, 8, 16))
    for in_place in (False, True):
        check(device, integers((1, *geometry[0])), plan(*geometry), in_place=in_place, bounds=[2.0**20, 2.0**20])


def test_halves_and_negative_zeros(device):
    x = integers((2, 7, 30), top=3)
    x[x == 0] = -0.0
    check(device, x, plan((7, 30), 2), shifts=(1, 2))


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(0, 3), st.sampled_from(["dyadic", "packet"]),
    st.sampled_from([1, 2**10, 2**30]), st.integers(0, 99),
)  # fmt: skip
def test_any_geometry(device, shape, levels, tree, top, seed):
    check(device, integers((2, *shape), top, seed), plan(tuple(shape), levels, tree))


def test_views(device):
    p = plan((12, 9), 2)
    x = integers((6, 3, 12, 20))
    given = torch.from_numpy(x).to(device)[::2, 1, :, 2::2]
    out = torch.zeros((12, 9, 3), dtype=torch.float64, device=device).permute(2, 0, 1)
    for side, here, there in (
        ("analysis", cpu.forward_exact, wavelet.forward_exact),
        ("synthesis", cpu.inverse_exact, wavelet.inverse_exact),
    ):
        filters = filters_of("bior4.4", side)
        there(given, p, filters[:1], "reflect", out=out)
        assert np.array_equal(out.cpu().numpy(), here(x[::2, 1, :, 2::2], p, filters[0], "reflect"))


def test_without_planes_and_without_steps(device):
    filters = filters_of("bior4.4", "analysis")
    nothing = torch.zeros((0, 8, 8), dtype=torch.float64, device=device)
    assert wavelet.forward_exact(nothing, plan((8, 8), 1), filters, "reflect").shape == (0, 8, 8)
    for in_place in (False, True):
        check(device, integers((2, 3, 3)), plan((3, 3), 2), in_place=in_place)


def outcome(transform):
    try:
        return transform()
    except BudgetError as error:
        return str(error)


@pytest.mark.parametrize("geometry", [((8, 10), 2, "dyadic"), ((40,), 3, "dyadic")], ids=str)
@pytest.mark.parametrize("bits", [24, 28])
def test_the_budget(device, geometry, bits):
    # Where a bound does not suffice, data are looked at; one plane may need that and another not.
    p = plan(*geometry)
    x = integers((2, *p.shape), top=2**bits)
    x[0] = integers(p.shape, top=99)
    x[1].reshape(-1)[1:] *= 2.0**-6
    np.rint(x, out=x)
    for side, here, there in (
        ("analysis", cpu.forward_exact, wavelet.forward_exact),
        ("synthesis", cpu.inverse_exact, wavelet.inverse_exact),
    ):
        filters = filters_of("bior4.4", side, (8, 24))
        for bound in (None, 2.0**bits):
            bounds = None if bound is None else [99.0, bound]
            first = here(x[0], p, filters[0], "reflect")
            second = outcome(lambda here=here, f=filters[1], b=bound: here(x[1], p, f, "reflect", bound=b))
            found = outcome(
                lambda there=there, f=filters, b=bounds: there(
                    torch.from_numpy(x).to(device), p, f, "reflect", which=[0, 1], bounds=b
                )
            )
            if isinstance(second, str):
                assert found == second
            else:
                assert found.cpu().numpy().tobytes() == np.stack([first, second]).tobytes()


def test_what_does_not_suit(device):
    filters, p = filters_of("bior4.4", "analysis"), plan((8, 8), 1)
    with pytest.raises(ConfigError, match="float64"):
        wavelet.forward_exact(torch.zeros((1, 8, 8), device=device), p, filters, "reflect")
    with pytest.raises(ConfigError, match="shape"):
        wavelet.forward_exact(torch.zeros((1, 8, 9), dtype=torch.float64, device=device), p, filters, "reflect")
    nan = torch.full((1, 8, 8), torch.nan, dtype=torch.float64, device=device)
    with pytest.raises(BudgetError, match="at most"):
        wavelet.forward_exact(nan, p, filters[:1], "reflect")
