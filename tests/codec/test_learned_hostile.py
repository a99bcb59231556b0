"""Frames and models of learned mode that nobody's encoder wrote."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: published models cannot run")

from xwalloc.bitstream.frame import AxisRole, DecodeLimits, Frame, Mode, Section  # noqa: E402
from xwalloc.codec import lattice_mode, learned_mode  # noqa: E402
from xwalloc.codec.chunk import ChunkCodec, decode_frame  # noqa: E402
from xwalloc.codec.config import CodecConfig  # noqa: E402
from xwalloc.errors import ConfigError, FormatError, ModelError  # noqa: E402
from xwalloc.models import library  # noqa: E402
from xwalloc.models.model import Model  # noqa: E402
from xwalloc.models.published import as_model  # noqa: E402
from xwalloc.models.upstream import Architecture  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

LIMIT = DecodeLimits(max_bytes=1 << 20)
SHAPE = (3, 36, 40)
HEAD = struct.Struct("<8sddddBB")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    module = Architecture(kind="LinearCodec2D", channels=3, J=2, latent_dim=6, latent_bits=4).build()
    with torch.no_grad():
        module.encoder[0].weight.mul_(20)
    return library.add(as_model(module))


def frame_of(model, **quality):
    array = np.random.default_rng(0).normal(size=SHAPE).cumsum(1).cumsum(2).astype("f4")
    array[0, 3:9, 4:12] = np.nan
    codec = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), model=model, **quality))
    return Frame.parse(codec.encode(array), LIMIT)


@pytest.fixture(scope="module")
def frame(model):
    """A frame with all sections of the mode."""
    with pytest.MonkeyPatch.context() as patch:
        from xwalloc.codec import chunk

        patch.setattr(chunk, "smaller", lambda a, b: a if a is not None and a.mode == Mode.LEARNED else b or a)
        patch.setattr(chunk, "in_lattice_mode", lambda *_: None)
        found = frame_of(model, max_error=4.0)
    assert found.header.mode == Mode.LEARNED
    assert set(found.sections) == {
        Section.MODEL, Section.LATTICE, Section.LATTICE_SYMBOLS, Section.RESIDUAL, Section.MASK
    }  # fmt: skip
    return found


def outcome(frame):
    """A decoded array of the stated shape, or None where the frame was refused."""
    try:
        decoded = decode_frame(frame.to_bytes(), limits=LIMIT)
    except FormatError:
        return None
    assert decoded.shape == frame.header.shape
    return decoded


def with_section(frame, section, data):
    sections = {name: payload for name, payload in frame.sections.items() if name != section}
    return replace(frame, sections=sections if data is None else {**sections, section: data})


def fields(frame, **changed):
    names = ("key", "offset", "scale", "tolerance", "step", "whole", "parallel")
    known = dict(zip(names, HEAD.unpack(frame.sections[Section.MODEL]), strict=True))
    return with_section(frame, Section.MODEL, HEAD.pack(*{**known, **changed}.values()))


def test_the_frame_decodes(frame):
    assert outcome(frame) is not None


@pytest.mark.parametrize("section", [Section.MODEL, Section.LATTICE, Section.LATTICE_SYMBOLS, Section.RESIDUAL])
def test_cut_and_missing_sections(frame, section):
    data = frame.sections[section]
    missing = outcome(with_section(frame, section, None))
    assert (missing is not None) == (section == Section.RESIDUAL)
    for cut in {0, 1, len(data) // 2, len(data) - 1}:
        assert section == Section.RESIDUAL or outcome(with_section(frame, section, data[:cut])) is None
        outcome(with_section(frame, section, data[:cut]))
    outcome(with_section(frame, section, data + b"\0"))
    assert outcome(with_section(frame, Section.LATENTS, b"")) is None


@pytest.mark.parametrize("section", [Section.MODEL, Section.LATTICE, Section.LATTICE_SYMBOLS, Section.RESIDUAL])
def test_every_first_byte_forged(frame, section):
    data = frame.sections[section]
    for at in range(min(len(data), 44)):
        for value in {0, 1, 127, 255, data[at] ^ 128}:
            try:
                outcome(with_section(frame, section, data[:at] + bytes([value]) + data[at + 1 :]))
            except ModelError:
                assert section == Section.MODEL


@pytest.mark.parametrize(
    "changed",
    [{name: value} for name in ("offset", "scale", "step") for value in (np.nan, np.inf, 1e308, -np.inf)]
    + [{"scale": -1.0}, {"step": -1.0}, {"tolerance": -1.0}, {"tolerance": np.nan}, {"whole": 2}, {"parallel": 2}],
)
def test_impossible_fields(frame, changed):
    decoded = outcome(fields(frame, **changed))
    assert decoded is None or changed in ({"offset": 1e308}, {"scale": 1e308})


def test_other_modes_and_shapes(frame):
    for mode in Mode:
        if mode != Mode.LEARNED:
            assert outcome(replace(frame, header=replace(frame.header, mode=mode))) is None
    for axis in range(3):
        for n in (0, 1, SHAPE[axis] + 4, 4000):
            shape = (*SHAPE[:axis], n, *SHAPE[axis + 1 :])
            outcome(replace(frame, header=replace(frame.header, shape=shape)))
    B, C, S = AxisRole
    for roles in ((B, S, S), (S, S, S), (C, B, S), (C, S, B), (S, C, S)):
        outcome(replace(frame, header=replace(frame.header, roles=roles)))
    for shape, roles in (((100_000, 3, 1, 1), (B, C, S, S)), ((3, 1, 300_000), (C, S, S))):
        assert outcome(replace(frame, header=replace(frame.header, shape=shape, roles=roles))) is None


def test_forged_latents(frame, model):
    shape = (1, 6, 1, 9, 10)
    for value, possible in ((7, True), (-7, True), (8, False), (-8, False), (2**31 - 1, False)):
        latents = np.zeros(shape, np.int32)
        latents[0, 2, 0, 3, 3] = value
        coded, _ = lattice_mode.draft(lattice_mode.for_integers(0), latents, None, latents.dtype, "default").encode()
        forged = replace(frame, sections={**frame.sections, **coded})
        assert (outcome(forged) is not None) == possible
    for grid in (lattice_mode.for_integers(1), lattice_mode.for_reals(0.5, 10.0), lattice_mode.for_bits()):
        head = lattice_mode.HEAD.pack(grid.kind, grid.unit, grid.radius)
        rest = frame.sections[Section.LATTICE][len(head) :]
        assert outcome(with_section(frame, Section.LATTICE, head + rest)) is None


def test_a_model_of_another_kind(frame, model):
    data = [np.random.default_rng(2).normal(size=(1, 3, 1, 32, 32))]
    linear = library.add(linear_model(data))
    assert outcome(fields(frame, key=linear.key)) is None
    mono = library.add(fresh(kind="Codec1D", channels=3, J=2, latent_dim=4, latent_bits=4, Nd=8))
    assert outcome(fields(frame, key=mono.key)) is None
    grey = library.add(fresh(kind="LinearCodec2D", channels=1, J=2, latent_dim=6, latent_bits=4))
    assert outcome(fields(frame, key=grey.key)) is None
    with pytest.raises(ModelError):
        decode_frame(fields(frame, key=b"?" * 8).to_bytes())
    stepped = frame_of(linear, step=1.0)
    named = with_section(stepped, Section.MODEL, stepped.sections[Section.MODEL].replace(linear.key, model.key))
    assert outcome(named) is None


def fresh(**sizes):
    return as_model(Architecture(**sizes).build())


def linear_model(data):
    import xarray as xr

    import xwalloc

    return xwalloc.fit(xr.DataArray(data[0][0, :, 0], dims=("band", "y", "x"), name="a"), max_error=0.5)


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": None}, {"architecture": {}}, {"architecture": []}, {"architecture": "x" * 10**5},
        {"channels": 4}, {"channels": "3"}, {"channels": -1}, {"channels": True}, {"dimensions": 1}, {"levels": 3},
        {"range": [1, 0]}, {"range": [0]}, {"range": "ab"}, {"range": [0, 1e999]}, {"range": [0, None]}, {"range": 7},
    ],
)  # fmt: skip
def test_forged_descriptions(frame, model, change):
    forged = Model(description={**model.description, **change}, arrays=model.arrays)
    object.__setattr__(forged, "data", repr(change).encode())
    library.add(forged)
    assert outcome(fields(frame, key=forged.key)) is None
    with pytest.raises(FormatError):
        _ = forged.published


@pytest.mark.parametrize(
    "sizes",
    [
        {"J": 8}, {"J": 80}, {"latent_dim": 65536}, {"latent_dim": 2**70}, {"latent_bits": 1}, {"latent_bits": 60},
        {"Nd": 8192}, {"Nd": 33}, {"num_stages": 64}, {"num_stages": -1}, {"channels": 4096},
    ],
)  # fmt: skip
def test_huge_architectures_are_refused_before_anything_is_allocated(model, sizes):
    forged = {**model.description["architecture"], **sizes}
    with pytest.raises(FormatError):
        _ = Model(description={**model.description, "architecture": forged}, arrays=model.arrays).published


def test_forged_weights(frame, model):
    name = "encoder.0.weight"
    for array in (
        np.full_like(model.arrays[name], np.nan), model.arrays[name].astype("f8"), model.arrays[name][:1],
        np.zeros(0, "f4"),
    ):  # fmt: skip
        forged = library.add(Model(description=model.description, arrays={**model.arrays, name: array}))
        assert outcome(fields(frame, key=forged.key)) is None
    for arrays in ({}, {**model.arrays, "more": np.zeros(1, "f4")}):
        with pytest.raises(FormatError):
            _ = Model(description=model.description, arrays=arrays).published
    wild = {n: a * np.float32(1e38) if "decoder" in n else a for n, a in model.arrays.items()}
    outcome(fields(frame, key=library.add(Model(description=model.description, arrays=wild)).key))


def test_a_network_that_yields_no_numbers(frame, model, monkeypatch):
    from xwalloc.models.published import Published

    monkeypatch.setattr(Published, "decode", lambda *_, **__: np.full((1, *SHAPE), np.nan))
    assert outcome(frame) is None
    assert frame_of(model, step=1).header.mode != Mode.LEARNED


def test_a_checkpoint_with_nan_is_not_imported(model):
    from xwalloc.models.published import module_of

    module = module_of(model)
    with torch.no_grad():
        module.encoder[0].bias[0] = float("nan")
    with pytest.raises(ConfigError, match="NaN"):
        as_model(module)
    with pytest.raises(ConfigError, match="lower and a higher"):
        as_model(module_of(model), value_range=(1, 1))
    with pytest.raises(ConfigError, match=r"xwalloc\.models\.upstream"):
        as_model(torch.nn.Linear(1, 1))


def test_sections_carry_what_they_say(frame, model):
    contents = learned_mode.read_latents(frame.sections, (1, 3, 1, *SHAPE[1:]), 2, library.find)
    assert contents.latents.shape == (1, 6, 9, 10)
    assert np.abs(contents.latents).max() <= 7
