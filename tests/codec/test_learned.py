"""Chunks coded with published WaLLoC models: their own rate, the bound on top of any network, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: published models cannot run")

import xwalloc  # noqa: E402
from xwalloc.bitstream.frame import DecodeLimits, Frame, Mode  # noqa: E402
from xwalloc.codec import chunk as chunk_module  # noqa: E402
from xwalloc.codec import learned_mode  # noqa: E402
from xwalloc.codec.chunk import ChunkCodec, decode_frame  # noqa: E402
from xwalloc.codec.config import CodecConfig  # noqa: E402
from xwalloc.codec.layout import Layout  # noqa: E402
from xwalloc.errors import ConfigError  # noqa: E402
from xwalloc.models import library, published  # noqa: E402
from xwalloc.models.published import TOLERANCE, Published, as_model, module_of  # noqa: E402
from xwalloc.models.upstream import Architecture  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = {
    "rgb": Architecture(kind="Codec2D", channels=3, J=2, latent_dim=6, latent_bits=4, Nd=32),
    "grey": Architecture(kind="Codec2D", channels=1, J=3, latent_dim=8, latent_bits=5, Nd=32),
    "full": Architecture(
        kind="Codec2D", channels=3, J=2, latent_dim=6, latent_bits=4, Nd=32, Ne=32, lightweight_encode=False
    ),
    "bands": Architecture(kind="LinearCodec2D", channels=12, J=2, latent_dim=24, latent_bits=6),
    "stages": Architecture(kind="ResidualCodec2D", channels=3, J=2, latent_dim=6, latent_bits=4, num_stages=2),
    "mono": Architecture(kind="Codec1D", channels=1, J=3, latent_dim=4, latent_bits=5, Nd=8),
    "stereo": Architecture(kind="Codec1D", channels=2, J=3, latent_dim=6, latent_bits=5, Nd=12, post_filter=True),
    "electrodes": Architecture(kind="Codec1D", channels=7, J=2, latent_dim=6, latent_bits=4, Nd=12),
}
DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8", ">i2", ">f4")


def fresh(kind, **options):
    """A model of random weights, with latents that use their range: its decoder is of no use."""
    torch.manual_seed(5)
    module = KINDS[kind].build().eval()
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.startswith("encoder"):
                weight.mul_(12)
    return as_model(module, **options)


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return fresh(request.param)


@pytest.fixture(scope="module")
def rgb():
    return fresh("rgb")


@pytest.fixture
def only_learned(monkeypatch):
    """The codec takes learned mode where that can hold what is promised, however large frames become."""

    def preferred(first, second):
        return next((c for c in (first, second) if c is not None and c.mode == Mode.LEARNED), first or second)

    monkeypatch.setattr(chunk_module, "smaller", preferred)
    monkeypatch.setattr(chunk_module, "in_lattice_mode", lambda *_: None)


def samples(model, dtype="u1", signal=(33, 46), batch=()):
    """Waves, an edge and noise over most of the range of a type."""
    signal = signal if model.dimensions == 2 else (signal[0] * signal[1],)
    rng = np.random.default_rng(2)
    axes = np.meshgrid(*[np.arange(n) / 9 for n in signal], indexing="ij")
    field = np.sin(axes[0]) + np.cos(axes[-1] * 1.3) + (axes[0] > axes[-1])
    data = field + 0.3 * rng.normal(size=(*batch, model.channels, *signal))
    data = (data - data.min()) / np.ptp(data)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (data * 200 - 60).astype(dtype)
    info = np.iinfo(kind)
    return np.rint(info.min + data * (float(info.max) - info.min)).clip(info.min, info.max).astype(dtype)


def codec_of(model, ndim, **quality):
    signal = tuple(range(ndim - model.dimensions, ndim))
    return ChunkCodec(CodecConfig(channel_axis=signal[0] - 1, signal_axes=signal, model=model, **quality))


def error_of(decoded, array, valid=...):
    return float(np.abs(decoded[valid].astype("f8") - array[valid].astype("f8")).max())


@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_the_own_rate_of_a_model_is_that_of_the_module(model, dtype):
    array = samples(model, dtype, batch=(2,))
    codec = codec_of(model, array.ndim, step=1)
    frame = codec.encode(array)
    info = xwalloc.inspect(frame)
    assert (info.mode, info.model) == ("learned", model.id[:23])
    decoded = decode_frame(frame)
    low, high = (0.0, 255.0) if dtype == "u1" else (float(array.min()), float(array.max()))
    patch = 1 << model.levels
    widths = [(0, 0), (0, 0), *((0, -n % patch) for n in array.shape[2:])]
    x = np.pad((array.astype("f8") - (low + high) / 2) / (high - low), widths, mode="edge")
    module = module_of(model)
    items = [torch.from_numpy(item[None].astype("f4")) for item in x]
    found = np.concatenate([module.decode(module.encode(item)).numpy() for item in items])
    expected = (low + high) / 2 + (high - low) * found[tuple(slice(n) for n in array.shape)]
    assert error_of(decoded, expected) <= (0.51 if dtype == "u1" else 1e-5 * (high - low))
    assert codec.encode(array) == frame


@pytest.mark.parametrize("share", [1 / 300, 1 / 20])
def test_the_bound_holds_on_top_of_any_network(model, only_learned, share):
    array = samples(model, "f4")
    bound = share * float(np.ptp(array))
    frame = codec_of(model, array.ndim, max_error=bound).encode(array)
    assert xwalloc.inspect(frame).mode == "learned"
    assert error_of(decode_frame(frame), array) <= bound


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bound_holds_for_whatever_a_decoder_within_the_tolerance_says(rgb, only_learned, monkeypatch, dtype):
    """Types, missing values, outliers; and decoders that differ as much as they may, in any direction."""
    array = samples(rgb, dtype)
    flat = array.reshape(-1)
    nodata = flat[5].item()
    flat[100:160] = nodata
    flat[7] = flat.max()
    if array.dtype.kind == "f":
        flat[400:450], flat[800:802] = np.nan, (np.inf, -np.inf)
    valid = np.isfinite(array) & (array != nodata)
    bound = {"f2": 2.0, "u1": 6.0, "i1": 3.0}.get(dtype, float(np.ptp(array[valid].astype("f8"))) / 100)
    frame = codec_of(rgb, array.ndim, max_error=bound, nodata=nodata).encode(array)
    assert xwalloc.inspect(frame).mode == "learned"
    decode = Published.decode
    for edge in (-1, 0, 1):

        def elsewhere(self, latents, signal, *, single=False, edge=edge):
            x = decode(self, latents, signal, single=single)
            return x + TOLERANCE * (edge or np.random.default_rng(1).uniform(-1, 1, x.shape))

        with monkeypatch.context() as patch:
            patch.setattr(Published, "decode", elsewhere)
            decoded = decode_frame(frame)
        assert decoded.dtype == array.dtype
        assert error_of(decoded, array, valid) <= bound
        assert decoded[~valid].tobytes() == array[~valid].tobytes()
        assert not (decoded[valid] == nodata).any()


@pytest.mark.parametrize("case", ["codec2d_rgb_light", "codec2d_hyper8", "codec1d_stereo_post", "residual2d_2stage"])
def test_the_bound_holds_on_golden_models(case, only_learned):
    folder = Path(__file__).parents[3] / "shared" / "golden" / case
    if not folder.is_dir():
        pytest.skip("../shared/golden is not here: no published model to try")
    golden = published.import_checkpoint(folder / "config.json", folder / "checkpoint.pth")
    for dtype, bound in (("u1", 5), ("f4", 2.5)):
        array = samples(golden, dtype)
        frame = codec_of(golden, array.ndim, max_error=bound).encode(array)
        assert xwalloc.inspect(frame).mode == "learned"
        assert error_of(decode_frame(frame), array) <= bound


def test_integers_use_the_whole_bound(rgb, only_learned):
    array = samples(rgb, "u1")
    frame = codec_of(rgb, 3, max_error=3).encode(array)
    assert error_of(decode_frame(frame), array) == 3
    assert "exceptions" not in xwalloc.inspect(frame).sections


@pytest.mark.parametrize("snr", [5.0, 30.0])
def test_snr_is_met(rgb, only_learned, snr):
    array = samples(rgb, "f4")
    frame = codec_of(rgb, 3, snr=snr).encode(array)
    assert xwalloc.inspect(frame).mode == "learned"
    mse = np.mean((decode_frame(frame).astype("f8") - array) ** 2)
    assert 10 * np.log10(array.var(dtype="f8") / mse) >= snr - 0.5


def test_a_network_that_is_good_enough_needs_no_residual_layer(monkeypatch, rgb, only_learned):
    array = samples(rgb, "f4")
    low, high = float(array.min()), float(array.max())
    x = (array.astype("f8") - (low + high) / 2) / (high - low)
    monkeypatch.setattr(Published, "decode", lambda *_, **__: x[None].copy())
    for quality in ({"snr": 40.0}, {"max_error": 0.1}):
        frame = codec_of(rgb, 3, **quality).encode(array)
        assert "residual" not in xwalloc.inspect(frame).sections
        assert error_of(decode_frame(frame), array) < 0.01


def test_regions_are_those_of_the_whole(model, only_learned):
    array = samples(model, "i2", batch=(3,))
    frame = codec_of(model, array.ndim, max_error=300.0).encode(array)
    assert xwalloc.inspect(frame).mode == "learned"
    whole = decode_frame(frame)
    region = (slice(1, 2), slice(0, 1), *(slice(3, n - 5) for n in array.shape[2:]))
    assert np.array_equal(decode_frame(frame, region=region), whole[region])


def test_without_a_preference_frames_are_never_larger_than_self_fitted_ones(model):
    array = samples(model, "u1")
    signal = tuple(range(1, array.ndim))
    for bound in (2.0, 40.0):
        alone = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=signal, max_error=bound)).encode(array)
        frame = codec_of(model, array.ndim, max_error=bound).encode(array)
        assert len(frame) <= len(alone)
        assert error_of(decode_frame(frame), array) <= bound


def test_a_range_makes_latents_comparable():
    model = fresh("rgb", value_range=(-100, 300))
    array = samples(model, "f4")
    whole, part = (latents_of(codec_of(model, 3, step=1).encode(a)) for a in (array, array[:, :32, :32]))
    assert np.array_equal(whole[..., 2:6, 2:6], part[..., 2:6, 2:6])  # inside, where neither wraps around
    assert len(np.unique(part)) > 5
    assert model.description["range"] == [-100.0, 300.0]


def latents_of(frame):
    parsed = Frame.parse(frame, DecodeLimits(max_bytes=1 << 24))
    layout = Layout(parsed.header.shape, parsed.header.roles)
    return learned_mode.read_latents(parsed.sections, layout.canonical, layout.dimensions, library.find).latents


def test_a_network_that_amplifies_rounding_is_not_used(rgb, monkeypatch):
    array = samples(rgb)
    monkeypatch.setattr(learned_mode, "STABLE", -1.0)
    for quality in ({"max_error": 3.0}, {"snr": 30.0}, {"step": 1}):
        frame = codec_of(rgb, 3, **quality).encode(array)
        assert xwalloc.inspect(frame).mode in ("transform", "lattice")
        assert error_of(decode_frame(frame), array) <= 40


def test_weights_that_overflow_are_not_used(rgb):
    arrays = {name: array * np.float32(1e30) if "conv" in name else array for name, array in rgb.arrays.items()}
    wild = type(rgb)(description=rgb.description, arrays=arrays)
    array = samples(rgb)
    frame = codec_of(wild, 3, max_error=3.0).encode(array)
    assert error_of(decode_frame(frame), array) <= 3


def test_a_bound_near_the_tolerance_takes_another_mode(rgb, only_learned):
    array = samples(rgb, "f4")
    bound = 3 * TOLERANCE * float(np.ptp(array))
    frame = codec_of(rgb, 3, max_error=bound).encode(array)
    assert xwalloc.inspect(frame).mode != "learned"
    assert error_of(decode_frame(frame), array) <= bound


@pytest.mark.parametrize("value", [0, -7.5, 255])
def test_constants_stay_constant(rgb, value):
    array = np.full((3, 40, 40), value, "f4" if value == -7.5 else "u1")
    for quality in ({"step": 1}, {"max_error": 0.5}):
        decoded = decode_frame(codec_of(rgb, 3, **quality).encode(array))
        if array.dtype == "f4" or "max_error" in quality:
            assert error_of(decoded, array) <= 0.5


@pytest.mark.parametrize(
    ("quality", "shape", "match"),
    [
        ({"step": 2}, (3, 32, 32), "step 1, .* max_error"),
        ({"step": 1}, (4, 32, 32), "3 channels and 2 signal axes"),
        ({"max_error": 1}, (1, 32, 32), "3 channels and 2 signal axes"),
        ({"step": 1}, (3, 4096, 4096), "Choose smaller chunks"),
        ({"max_error": 1}, (3, 517, 513), "patches, all of which"),
        ({"step": 1}, (5000, 3, 4, 4), "batch items"),
    ],
)
def test_what_a_published_model_cannot_do_is_refused(rgb, quality, shape, match):
    with pytest.raises(ConfigError, match=match):
        codec_of(rgb, len(shape), **quality).encode(np.zeros(shape, "u1"))


def test_one_sample(model):
    """A single patch, the least that a network may see: groups of one value, a series that is mostly border."""
    array = np.full((model.channels, *(1,) * model.dimensions), 3.0, "f4")
    array[-1] = 5
    decoded = decode_frame(codec_of(model, array.ndim, max_error=0.25).encode(array))
    assert error_of(decoded, array) <= 0.25
    latents = model.encode(np.zeros(array.shape))
    assert model.decode(latents, (1,) * model.dimensions).shape == array.shape


def test_work_is_bounded(rgb, monkeypatch):
    monkeypatch.setattr(published, "MOST_MULTIPLICATIONS", 1000)
    with pytest.raises(ConfigError, match="multiplications"):
        codec_of(rgb, 3, step=1).encode(np.zeros((3, 32, 32), "u1"))
