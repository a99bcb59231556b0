"""Conformance with the published package: everything that it computed, from its own files."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: published models cannot run")

from xwalloc.models.upstream import ResidualCodec2D, load  # noqa: E402
from xwalloc.models.upstream.bottleneck import Round, ToNormal, ToUniform  # noqa: E402
from xwalloc.models.upstream.wavelet import PacketAnalysis, PacketSynthesis  # noqa: E402

CLASSES = {
    "codec2d_rgb_light": "Codec2D",
    "codec2d_hyper8": "Codec2D",
    "codec1d_stereo_post": "Codec1D",
    "codec1d_stereo_nopost": "Codec1D",
    "codec1d_full_encoder": "Codec1D",
    "linear2d_16ch": "LinearCodec2D",
    "residual2d_2stage": "ResidualCodec2D",
    "codec2d_full_encoder": "Codec2D",
    "codec2d_gray_J4_2bit": "Codec2D",
    "codec2d_legacy_pickle": "Codec2D",
}
CLOSE = 1e-5
MARGIN = 1e-3
"""Of z before rounding from a half: there, a latent may differ by 1."""


def furthest(found, expected):
    assert found.shape == expected.shape
    return float((found - expected).detach().abs().max())


@pytest.fixture(scope="module", params=CLASSES)
def case(request, golden, vectors):
    folder = golden / request.param
    allow = "legacy" in request.param
    model = load(folder / "config.json", str(folder / "checkpoint.pth"), allow_pickle=allow)
    return request.param, model, vectors(request.param)


def test_class_sizes_and_mode(case, golden):
    name, model, v = case
    described = json.loads((golden / "summary.json").read_text())[name]
    assert type(model).__name__ == CLASSES[name] == described["cls"]
    assert sum(weight.numel() for weight in model.parameters()) == described["params"]
    assert not model.training
    for key, value in described["ctor"].items():
        assert getattr(model.architecture, key) == value, key
    assert model.architecture.latent_channels == v["latent"].shape[1]


def test_transform(case):
    _, model, v = case
    assert furthest(model.wt(v["x"]), v["X"]) < CLOSE
    assert furthest(model.iwt(v["X"]), v["x"]) < CLOSE


def test_encoder(case):
    _, model, v = case
    if isinstance(model, ResidualCodec2D):
        stages = torch.cat(
            [
                model.to_uniform(encode(v["X"] - before))
                for encode, before in zip(
                    model.encoders,
                    (0, model.decoders[0](model.to_normal(v["latent"][:, :12].float()))),
                    strict=True,
                )
            ],
            dim=1,
        )
        assert furthest(stages, v["z_pre"]) < 1e-3
    else:
        y = model.encoder[0](v["X"])
        assert furthest(y, v["y_pre"]) < CLOSE * float(v["y_pre"].abs().max())
        assert furthest(model.encoder[1](y), v["z_pre"]) < 1e-3


def test_latents(case):
    _, model, v = case
    latents = model.encode(v["x"])
    assert latents.dtype == torch.int16
    differ = latents != v["latent"]
    from_half = ((v["z_pre"] % 1) - 0.5).abs()
    assert (from_half[differ] < MARGIN).all()
    assert furthest(latents.int(), v["latent"].int()) <= 1


def test_decoder(case):
    _, model, v = case
    with torch.no_grad():
        spectrum = model._dequantise(v["latent"].float())
        assert furthest(spectrum, v["X_hat"]) < CLOSE
        wave = model.iwt(v["X_hat"])
        if "x_wave" in v:
            assert furthest(wave, v["x_wave"]) < CLOSE
        assert furthest(model._finish(wave), v["x_hat_unclamped"]) < CLOSE
    decoded = model.decode(v["latent"])
    assert furthest(decoded, v["x_hat"]) < CLOSE
    assert float(decoded.abs().max()) <= 0.5
    for dtype in (torch.int32, torch.int64, torch.float32):
        assert torch.equal(model.decode(v["latent"].to(dtype)), decoded)


def test_forward(case):
    _, model, v = case
    with torch.no_grad():
        x_hat, mse_loss, tf_loss = model(v["x"])
    assert furthest(x_hat, v["x_hat"]) < CLOSE
    assert float(mse_loss) == pytest.approx(float(v["mse_loss"]), rel=1e-5)
    assert tf_loss.shape == v["tf_loss"].shape
    assert np.allclose(tf_loss, v["tf_loss"], rtol=1e-5)


def test_forward_decodes_what_encode_returns(case):
    _, model, v = case
    with torch.no_grad():
        assert torch.allclose(model(v["x"])[0], model.decode(model.encode(v["x"])), atol=1e-6)


def test_state_dict_has_names_order_and_values_of_the_checkpoint(case, golden):
    name, model, _ = case
    if "legacy" in name:
        pytest.skip("torch refuses to read this one; test_checkpoint does")
    state = torch.load(golden / name / "checkpoint.pth", weights_only=True)["model_state_dict"]
    ours = model.state_dict()
    assert list(ours) == list(state)
    assert all(torch.equal(ours[key], value) for key, value in state.items())


def test_fresh_filters_are_the_published_ones(case):
    _, model, _ = case
    fresh = model.architecture.build().state_dict()
    for key, value in model.state_dict().items():
        if key.startswith(("wt.", "iwt.")):
            assert torch.allclose(fresh[key], value, atol=1e-9, rtol=1e-7), key


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_companding(golden, bits):
    with np.load(golden / "companding" / "companding.npz") as arrays:
        y, z, q, back, levels, values = (
            torch.from_numpy(arrays[f"b{bits}_{key}"]) for key in ("y", "z", "q", "back", "levels", "level_values")
        )
    to_uniform, to_normal, rounded = ToUniform(bits), ToNormal(bits), Round().eval()
    assert furthest(to_uniform(y), z) < 1e-4
    assert torch.equal(rounded(z), q)
    assert furthest(to_normal(q), back) < 1e-4
    assert furthest(to_normal(levels), values) < 1e-4
    assert int(rounded(to_uniform(torch.tensor(1e6)))) == 2 ** (bits - 1) - 1


def test_packet_transform(golden):
    with np.load(golden / "wpt" / "wpt_vectors.npz") as arrays:
        v = {name: torch.from_numpy(arrays[name]) for name in arrays}
    cases = sorted({name.rpartition("_")[0] for name in v})
    assert len(cases) == 18
    alike = 0
    for case in cases:
        x = v[f"{case}_x"]
        dimensions, levels = x.ndim - 2, int(case.split("_")[1][1:])
        coefficients = PacketAnalysis(levels, dimensions)(x)
        assert furthest(coefficients, v[f"{case}_Xexact"]) < CLOSE, case
        assert furthest(PacketSynthesis(levels, dimensions)(coefficients), x) < CLOSE, case
        if min(x.shape[2:]) >= 10 * 2 ** (levels - 1):
            alike += 1
            assert furthest(coefficients, v[f"{case}_X"]) < CLOSE, case
            assert furthest(PacketSynthesis(levels, dimensions)(v[f"{case}_X"]), v[f"{case}_y"]) < CLOSE, case
    assert alike == 10
