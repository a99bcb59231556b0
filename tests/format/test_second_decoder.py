"""The format as docs/format.md describes it is the format that xwalloc writes: a second decoder gets the same bits."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import google_crc32c
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

import xwalloc
from xwalloc.codec import chunk, places, transform_mode
from xwalloc.codec.chunk import ChunkCodec, decode_frame
from xwalloc.codec.config import CodecConfig
from xwalloc.models.model import Model
from xwalloc.models.neural import Architecture, Network
from xwalloc.models.neural.arithmetic import Layer
from xwalloc.numcodecs import Walloc


def load(name: str) -> ModuleType:
    """A module beside this one."""
    spec = importlib.util.spec_from_file_location(f"format_{name}", Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


second = load("second_decoder")
networks = load("second_networks")
example = load("example")

STORED, LATTICE, TRANSFORM, LEARNED = range(4)
MASK, EXCEPTIONS, RESIDUAL = 2, 3, 8
DTYPES = ("i1", "u1", "<i2", ">u2", "<i4", ">u4", "<f2", ">f4", "<f8", ">f8")
Case = tuple[NDArray[Any], dict[str, Any]]


def smooth(shape: tuple[int, ...], seed: int = 0, noise: float = 0.0) -> NDArray[np.float64]:
    """A few waves and a slope, alike along the first axis."""
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    total = sum((20 * np.sin(0.11 * (1 + axis) * g + axis) for axis, g in enumerate(grids)), np.zeros(shape))
    return np.asarray(total + 0.3 * grids[-1] + noise * rng.normal(size=shape) + 60)


def holes(array: NDArray[Any]) -> NDArray[Any]:
    """With blocks and single places of NaN, of infinities, of -9999, and of wild values."""
    rng = np.random.default_rng(5)
    array = array.copy()
    array[..., 3:9, 4:12] = np.nan
    array[0, :4, :] = -9999
    flat = array.reshape(-1)
    for value, count in ((np.nan, 7), (np.inf, 30), (-np.inf, 3), (-9999, 5), (3e30, 2)):
        flat[rng.integers(0, flat.size, count)] = value
    return array


def same(frame: bytes) -> NDArray[Any]:
    """Decode with both decoders, which must agree in every bit."""
    ours = decode_frame(frame)
    theirs = second.decode(frame)
    assert theirs.dtype == ours.dtype
    assert theirs.shape == ours.shape
    assert theirs.tobytes() == ours.tobytes()
    return ours


def check(array: NDArray[Any], config: dict[str, Any]) -> tuple[int, set[int]]:
    """Encode, compare, and return mode and sections of the frame."""
    frame = ChunkCodec(CodecConfig(**config)).encode(array)
    same(frame)
    header, sections = second.parse(frame)
    return header.mode, set(sections)


CUBE: dict[str, Any] = {"channel_axis": 0, "signal_axes": (1, 2)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quality", [{"max_error": 4}, {"max_error": 0.6}, {"lossless": True}, {"step": 3.0}], ids=str)
def test_dtypes(dtype: str, quality: dict[str, Any]) -> None:
    array = np.clip(smooth((4, 23, 26), noise=0.4), 0, 120).astype(dtype)
    mode, _ = check(array, {**CUBE, **quality})
    assert mode == (TRANSFORM if "step" in quality else LATTICE if "lossless" in quality else mode)


GEOMETRIES: dict[str, Case] = {
    "series": (smooth((3, 300)), {"channel_axis": 0, "signal_axes": (1,)}),
    "series-without-channels": (smooth((700,)), {"signal_axes": (0,)}),
    "volume": (smooth((2, 9, 13, 17)), {"channel_axis": 0, "signal_axes": (1, 2, 3)}),
    "volume-without-channels": (smooth((12, 13, 15)), {"signal_axes": (0, 1, 2)}),
    "channel-last": (smooth((21, 19, 5)), {"channel_axis": 2, "signal_axes": (0, 1)}),
    "channel-between": (smooth((21, 5, 19)), {"channel_axis": 1, "signal_axes": (0, 2)}),
    "batches": (smooth((2, 17, 3, 2, 18)), {"channel_axis": 2, "signal_axes": (1, 4)}),
    "batches-of-series": (smooth((5, 6, 40)), {"signal_axes": (1,)}),
    "flat-axis": (smooth((3, 1, 200)), CUBE),
    "thin": (smooth((3, 200, 2)), CUBE),
    "one-row-volume": (smooth((2, 1, 1, 150)), {"channel_axis": 0, "signal_axes": (1, 2, 3)}),
    "odd": (smooth((3, 37, 31)), CUBE),
    "many-channels": (smooth((40, 9, 11)), CUBE),
}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("quality", [{"max_error": 2.0}, {"max_error": 1e-4}, {"step": 1.5}], ids=str)
def test_axes_and_sizes(name: str, quality: dict[str, Any]) -> None:
    array, axes = GEOMETRIES[name]
    check(array.astype("f4"), {**axes, **quality})
    if "max_error" in quality:
        check(np.rint(array).astype("i4"), {**axes, **quality})


TRANSFORMS: dict[str, dict[str, Any]] = {
    "parallel": {"profile": "parallel"},
    "packet": {"tree": "packet", "levels": 2},
    "deep-packet": {"tree": "packet", "levels": 4, "profile": "parallel"},
    "periodization": {"boundary": "periodization"},
    "packet-periodization": {"tree": "packet", "levels": 3, "boundary": "periodization"},
    "haar": {"wavelet": "haar", "boundary": "periodization"},
    "db3-packet": {"wavelet": "db3", "boundary": "periodization", "tree": "packet", "levels": 2},
    "bior2.2": {"wavelet": "bior2.2"},
    "rbio6.8": {"wavelet": "rbio6.8", "levels": 8},
    "sym5": {"wavelet": "sym5", "boundary": "periodization", "levels": 6},
    "no-levels": {"levels": 0},
    "one-level": {"levels": 1},
    "deepest": {"levels": 8},
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("quality", [{"max_error": 3.0}, {"snr": 25.0}, {"step": 2.0}], ids=str)
def test_transforms(name: str, quality: dict[str, Any]) -> None:
    array = smooth((3, 41, 38), noise=1.0).astype("f4")
    mode, _ = check(array, {**CUBE, **quality, **TRANSFORMS[name]})
    assert mode == TRANSFORM or "step" not in quality
    series = smooth((2, 333), noise=1.0).astype("f4")
    check(series, {"channel_axis": 0, "signal_axes": (1,), **quality, **TRANSFORMS[name]})
    volume = smooth((2, 11, 14, 13), noise=1.0).astype("f4")
    check(volume, {"channel_axis": 0, "signal_axes": (1, 2, 3), **quality, **TRANSFORMS[name]})


def test_residual_layers() -> None:
    array = np.tensordot(np.random.default_rng(4).normal(size=(18, 2)), smooth((2, 40, 44), noise=0.1), 1)
    array += 0.8 * np.random.default_rng(0).normal(size=array.shape)
    array[2] += 0.3 * np.random.default_rng(1).normal(size=array.shape[1:])
    mode, sections = check(array.astype("f4"), {**CUBE, "max_error": 2.0})
    assert mode == TRANSFORM
    assert RESIDUAL in sections
    mode, sections = check(np.rint(8 * array).astype("i2"), {**CUBE, "max_error": 16})
    assert mode == TRANSFORM
    assert RESIDUAL in sections
    mode, sections = check(np.rint(8 * array).astype("f4"), {**CUBE, "max_error": 16, "profile": "parallel"})
    assert mode == TRANSFORM
    assert RESIDUAL in sections


QUALITIES: list[dict[str, Any]] = [{"max_error": 2.0}, {"max_error": 0.01}, {"lossless": True}, {"step": 1.0}]


@pytest.mark.parametrize("quality", QUALITIES, ids=str)
@pytest.mark.parametrize("axes", [CUBE, {"signal_axes": (1, 2)}, {"signal_axes": (0, 1, 2)}], ids=str)
def test_special_values(quality: dict[str, Any], axes: dict[str, Any]) -> None:
    array = holes(smooth((4, 25, 30), noise=0.2))
    for dtype in ("<f4", ">f8"):
        _, sections = check(array.astype(dtype), {**axes, **quality, "nodata": -9999})
        assert {MASK, EXCEPTIONS} <= sections
    integers = np.where(np.isfinite(array) & (np.abs(array) < 1e4), array, -9999).astype("i2")
    _, sections = check(integers, {**axes, **quality, "nodata": -9999})
    assert MASK in sections


@pytest.mark.parametrize("quality", QUALITIES, ids=str)
def test_padding_under_a_mask(quality: dict[str, Any]) -> None:
    array = smooth((3, 21, 27), noise=1.0).astype("f4")
    array[:, 15:, :] = np.nan
    array[1, :, 20:] = np.nan
    array[2, 3, 5], array[0, 0, 26], array[0, 0, 0] = np.inf, -np.inf, 1e30
    for tree in ({"tree": "packet", "levels": 3}, {"boundary": "periodization"}):
        _, sections = check(array, {**CUBE, **quality, **tree})
        assert {MASK, EXCEPTIONS} <= sections


@pytest.mark.parametrize("dtype", ["u1", "i2", ">f4", "f8", "f2"])
def test_nothing_becomes_nodata(dtype: str) -> None:
    array = np.rint(smooth((2, 24, 24))).astype(dtype)
    for nodata in (60, 61):
        array[:, 5:9, 5:9] = nodata
        for quality in QUALITIES[:1] + QUALITIES[2:] + [{"snr": 20.0}]:
            check(array, {**CUBE, **quality, "nodata": nodata})


def test_extremes() -> None:
    rng = np.random.default_rng(3)
    for dtype in ("u4", "i4", "i1", "u2"):
        info = np.iinfo(dtype)
        ends = np.where(rng.random((2, 20, 20)) < 0.5, info.min, info.max).astype(dtype)
        for quality in ({"lossless": True}, {"max_error": 3}, {"step": 7.0}, {"step": 0.3}):
            check(ends, {**CUBE, **quality})
    wide = np.cumsum(rng.integers(0, 2**20, (2, 30, 30)), axis=2).astype("u4") + np.uint32(2**31 - 5000)
    for bound in (0, 1, 1000, 1e5):
        check(wide, {**CUBE, "max_error": bound})
    halves = np.linspace(-65504, 65504, 900).reshape(1, 30, 30).astype("f2")
    for quality in ({"lossless": True}, {"max_error": 100}, {"step": 6000.0}, {"snr": 20.0}):
        check(halves, {**CUBE, **quality})
    for scale in (1e-310, 1e300):
        check(smooth((2, 20, 20)) * scale, {**CUBE, "max_error": scale})
        check(smooth((2, 20, 20)) * scale, {**CUBE, "lossless": True})


def test_bits_of_floats() -> None:
    rng = np.random.default_rng(4)
    walk = np.cumsum(rng.normal(size=(2, 12, 40)), axis=2)
    for dtype in ("f2", "f4", "f8"):
        check(walk.astype(dtype), {**CUBE, "lossless": True})
        coarse = np.ldexp(np.rint(walk * 4), -2).astype(dtype)
        coarse[0, 0, :4] = -0.0
        check(coarse, {**CUBE, "lossless": True})


def test_levels_of_channels() -> None:
    rng = np.random.default_rng(6)
    known = np.sort(rng.choice(60000, 40, replace=False)).astype("u2")
    array = known[np.clip(np.rint(smooth((3, 30, 40)) / 4), 0, 39).astype(int)]
    array[1] = np.rint(smooth((30, 40)) * 3).astype("u2")
    masked = array.copy()
    masked[:, 4:11, 5:20] = 65535
    for one in (array, masked):
        mode, _ = check(one, {**CUBE, "lossless": True, "nodata": 65535})
        assert mode == LATTICE


def test_fitted_predictors() -> None:
    rng = np.random.default_rng(7)
    for shape, axes in (
        ((5, 900), {"channel_axis": 0, "signal_axes": (1,)}),
        ((5, 40, 40), CUBE),
        ((3, 12, 16, 18), {"channel_axis": 0, "signal_axes": (1, 2, 3)}),
    ):
        base = smooth(shape[1:]) * 30
        array = np.stack([base * (1 + 0.2 * c) + 2 * rng.normal(size=base.shape) for c in range(shape[0])])
        array[-1] = array[0] - array[1] + rng.normal(size=base.shape)
        check(np.rint(array).astype("i2"), {**axes, "lossless": True})
        array[:, ..., 3:7] = 1e4
        check(np.rint(array).astype("i2"), {**axes, "lossless": True, "nodata": 10000})


def test_stored_chunks() -> None:
    rng = np.random.default_rng(8)
    assert (
        check(np.frombuffer(rng.bytes(64), ">u4").reshape(4, 4), {"signal_axes": (1,), "lossless": True})[0] == STORED
    )
    assert check(np.zeros((3, 0, 4), ">f4"), {**CUBE, "max_error": 1})[0] == STORED
    check(np.full((1, 1, 1), 7, "i2"), {**CUBE, "max_error": 1})
    check(np.full((3, 30, 30), 2.5, "f4"), {**CUBE, "max_error": 1e-3})
    check(np.full((3, 30, 30), np.nan, "f4"), {**CUBE, "max_error": 1e-3})


def test_several_slabs_in_lattice_mode() -> None:
    array = np.zeros((512, 1, 4096), "u1")
    array[7, 0, 100:140] = 9
    array[300, 0, 2000:2100:7] = 3
    mode, _ = check(array, {"channel_axis": None, "signal_axes": (1, 2), "lossless": True})
    assert mode == LATTICE


def test_several_slabs_in_transform_mode() -> None:
    rng = np.random.default_rng(12)
    y, x = np.mgrid[:364, :362] / 364
    sources = np.stack([np.sin(9 * (a * x + b * y) + c) for a, b, c in rng.random((5, 3))])
    array = np.tensordot(rng.normal(size=(16, 5)), 40 * sources, 1)
    array[:, 100:104, 30:300:9] += 4
    mode, sections = check(array.astype("f4"), {**CUBE, "max_error": 1.0})
    assert mode == TRANSFORM
    assert RESIDUAL in sections


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("fixtures/v1/*.xwalloc")), ids=lambda p: p.stem)
def test_fixtures(path: Path) -> None:
    decoded = second.decode(path.read_bytes())
    expected = np.load(path.with_suffix(".npy"))
    assert decoded.dtype == expected.dtype
    assert decoded.tobytes() == expected.tobytes()


def test_damage_is_refused() -> None:
    frame = example.make()
    for at in range(0, len(frame), 3):
        with pytest.raises(second.Refused):
            second.decode(frame[:at] + bytes([frame[at] ^ 16]) + frame[at + 1 :])
        with pytest.raises(second.Refused):
            second.decode(frame[:at])


def forged(frame: bytes, change: Callable[[bytearray], None]) -> bytes:
    """A frame whose sections were changed, with checksums that fit."""
    data = bytearray(frame)
    axes, count = data[8], data[9]
    table = 36 + 5 * axes
    end = table + 9 * count
    change(data)
    at = end + 4
    for i in range(count):
        length = int.from_bytes(data[table + 9 * i + 1 : table + 9 * i + 5], "little")
        crc = google_crc32c.value(bytes(data[at : at + length]))
        data[table + 9 * i + 5 : table + 9 * i + 9] = crc.to_bytes(4, "little")
        at += length
    data[end : end + 4] = google_crc32c.value(bytes(data[:end])).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("name", ["lattice", "transform"])
def test_both_refuse_the_same_forgeries(name: str) -> None:
    quality: dict[str, Any] = {"lossless": True} if name == "lattice" else {"step": 1.0}
    array = holes(smooth((3, 18, 20), noise=0.2)).astype("f4")
    frame = ChunkCodec(CodecConfig(**CUBE, **quality)).encode(array)
    first = 40 + 5 * frame[8] + 9 * frame[9]
    rng = np.random.default_rng(9)
    agreed = 0
    for _ in range(120):
        at, bit = int(rng.integers(first, len(frame))), int(rng.integers(8))

        def change(data: bytearray, at: int = at, bit: int = bit) -> None:
            data[at] ^= 1 << bit

        bad = forged(frame, change)
        try:
            expected = decode_frame(bad)
        except ValueError:
            with pytest.raises(second.Refused):
                second.decode(bad)
            agreed += 1
        else:
            assert second.decode(bad).tobytes() == expected.tobytes()
    assert agreed


def test_the_example_in_the_documentation_is_real() -> None:
    page = example.PAGE.read_text()
    assert example.between(page) == example.text(), "run: python tests/format/example.py"
    same(example.make())


def test_all_of_lattice_mode_is_used() -> None:
    rng = np.random.default_rng(6)
    waves = np.rint(
        3000 * np.sin(np.arange(60_000) / 50 * rng.uniform(0.7, 1, (3, 1))) + 4 * rng.normal(size=(3, 60_000))
    )
    walk = np.cumsum(np.cumsum(rng.integers(-50, 51, (2, 3000)), 1) // 40, 1)
    image = np.rint(smooth((4, 130, 130), noise=0.3) * 30)
    few = (image // 9) * 70
    series = {"channel_axis": 0, "signal_axes": (1,)}
    seen: set[str] = set()
    for array, config in (
        (waves, {**series, "max_error": 12}),
        (walk, {**series, "lossless": True}),
        (image, {**CUBE, "max_error": 3}),
        (few, {**CUBE, "max_error": 2}),
        (rng.integers(0, 3000, (2, 600, 600)), {**CUBE, "max_error": 1, "profile": "parallel"}),
    ):
        frame = ChunkCodec(CodecConfig(**config)).encode(array.astype("i4"))
        same(frame)
        header, sections = second.parse(frame)
        assert header.mode == LATTICE
        lattice = second.read_lattice(sections[second.LATTICE], header)
        for channel in lattice.channels.values():
            seen |= {"sequential" if channel.sequential else "interpolated"}
            seen |= {"fitted"} if any(p.kind == second.FITTED for p in channel.predictors) else set()
            seen |= {"levels"} if channel.levels else set()
        seen |= {"radius"} if lattice.radius else set()
        seen |= {"weights"} if lattice.weights else set()
        streams = second.decode_streams(sections[second.LATTICE_SYMBOLS], len(lattice.slabs), second.KIND_LATTICE)
        seen |= {"lanes"} if len(streams[0].states) > 4 else set()
        seen |= {"choice"} if streams[0].tables != second.usual_tables(second.KIND_LATTICE) else set()
    assert seen == {"sequential", "interpolated", "fitted", "levels", "radius", "weights", "lanes", "choice"}


@pytest.mark.parametrize("profile", ["default", "parallel"])
@pytest.mark.parametrize("dtype", ["f4", "i2"])
@pytest.mark.parametrize(
    ("shape", "tree", "levels", "goal"),
    [
        ((4, 24, 19), "dyadic", 3, {"max_error": 4.0}),
        ((4, 24, 19), "dyadic", 4, {"max_error": {0: 8.0, 1: 3.0, 2: 30.0, 3: 3.0}}),
        ((4, 24, 21), "packet", 2, {"snr": 25.0}),
        ((3, 200), "dyadic", 4, {"max_error": 4.0}),
        ((2, 9, 10, 11), "packet", 2, {"max_error": 4.0}),
    ],
)
def test_frames_that_name_their_model(shape, tree, levels, goal, dtype, profile):
    rng = np.random.default_rng(0)
    field = np.cumsum(rng.normal(size=shape), axis=-1) * 60 + np.arange(shape[0]).reshape(-1, *(1,) * (len(shape) - 1))
    data = xr.DataArray(np.rint(field).astype(dtype), dims=("band", "z", "y", "x")[: len(shape)], name="r")
    signal = data.dims[1:]
    data = data.assign_coords(band=range(shape[0]))
    model = xwalloc.fit(data, channel_dim="band", signal_dims=signal, tree=tree, levels=levels, **goal)
    axes = {"channel_axis": 0, "signal_axes": range(1, len(shape)), "profile": profile}
    codec = Walloc(**axes, model=model, step=next(iter(model.target.values())))
    bounded = Walloc(**axes, model=model, **model.target)
    small = data.values[..., :13]
    for frame in (codec.encode(data.values), bounded.encode(data.values), codec.encode(small), bounded.encode(small)):
        np.testing.assert_array_equal(second.decode(frame, model.data), bounded.decode(frame))
    assert xwalloc.inspect(codec.encode(data.values)).model == model.id[:23]


@pytest.mark.parametrize("kind", ["shared", "fixed"])
@pytest.mark.parametrize(
    ("shape", "tree"),
    [((5, 44, 37), "dyadic"), ((5, 44, 37), "packet"), ((4, 300), "dyadic"), ((4, 70), "packet"),
     ((3, 9, 16, 21), "dyadic"), ((2, 9, 10, 11), "packet")],
)  # fmt: skip
def test_frames_that_a_network_refines(shape, tree, kind, monkeypatch):
    rng = np.random.default_rng(2)
    field = np.cumsum(rng.normal(size=shape), axis=-1) * 60
    data = xr.DataArray(field, dims=("band", "z", "y", "x")[: len(shape)])
    levels = 3 if tree == "dyadic" else 4 - len(shape) // 2
    model = xwalloc.fit(data, channel_dim="band", signal_dims=data.dims[1:], tree=tree, levels=levels, max_error=9.0)
    architecture = Architecture(
        kind=kind, tree=tree, dimensions=len(shape) - 1, levels=levels if tree == "packet" else 0,
        rank=len(model.arrays["vectors"]) if kind == "fixed" else 0, widths=(5, 4),
    )  # fmt: skip
    layers = [
        Layer(
            weight=rng.integers(-12, 13, size).astype(np.int8),
            bias=rng.integers(-500, 500, size[0]).astype(np.int32),
            shift=rng.integers(0 if len(size) < 3 else 5, 9, size[0]).astype(np.uint8),
        )
        for size in architecture.shapes().values()
    ]
    codes = rng.integers(-9, 10, (5, architecture.codes)).astype(np.int8)
    network = Network(architecture=architecture, layers=tuple(layers), codes=codes)
    arrays = {"network." + name: tensor for name, tensor in network.tensors().items()}
    description = {**model.description, "network": network.description()}
    model = Model(description=description, arrays={**model.arrays, **arrays})
    # with the network, whether it helps or not
    order = itertools.count()
    monkeypatch.setattr(places.Attempt, "cost", property(lambda _: next(order)))
    encode = transform_mode.encode
    monkeypatch.setattr(
        transform_mode, "encode", lambda *a: encode(*a) if a[8] is not None and not any(a[9:]) else None
    )
    monkeypatch.setattr(chunk, "in_lattice_mode", lambda *a: None)
    axes = {"channel_axis": 0, "signal_axes": range(1, len(shape)), "model": model}
    few = np.concatenate([field[:1], 0 * field[1:]])[..., :13]  # one component or two
    for codec in (Walloc(**axes, step=5.0), Walloc(**axes, max_error=9.0)):
        for part in (field, few):
            frame = codec.encode(part)
            assert second.parse(frame)[1][second.MODEL][0] == 2
            np.testing.assert_array_equal(second.decode(frame, model.data), codec.decode(frame))


@pytest.mark.parametrize("profile", ["default", "parallel"])
@pytest.mark.parametrize("dtype", ["f4", "i2"])
@pytest.mark.parametrize("shape", [(4, 24, 29), (3, 1200), (3, 9, 10, 21)])
def test_frames_with_a_basis_within_that_of_their_model(shape, dtype, profile, monkeypatch):
    rng = np.random.default_rng(1)
    field = np.cumsum(rng.normal(size=shape), axis=-1) * 60
    mixed = np.tensordot(rng.normal(size=(shape[0] + 2, shape[0])), field, 1)
    data = xr.DataArray(np.rint(mixed).astype(dtype), dims=("band", "z", "y", "x")[: len(shape)])
    model = xwalloc.fit(data, channel_dim="band", signal_dims=data.dims[1:], max_error=6.0)
    unknown = data.values.copy()
    unknown[1, ..., :7] += 700
    unknown[0, ..., 9:20] -= 500
    codec = Walloc(channel_axis=0, signal_axes=range(1, len(shape)), profile=profile, model=model, max_error=6.0)
    # whatever is smaller: this way and no other
    encode = transform_mode.encode
    monkeypatch.setattr(transform_mode, "encode", lambda *a: encode(*a) if a[-1] else None)
    monkeypatch.setattr(chunk, "in_lattice_mode", lambda *a: None)
    for part, further in ((data.values, 0), (data.values[..., :-6], 0), (unknown, 1)):
        frame = codec.encode(part)
        section = second.parse(frame)[1][second.MODEL]
        assert section[0] == 3
        assert section[24] >= further
        np.testing.assert_array_equal(second.decode(frame, model.data), codec.decode(frame))


@pytest.mark.parametrize(
    "sizes",
    [
        {"kind": "Codec2D", "channels": 3, "J": 2, "latent_dim": 6, "latent_bits": 4, "Nd": 32},
        {"kind": "LinearCodec2D", "channels": 5, "J": 3, "latent_dim": 9, "latent_bits": 5},
        {"kind": "ResidualCodec2D", "channels": 1, "J": 1, "latent_dim": 2, "latent_bits": 2, "num_stages": 3},
        {"kind": "Codec1D", "channels": 2, "J": 3, "latent_dim": 6, "latent_bits": 8, "Nd": 20, "post_filter": True},
        {"kind": "Codec1D", "channels": 1, "J": 2, "latent_dim": 3, "latent_bits": 6, "Nd": 7},
    ],
    ids=lambda sizes: sizes["kind"],
)
def test_frames_of_published_models(sizes, monkeypatch):
    """Samples agree within what the tolerance allows, and within the bound in either decoder."""
    torch = pytest.importorskip("torch", reason="torch is not installed: published models cannot run")
    from xwalloc.models.published import TOLERANCE, as_model
    from xwalloc.models.upstream import Architecture as Published

    torch.manual_seed(0)
    module = Published(**sizes).build()
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.startswith("encoder"):
                weight.mul_(12)
            elif name.endswith(("alpha", "beta", "bias", "norm.weight", "norm1.weight", "norm2.weight")):
                weight.add_(0.2 * torch.randn(weight.shape))
    model = as_model(module)
    d = model.dimensions
    array = holes(smooth((2, sizes["channels"], *((43, 26) if d == 2 else (700,))), noise=4.0).astype("f4"))
    array[array == 0] = 1
    for dtype, quality in (
        ("f4", {"step": 1}),
        ("f4", {"max_error": 4.0}),
        ("i2", {"max_error": 2}),
        ("u1", {"step": 1}),
    ):
        given = array if dtype == "f4" else np.clip(np.nan_to_num(array), 0, 255).astype(dtype)
        given = given[:1] if dtype == "i2" else given
        config = CodecConfig(
            channel_axis=1, signal_axes=tuple(range(2, 2 + d)), model=model, nodata=-9999 if dtype != "u1" else 7,
            profile="parallel" if dtype == "i2" else "default", **quality,
        )  # fmt: skip
        with monkeypatch.context() as patch:
            learned = lambda a, b: a if a is not None and a.mode == LEARNED else b or a  # noqa: E731
            patch.setattr(chunk, "smaller", learned)
            patch.setattr(chunk, "in_lattice_mode", lambda *_: None)
            frame = ChunkCodec(config).encode(given)
        header, _ = second.parse(frame)
        assert header.mode == LEARNED
        ours, theirs = decode_frame(frame), second.decode(frame, model.data, networks)
        assert theirs.dtype == ours.dtype
        special = ~np.isfinite(given) | (given == config.nodata)
        assert theirs[special].tobytes() == ours[special].tobytes() == given[special].tobytes()
        there, here, wanted = (a[~special].astype("f8") for a in (theirs, ours, given))
        assert np.abs(there - here).max() <= (TOLERANCE * 300 if dtype == "f4" else 0)
        if "max_error" in quality:
            assert max(np.abs(there - wanted).max(), np.abs(here - wanted).max()) <= quality["max_error"]
