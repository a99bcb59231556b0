"""Frames whose latents are refined by the network of their model: round trips, the choice per chunk, forgeries."""

import itertools

import numpy as np
import pytest
import xarray as xr

import xwalloc
from xwalloc.bitstream.frame import DecodeLimits, Frame, Section
from xwalloc.codec import chunk, places, transform_mode
from xwalloc.codec.transform_sections import NAMED, REFINED
from xwalloc.errors import FormatError, XwallocError
from xwalloc.models.fitted import NETWORK
from xwalloc.models.model import Model
from xwalloc.models.neural import Architecture, Network
from xwalloc.models.neural.arithmetic import Layer
from xwalloc.numcodecs import Walloc

SHAPES = {1: (4, 300), 2: (6, 48, 41), 3: (3, 16, 12, 18)}
CASES = [
    (1, "dyadic", "shared"), (2, "dyadic", "shared"), (3, "dyadic", "shared"),
    (2, "packet", "shared"), (1, "packet", "fixed"), (2, "dyadic", "fixed"),
]  # fmt: skip


def some_network(architecture, seed=0):
    """Weights without any training, whose corrections are not zero."""
    rng = np.random.default_rng(seed)
    layers = [
        Layer(
            weight=rng.integers(-30, 31, shape).astype(np.int8),
            bias=rng.integers(-500, 500, shape[0]).astype(np.int32),
            shift=rng.integers(6, 9, shape[0]).astype(np.uint8),
        )
        for shape in architecture.shapes().values()
    ]
    codes = rng.integers(-9, 10, (architecture.widths[0], architecture.codes)).astype(np.int8)
    return Network(architecture=architecture, layers=tuple(layers), codes=codes)


def with_network(model, network):
    arrays = {NETWORK + name: tensor for name, tensor in network.tensors().items()}
    description = {**model.description, "network": network.description()}
    return Model(description=description, arrays={**model.arrays, **arrays})


def field(dimensions, dtype="f4", seed=0):
    rng = np.random.default_rng(seed)
    shape = SHAPES[dimensions]
    mixed = np.cumsum(np.cumsum(rng.normal(size=shape), axis=-1), axis=1) * 8
    dims = ("band", "z", "y", "x")
    return xr.DataArray(np.rint(mixed).astype(dtype), dims=(dims[0], *dims[4 - dimensions :]))


def refined_model(dimensions, tree="dyadic", kind="shared", **goal):
    data = field(dimensions)
    plain = xwalloc.fit(
        data, channel_dim="band", signal_dims=data.dims[1:], tree=tree, levels=2 if tree == "packet" else 3,
        **(goal or {"max_error": 6.0}),
    )  # fmt: skip
    architecture = Architecture(
        kind=kind, tree=tree, dimensions=dimensions, levels=2 if tree == "packet" else 0,
        rank=len(plain.arrays["vectors"]) if kind == "fixed" else 0, widths=(6,),
    )  # fmt: skip
    return plain, with_network(plain, some_network(architecture))


def codec(model, dimensions=2, **target):
    target = target or model.target
    return Walloc(channel_axis=0, signal_axes=range(1, dimensions + 1), model=model, **target)


def kind_of(frame):
    return sections_of(frame)[1][Section.MODEL][0]


def sections_of(frame):
    parsed = Frame.parse(frame, DecodeLimits(max_bytes=2**30))
    return parsed.header, dict(parsed.sections)


@pytest.fixture
def only_named(monkeypatch):
    """No other way to code a chunk than with the basis of the model."""
    encode = transform_mode.encode
    monkeypatch.setattr(
        transform_mode, "encode", lambda *a: encode(*a) if a[8] is not None and not any(a[9:]) else None
    )
    monkeypatch.setattr(chunk, "in_lattice_mode", lambda *a: None)


@pytest.fixture
def only_refined(monkeypatch, only_named):
    """The network of the model is used whether it helps or not."""
    counter = itertools.count()
    monkeypatch.setattr(places.Attempt, "cost", property(lambda self: next(counter)))


@pytest.mark.usefixtures("only_refined")
@pytest.mark.parametrize(("dimensions", "tree", "kind"), CASES)
@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_refined_frames_keep_the_bound(dimensions, tree, kind, dtype):
    plain, model = refined_model(dimensions, tree, kind)
    for part in (field(dimensions, dtype).values, field(dimensions, dtype, seed=3).values[..., :-5]):
        for target in ({"max_error": 6.0}, {"step": 12.0}, {"snr": 25.0}):
            wanted = codec(model, dimensions, **target)
            frame = wanted.encode(part)
            assert kind_of(frame) == REFINED
            assert xwalloc.inspect(frame).model == model.id[:23]
            decoded = wanted.decode(frame)
            if "max_error" in target:
                assert np.abs(decoded.astype("f8") - part).max() <= 6.0
            region = (slice(1, 2), *(slice(3, n - 2) for n in part.shape[1:]))
            np.testing.assert_array_equal(chunk.decode_frame(frame, region=region), decoded[region])
            if "step" in target:  # the same symbols without the network
                linear = codec(plain, dimensions, **target)
                assert not np.array_equal(linear.decode(linear.encode(part)), decoded)


@pytest.mark.usefixtures("only_named")
@pytest.mark.parametrize("target", [{"max_error": 6.0}, {"step": 12.0}])
def test_a_network_that_does_not_help_is_not_used(target):
    """Weights without training make latents worse, and cost nothing but the attempt."""
    plain, model = refined_model(2)
    frame, linear = codec(model, **target).encode(field(2).values), codec(plain, **target).encode(field(2).values)
    assert kind_of(linear) == kind_of(frame) == NAMED
    assert len(frame) == len(linear)
    nothing = with_network(plain, Network.untrained(Architecture()))
    assert kind_of(codec(nothing, **target).encode(field(2).values)) == NAMED


@pytest.mark.usefixtures("only_refined")
def test_missing_samples_survive():
    _, model = refined_model(2)
    part = field(2).values.copy()
    part[:, 5:30, 7:20] = np.nan
    wanted = codec(model, max_error=6.0)
    frame = wanted.encode(part)
    decoded = wanted.decode(frame)
    assert kind_of(frame) == REFINED
    np.testing.assert_array_equal(np.isnan(decoded), np.isnan(part))
    assert np.nanmax(np.abs(decoded - part)) <= 6.0


@pytest.mark.usefixtures("only_refined")
def test_forged_frames_raise_our_errors():
    plain, model = refined_model(2)
    frame = codec(model, step=12.0).encode(field(2).values)
    header, sections = sections_of(frame)
    rng = np.random.default_rng(0)
    for _ in range(60):
        name = [Section.MODEL, Section.LATENTS][int(rng.integers(2))]
        data = bytearray(sections[name])
        data[int(rng.integers(24 if name == Section.MODEL else 0, len(data)))] ^= 1 << int(rng.integers(8))
        bad = Frame(header=header, sections={**sections, name: bytes(data)}).to_bytes()
        try:
            found = codec(model, step=12.0).decode(bad)
        except XwallocError:
            continue
        assert found.shape == field(2).shape
    other = sections[Section.MODEL][:16] + plain.key + sections[Section.MODEL][24:]
    with pytest.raises(FormatError, match="has none"):
        codec(plain, step=12.0).decode(Frame(header=header, sections={**sections, Section.MODEL: other}).to_bytes())


def forgeries():
    _, model = refined_model(2)
    described, arrays = dict(model.description), dict(model.arrays)
    weight, shift = arrays["network.hidden.0.weight"], arrays["network.output.shift"]
    network = described["network"]
    too_long = {**network, "widths": [512, 512, 512]}
    large = {
        NETWORK + name: tensor
        for name, tensor in Network.untrained(Architecture(widths=(512, 512, 512))).tensors().items()
    }
    return {
        "tree": ({"network": {**network, "tree": "packet", "levels": 3}}, {}),
        "dimensions": ({"network": {**network, "dimensions": 1}}, {}),
        "rank": ({"network": {**network, "kind": "fixed", "rank": 3}}, {}),
        "no description": ({"network": None}, {}),
        "a list": ({"network": [1, 2]}, {}),
        "version": ({"network": {**network, "version": 2}}, {}),
        "widths": ({"network": {**network, "widths": [1 << 60]}}, {}),
        "types": ({}, {"network.hidden.0.weight": weight.astype("f4")}),
        "shapes": ({}, {"network.hidden.0.weight": weight[:, :-1]}),
        "more tensors": ({}, {"network.hidden.9.weight": weight}),
        "shifts": ({}, {"network.output.shift": np.full_like(shift, 24)}),
        "sums": ({}, {"network.hidden.0.bias": np.full(6, 2**31 - 1, np.int32)}),
        "work": ({"network": too_long}, large),
    }


def test_forged_networks_are_refused():
    _, model = refined_model(2)
    for description, arrays in forgeries().values():
        bad = Model(description={**model.description, **description}, arrays={**model.arrays, **arrays})
        with pytest.raises(FormatError):
            _ = Model.from_bytes(bad.data).fitted
        with pytest.raises(XwallocError):
            codec(bad, step=12.0).encode(field(2).values)
