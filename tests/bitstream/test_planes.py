"""The scan over planes against a slow one that looks every neighbour up: same symbols, tables and bytes."""

import numpy as np
import pytest

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream import rans
from xwalloc.bitstream.contexts import CLASSES, MAGNITUDES, Kind, Role, first_class, magnitude_code, weights
from xwalloc.bitstream.planes import NO_PLANE, Order, classify, decode, encode, planes_of
from xwalloc.bitstream.tables import shipped
from xwalloc.errors import FormatError


def stack(shape, count, density, *, dtype=np.int32, seed=0, links=(), dimensions=2):
    """A buffer of `count` equal planes that look at each other, and the planes."""
    nz, ny, nx = shape
    rng = np.random.default_rng(seed)
    data = np.rint(rng.laplace(size=(count, nz, ny, nx)) * density).astype(dtype)
    planes = planes_of(count)
    planes["base"] = np.arange(count) * (nz * ny * nx)
    planes["nz"], planes["ny"], planes["nx"], planes["sz"], planes["sy"] = nz, ny, nx, ny * nx, nx
    planes["code"] = np.maximum(magnitude_code(np.abs(data.astype(float)).mean(axis=(1, 2, 3))), 1)
    for link in links:
        planes[link][1:] = planes["base"][:-1]
        planes[link + "_code"][1:] = planes["code"][:-1]
        if link == "parent":
            for axis, n in (("z", nz), ("y", ny), ("x", nx)):
                planes["parent_n" + axis] = n
                planes["parent_" + axis] = rng.integers(0, 2, count)
    return data.reshape(-1), planes


def holes(buffer, share, seed=0):
    mask = (np.random.default_rng(seed).random(buffer.size) < share).astype(np.uint8)
    mask[: buffer.size // 5] = 1
    return np.where(mask, 0, buffer), mask


def check(reference, buffer, planes, kind, dimensions, mask=None, order=Order.ROWS):
    """Symbols, tables and bytes are those of the slow scan; the planes come back."""
    tables = shipped()
    flags_first = order == Order.FLAGS_FIRST
    slow = reference.scan(buffer, planes, MAGNITUDES, *weights(kind, dimensions), mask, flags_first)
    index = tables.index[first_class(kind, Role.DENSE) :]
    classes = [role * CLASSES + reference.class_of(e) for role, e in zip(slow.roles, slow.expectations, strict=True)]
    expected = [int(index[number]) for number in classes]
    arguments = (buffer, planes, kind, dimensions) if mask is None else (buffer, planes, kind, dimensions, mask)
    values, contexts = classify(*arguments, order=order)
    assert values.tolist() == slow.values
    assert contexts.tolist() == classes
    stream = rans.encode(np.array(slow.values, np.int64), np.array(expected, np.uint16), tables)
    if order == Order.ROWS:
        assert encode(*arguments) == stream
    out = np.zeros_like(buffer)
    decode(stream, out, *arguments[1:], order=order)
    coded = np.concatenate([np.zeros(0, int), *(indices(plane) for plane in planes if plane["code"] > 0)])
    np.testing.assert_array_equal(out[coded], buffer[coded])
    rest = np.setdiff1d(np.arange(buffer.size), coded)
    assert not out[rest].any()
    return slow


def indices(plane):
    z, y, x = np.ogrid[: plane["nz"], : plane["ny"], : plane["nx"]]
    return (plane["base"] + z * plane["sz"] + y * plane["sy"] + x).reshape(-1)


SHAPES = [(1, 1, 1), (1, 1, 9), (1, 7, 1), (1, 6, 17), (1, 5, 8), (3, 4, 11), (2, 1, 5)]
LINKS = [(), ("previous",), ("parent",), ("sibling",), ("previous", "parent", "sibling")]


@pytest.mark.parametrize("links", LINKS, ids="-".join)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.03, 0.2, 1.0, 300.0])
def test_scan_of_every_neighbour(reference, shape, links, density):
    buffer, planes = stack(shape, 3, density, links=links, seed=shape[2])
    for kind in (Kind.LATENT, Kind.RESIDUAL):
        check(reference, buffer, planes, kind, 2)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind != Kind.LATTICE])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_scan_of_every_kind(reference, kind, dimensions):
    shape = {1: (1, 1, 61), 2: (1, 9, 13), 3: (4, 5, 6)}[dimensions]
    for density in (0.05, 2.0):
        buffer, planes = stack(shape, 2, density, links=("previous",), seed=int(kind))
        check(reference, buffer, planes, kind, dimensions)


@pytest.mark.parametrize("links", LINKS, ids="-".join)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.03, 0.2, 3.0])
@pytest.mark.parametrize("share", [None, 0.2])
def test_scan_with_flags_first(reference, shape, links, density, share):
    buffer, planes = stack(shape, 3, density, links=links, seed=shape[2])
    mask = None
    if share is not None:
        buffer, mask = holes(buffer, share)
    for kind in (Order.FLAGS_FIRST.latents, Order.FLAGS_FIRST.residuals):
        slow = check(reference, buffer, planes, kind, 2, mask, Order.FLAGS_FIRST)
        assert len(slow.values) == len(reference.scan(buffer, planes, MAGNITUDES, *weights(kind, 2), mask).values)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9, 1.0])
@pytest.mark.parametrize("density", [0.04, 3.0])
def test_masked_samples_are_not_coded(reference, share, density):
    buffer, planes = stack((2, 7, 21), 2, density, links=("previous",))
    buffer, mask = holes(buffer, share)
    slow = check(reference, buffer, planes, Kind.RESIDUAL, 2, mask)
    dense = [role for role in slow.roles if role != 2]
    assert len(dense) <= np.count_nonzero(mask == 0)


def test_sparse_planes_have_groups_and_flags(reference):
    buffer, planes = stack((1, 40, 50), 1, 0.0)
    buffer[[0, 7, 8, 1003, 1999]] = 1, -1, 2, -3, 1
    planes["code"] = 1
    slow = check(reference, buffer, planes, Kind.RESIDUAL, 2)
    assert slow.roles.count(2) == 40 * 7
    assert slow.roles.count(0) == 0
    assert len(encode(buffer, planes, Kind.RESIDUAL, 2)) < 80


def test_planes_inside_a_wider_buffer(reference):
    """Subbands of different sizes, strides of the whole, a parent half as large, a plane of zeros in between."""
    rng = np.random.default_rng(5)
    whole = np.rint(rng.laplace(size=(1, 16, 22)) * 3).astype(np.int32)
    boxes = [(0, 0, 8, 11), (0, 11, 8, 11), (8, 0, 8, 11), (8, 11, 8, 11)]
    whole[0, 8:, :11] = 0
    planes = planes_of(4)
    for plane, (y, x, ny, nx) in zip(planes, boxes, strict=True):
        plane["base"], plane["nz"], plane["ny"], plane["nx"], plane["sz"], plane["sy"] = y * 22 + x, 1, ny, nx, 352, 22
        plane["code"] = magnitude_code(np.abs(whole[0, y : y + ny, x : x + nx]).mean(keepdims=True))[0, 0]
    assert planes["code"][2] == 0
    planes["parent"][3], planes["parent_code"][3] = 0, planes["code"][0]
    planes["parent_ny"][3], planes["parent_nx"][3], planes["parent_y"][3], planes["parent_x"][3] = 4, 5, 1, 1
    planes["sibling"][1], planes["sibling_code"][1] = 0, planes["code"][0]
    for kind in (Kind.LATENT, Kind.LATENT_PARALLEL):
        check(reference, whole.reshape(-1), planes, kind, 2)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_magnitudes_beyond_every_class(reference, dtype):
    largest = np.iinfo(dtype).max
    buffer = np.array([0, 1, -1, largest, -largest, largest // 3, 5, 0] * 4, dtype)
    planes = planes_of(2)
    planes["base"], planes["ny"], planes["nx"], planes["sz"], planes["sy"] = [0, 16], 2, 8, 16, 8
    planes["previous"][1] = 0
    for code in (1, 17, len(MAGNITUDES) - 1):
        planes["code"] = planes["previous_code"] = code
        check(reference, buffer, planes, Kind.SIDE, 2)


def test_streams_for_other_planes_are_refused():
    buffer, planes = stack((1, 12, 20), 2, 2.0)
    stream = encode(buffer, planes, Kind.LATENT, 2)
    other = planes.copy()
    other["nx"] -= 1
    for data, where in (
        (stream, other),
        (stream[:-2], planes),
        (stream + b"\0\0", planes),
        (stream[:15], planes),
        (b"", planes),
    ):
        with pytest.raises(FormatError):
            decode(data, np.zeros_like(buffer), where, Kind.LATENT, 2)


def test_values_beyond_the_type_are_refused():
    """What only an int64 holds is not cut to an int32."""
    buffer, planes = stack((1, 1, 9), 1, 1.0, dtype=np.int64)
    buffer[4] = 2**31
    stream = encode(buffer, planes, Kind.SIDE, 2)
    with pytest.raises(FormatError):
        decode(stream, np.zeros(9, np.int32), planes, Kind.SIDE, 2)


def test_a_tiny_stream_for_huge_planes_ends_soon():
    planes = planes_of(1)
    planes["ny"], planes["nx"], planes["sy"], planes["code"] = 1 << 11, 1 << 11, 1 << 11, 30
    with pytest.raises(FormatError):
        decode(bytes([2] + [0, 0, 1, 0] * 4), np.zeros(1 << 22, np.int32), planes, Kind.LATENT, 2)


def test_planes_look_at_nothing_by_default():
    planes = planes_of(3)
    for name in ("previous", "parent", "sibling"):
        assert (planes[name] == NO_PLANE).all()
    assert coder.PLANE_DTYPE.itemsize == 8 * len(coder.PLANE_DTYPE.names)
