"""Refinement networks: against plain int64 loops, libraries against each other, and hostile descriptions."""

from __future__ import annotations

import copy
import itertools
import json

import numpy as np
import pytest

from xwalloc.errors import ConfigError, FormatError
from xwalloc.models.neural import Architecture, Network, arithmetic, network, refine
from xwalloc.models.neural.arithmetic import Layer
from xwalloc.models.neural.features import companded, inputs, spectral_codes
from xwalloc.models.quantise import dequantise
from xwalloc.transform.tree import Plan, plan

RANK = 5
CASES = [
    (Architecture(widths=(8, 6)), plan((1, 37, 42), 3, "dyadic")),
    (Architecture(widths=(8, 6)), plan((37, 42), 4, "dyadic")),
    (Architecture(tree="packet", levels=2, widths=(6,)), plan((1, 21, 34), 2, "packet")),
    (Architecture(kind="fixed", tree="packet", levels=1, rank=RANK, widths=(7, 5)), plan((1, 21, 34), 1, "packet")),
    (Architecture(kind="fixed", rank=RANK, dimensions=1, widths=(6,)), plan((1, 1, 203), 4, "dyadic")),
    (Architecture(dimensions=1, widths=(6, 6, 6)), plan((1, 1, 203), 4, "dyadic")),
    (Architecture(dimensions=3, widths=(5,)), plan((9, 13, 16), 2, "dyadic")),
    (Architecture(tree="packet", levels=1, dimensions=3, widths=(5,)), plan((9, 13, 16), 1, "packet")),
]
EACH = pytest.mark.parametrize(("architecture", "geometry"), CASES, ids=[str(i) for i in range(len(CASES))])


def some_network(architecture: Architecture, seed: int = 0) -> Network:
    rng = np.random.default_rng(seed)
    layers = [
        Layer(
            weight=rng.integers(-30, 31, shape).astype(np.int8),
            bias=rng.integers(-500, 500, shape[0]).astype(np.int32),
            shift=rng.integers(6, 10, shape[0]).astype(np.uint8),
        )
        for shape in architecture.shapes().values()
    ]
    codes = rng.integers(-9, 10, (architecture.widths[0], architecture.codes)).astype(np.int8)
    return Network(architecture=architecture, layers=tuple(layers), codes=codes)


def some_symbols(geometry: Plan, batch: int = 2, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    symbols = np.rint(rng.laplace(0, 1.2, (batch, RANK, *geometry.shape))).astype(np.int32)
    symbols.reshape(-1)[::97] *= 400_000_000
    symbols.reshape(-1)[:2] = -(2**31), 2**31 - 1
    codes = rng.integers(1, 40, (RANK, len(geometry.subbands)))
    codes[2] = 0
    return symbols, codes


def reference(net: Network, symbols: np.ndarray, geometry: Plan, codes: np.ndarray) -> np.ndarray:
    """The definition, in int64, one tap at a time."""
    kind = net.architecture
    out = np.zeros(symbols.shape, np.int64)
    for view, item in itertools.product(net.views(geometry), range(len(symbols))):
        flat, target = symbols[item].reshape(RANK, -1), out[item].reshape(RANK, -1)
        shared = kind.kind == "shared"
        planes, signs = inputs(flat, view, kind.shape.lows, 0, RANK, shared)
        spectral = net.codes.astype(np.int64) @ spectral_codes(codes[:, list(view.subbands)], 0, RANK, shared)
        values = planes.astype(np.int64)
        for layer in net.layers:
            weight, shift = layer.weight.astype(np.int64), layer.shift.astype(np.int64)
            spread = (slice(None),) + (None,) * (values.ndim - 1)
            sums = np.broadcast_to(layer.bias.astype(np.int64)[spread], (len(weight), *values.shape[1:])).copy()
            if layer is net.layers[0]:
                sums += spectral.reshape(*spectral.shape, *(1,) * len(view.grid))
            reach = weight.shape[2] // 2
            wide = np.pad(values, [(0, 0), (0, 0)] + [(reach, reach)] * len(view.grid))
            for tap in itertools.product(range(weight.shape[2]), repeat=len(view.grid)):
                part = wide[
                    (slice(None), slice(None), *(slice(t, t + n) for t, n in zip(tap, view.grid, strict=False)))
                ]
                sums += np.tensordot(weight[(slice(None), slice(None), *tap)], part, axes=1)
            half = np.where(shift > 0, 1 << np.maximum(shift - 1, 0), 0)[spread]
            low = -127 if layer is net.layers[-1] else 0
            values = np.clip((sums + half) >> shift[spread], low, 127)
        count, own = kind.corrected, kind.shape.own
        signs = signs.reshape(max(1, kind.rank), kind.shape.planes, *signs.shape[1:])[:, kind.shape.context :]
        moved = np.clip(values[:count] * signs.reshape(count, *signs.shape[2:]) + values[count:], -127, 127)
        moved = moved.reshape(-1, own, *moved.shape[1:]).swapaxes(1, 2).reshape(RANK, own, *view.grid)
        there = view.index[-own:] >= 0
        used = codes[:, list(view.subbands[-kind.shape.own_subbands :])].any(axis=1) | (not shared)
        target[:, view.index[-own:][there]] = moved[:, there] * used[:, None]
    return out


@EACH
def test_matches_the_definition(architecture: Architecture, geometry: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    net = some_network(architecture)
    symbols, codes = some_symbols(geometry)
    expected = reference(net, symbols, geometry, codes)
    found = net.correct(symbols, geometry, codes)
    assert found.dtype == np.int8
    assert np.count_nonzero(found)
    assert np.array_equal(found, expected)
    # Nor does it matter how the work is cut.
    monkeypatch.setattr(network, "PLACES", 40)
    monkeypatch.setattr(arithmetic, "TILE", 31)
    assert np.array_equal(net.correct(symbols, geometry, codes), expected)


@EACH
def test_torch_agrees(architecture: Architecture, geometry: Plan) -> None:
    torch = pytest.importorskip("torch")
    net = some_network(architecture)
    symbols, codes = some_symbols(geometry)
    found = net.correct(torch.from_numpy(symbols), geometry, codes)
    assert found.dtype == torch.int8
    assert np.array_equal(found.numpy(), net.correct(symbols, geometry, codes))


@EACH
def test_untrained_is_linear(architecture: Architecture, geometry: Plan) -> None:
    symbols, codes = some_symbols(geometry)
    assert not Network.untrained(architecture).correct(symbols, geometry, codes).any()


@EACH
def test_receptive_field(architecture: Architecture, geometry: Plan) -> None:
    """A symbol changes no correction further away than the receptive field says."""
    net = some_network(architecture)
    symbols, codes = some_symbols(geometry, batch=1)
    before = net.correct(symbols, geometry, codes)
    symbols[0, 0].reshape(-1)[0] = 3
    for subband in geometry.subbands:
        symbols[(0, 0, *(part.start for part in subband.slices))] = -9
    changed = net.correct(symbols, geometry, codes) != before
    for subband in geometry.subbands:
        part = changed[(0, slice(None), *subband.slices)]
        for axis, splits in enumerate(geometry.splits):
            per_patch = 1 << (splits - min(splits, subband.level))
            beyond = (net.receptive_field // 2 + 1) * per_patch
            assert not np.take(part, range(min(beyond, part.shape[1 + axis]), part.shape[1 + axis]), 1 + axis).any()


@EACH
def test_round_trip(architecture: Architecture, geometry: Plan) -> None:
    net = some_network(architecture)
    again = Network.from_tensors(json.loads(json.dumps(net.description())), net.tensors())
    assert again.architecture == architecture
    symbols, codes = some_symbols(geometry, batch=1)
    assert np.array_equal(again.correct(symbols, geometry, codes), net.correct(symbols, geometry, codes))


def test_sums_stay_exact() -> None:
    """The bound holds for the worst inputs that there can be, and the check is sharp to a factor below 2."""
    architecture = Architecture(widths=(512,) * 2)
    net = Network.untrained(architecture)
    net.layers[1].weight[:] = 127
    with pytest.raises(FormatError, match="exact arithmetic"):
        Network.from_tensors(net.description(), net.tensors())
    net.layers[1].weight[:] = 28
    net = Network.from_tensors(net.description(), net.tensors())
    worst = np.full((512, 64), 127.0, np.float32)
    prepared = arithmetic.prepare(net.layers[1], worst)
    sums = prepared.matrix @ np.tile(worst, (9, 1))
    assert sums.max() == 512 * 9 * 28 * 127 < 2**24


def test_other_plans_are_left_alone() -> None:
    net = some_network(CASES[2][0])
    for geometry in (plan((1, 21, 34), 2, "dyadic"), plan((1, 21, 34), 3, "packet"), plan((1, 3, 34), 2, "packet")):
        symbols, codes = some_symbols(geometry)
        assert not net.correct(symbols, geometry, codes).any()


def test_refined_latents_stay_near_their_cells() -> None:
    symbols = np.array([-3, -1, 0, 1, 2, 9], np.int32)
    latents = np.empty(len(symbols))
    dequantise(symbols, 200.0, np.array([-9.0, -4.0, 3.0]), latents)
    corrections = np.array([127, -127, 5, -1, 0, 127], np.int8)
    expected = latents + (corrections.astype(np.int64) * 200 + 128) // 256
    assert np.array_equal(refine(latents, corrections, 200), expected)
    assert np.abs(refine(latents, corrections, 200) - latents).max() <= 100


def test_companding() -> None:
    size = np.array([0, 1, 4, 5, 8, 16, 900, 2000, 2**31 - 1, -(2**31), -5], np.int32)
    assert companded(size).tolist() == [0, 8, 32, 35, 44, 56, 125, 127, 127, -127, -35]
    assert (np.diff(companded(np.arange(1024))) >= 0).all()


HOSTILE = [
    ("version", 2), ("kind", "none"), ("tree", 7), ("dimensions", 4), ("dimensions", True), ("levels", 9),
    ("levels", 2.0), ("rank", 10**9), ("widths", []), ("widths", [10**9]), ("widths", [8.0]), ("widths", "88"),
    ("widths", [8] * 9), ("more", 1), ("widths", [16]), ("dimensions", 3), ("levels", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), HOSTILE, ids=[f"{n}-{v}" for n, v in HOSTILE])
def test_hostile_descriptions(name: str, value: object) -> None:
    net = some_network(CASES[2][0])
    with pytest.raises(FormatError):
        Network.from_tensors({**net.description(), name: value}, net.tensors())


def test_hostile_tensors() -> None:
    net = some_network(CASES[0][0])
    for name, tensor in net.tensors().items():
        for wrong in (tensor.astype(np.float32), tensor[:-1], tensor.tolist(), None):
            with pytest.raises(FormatError):
                Network.from_tensors(net.description(), {**net.tensors(), name: wrong})
    for tensors in ({}, {**net.tensors(), "more": np.zeros(1)}):
        with pytest.raises(FormatError, match="Expected tensors"):
            Network.from_tensors(net.description(), tensors)
    broken = copy.deepcopy(net.tensors())
    broken["output.shift"][0] = 40
    with pytest.raises(FormatError, match="exact arithmetic"):
        Network.from_tensors(net.description(), broken)
    broken = copy.deepcopy(net.tensors())
    broken["hidden.0.bias"][0] = -(2**31)
    with pytest.raises(FormatError, match="exact arithmetic"):
        Network.from_tensors(net.description(), broken)
    with pytest.raises(FormatError):
        Network.from_tensors([], net.tensors())  # type: ignore[arg-type]


def test_wrong_shapes() -> None:
    net = some_network(CASES[3][0])
    symbols, codes = some_symbols(CASES[3][1])
    with pytest.raises(ConfigError, match="Expected symbols of"):
        net.correct(symbols, CASES[2][1], codes)
    with pytest.raises(ConfigError, match="Expected 5 components"):
        net.correct(symbols[:, :3], CASES[3][1], codes[:3])
