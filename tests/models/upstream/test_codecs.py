"""The models without golden vectors: transform, training, architectures and what they refuse."""

from __future__ import annotations

import json
import math

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: published models cannot run")

from xwalloc.errors import ConfigError  # noqa: E402
from xwalloc.models.upstream import Architecture, Codec1D, Codec2D  # noqa: E402
from xwalloc.models.upstream.wavelet import PacketAnalysis, PacketSynthesis  # noqa: E402

SMALL = {
    "Codec2D": {"channels": 3, "J": 2, "latent_dim": 6, "latent_bits": 8, "Nd": 32},
    "Codec2D full": {
        "channels": 1, "J": 1, "latent_dim": 2, "latent_bits": 4, "Nd": 32, "Ne": 32, "lightweight_encode": False
    },
    "Codec1D": {"channels": 2, "J": 3, "latent_dim": 4, "latent_bits": 6, "Nd": 8, "post_filter": True},
    "Codec1D full": {
        "channels": 1, "J": 3, "latent_dim": 4, "latent_bits": 6, "Nd": 9, "Ne": 8, "lightweight_encode": False
    },
    "LinearCodec2D": {"channels": 5, "J": 2, "latent_dim": 8, "latent_bits": 8},
    "ResidualCodec2D": {"channels": 2, "J": 2, "latent_dim": 4, "latent_bits": 3, "num_stages": 3},
}  # fmt: skip


def small(name):
    return Architecture(kind=name.split()[0], **SMALL[name])


def signal(architecture, batch=2):
    extent = (64,) if architecture.dimensions == 1 else (16, 24)
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, architecture.channels, *extent, generator=generator) - 0.5


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 1, 4), (2, 3, 8), (1, 2, 6, 2), (2, 1, 10, 8), (1, 1, 2, 2)])
def test_synthesis_inverts_analysis_however_short_the_signal(shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axes = len(shape) - 2
    levels = min(int(math.log2(n & -n)) for n in shape[2:])
    wt, iwt = PacketAnalysis(levels, axes).double(), PacketSynthesis(levels, axes).double()
    coefficients = wt(x)
    assert coefficients.shape == (shape[0], shape[1] << axes * levels, *(n >> levels for n in shape[2:]))
    assert torch.allclose(iwt(coefficients), x, atol=1e-6)


def test_channels_are_major():
    wt = PacketAnalysis(2, 2)
    x = signal(small("Codec2D"))
    assert torch.equal(wt(x)[:, 16:32], wt(x[:, 1:2]))


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_weight_in_training(name):
    torch.manual_seed(0)
    model = small(name).build()
    assert model.training
    x = signal(model.architecture).requires_grad_()
    x_hat, mse_loss, tf_loss = model(x)
    assert x_hat.shape == x.shape
    (x_hat.square().mean() + mse_loss + tf_loss.sum()).backward()
    for key, weight in model.named_parameters():
        assert weight.grad is not None, key
        assert torch.isfinite(weight.grad).all(), key
    encoders = [weight for key, weight in model.named_parameters() if key.startswith("encoder")]
    assert all(weight.grad.abs().max() > 0 for weight in encoders if weight.ndim > 1)
    assert x.grad.abs().max() > 0


def test_training_learns():
    torch.manual_seed(0)
    model = small("LinearCodec2D").build()
    x = signal(model.architecture).cumsum(-1) / 24
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        _, loss, _ = model(x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("name", SMALL)
def test_noise_in_training_and_rounding_otherwise(name):
    torch.manual_seed(0)
    model = small(name).build()
    x = signal(model.architecture)
    with torch.no_grad():
        assert not torch.equal(model(x)[0], model(x)[0])
        assert torch.equal(model.encode(x), model.eval().encode(x))
        assert torch.equal(model(x)[0], model(x)[0])
    assert model.encode(x).dtype == torch.int16
    assert not model.decode(model.encode(x)).requires_grad


def test_gradients_of_the_transform_are_right():
    torch.manual_seed(0)
    x = torch.rand(1, 2, 6, 4, dtype=torch.float64, requires_grad=True)
    wt, iwt = PacketAnalysis(1, 2).double(), PacketSynthesis(1, 2).double()
    assert torch.autograd.gradcheck(wt, x)
    assert torch.autograd.gradcheck(iwt, torch.rand(1, 8, 2, 3, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("name", SMALL)
def test_architecture_and_json(name):
    architecture = small(name)
    again = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
    assert again == architecture
    assert hash(again) == hash(architecture)


def test_settings_of_the_training_are_kept():
    data = {"batch_size": 64, "ϕ": 0.0, "channels": 3, "J": 2, "Ne": None, "Nd": 32, "latent_dim": 12,
            "latent_bits": 8, "lightweight_encode": True}  # fmt: skip
    architecture = Architecture.from_json(data)
    assert dict(architecture.training) == {"batch_size": 64, "ϕ": 0.0}
    assert list(architecture.to_json().items()) == list(data.items())


def test_early_configurations_do_not_say_which_encoder():
    data = {"channels": 3, "J": 2, "Nd": 32, "latent_dim": 12, "latent_bits": 8}
    assert Architecture.from_json(data).lightweight_encode
    assert not Architecture.from_json({**data, "Ne": 32}).lightweight_encode


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 10**9}, "channels to be an integer from 1 to 4096. Got 1000000000"),
        ({"channels": 10**5000}, "channels"),
        ({"channels": 0}, "channels"),
        ({"channels": True}, "channels"),
        ({"channels": 3.0}, "channels"),
        ({"channels": "3" * 10**6}, "channels"),
        ({"channels": [3]}, "channels"),
        ({"channels": None}, "channels"),
        ({"channels": 4096, "J": 8}, "channels after the wavelet transform"),
        ({"J": 64}, "J to be"),
        ({"J": -1}, "J to be"),
        ({"latent_dim": 1 << 40}, "latent_dim"),
        ({"latent_bits": 1}, "latent_bits"),
        ({"latent_bits": 4096}, "latent_bits"),
        ({"Nd": 1 << 20}, "Nd"),
        ({"Nd": 48}, "multiple of 32"),
        ({"Nd": 8192}, "at most 536870912 weights"),
        ({"Ne": 1 << 20, "lightweight_encode": False}, "Ne"),
        ({"lightweight_encode": False}, "Expected Ne"),
        ({"lightweight_encode": "no"}, "lightweight_encode"),
        ({"post_filter": "yes"}, "post_filter"),
        ({"post_filter": False, "Nd": 4}, "at least latent_dim"),
        ({"num_stages": 2}, "ResidualCodec2D to be linear"),
        ({"Nd": None, "num_stages": 10**6}, "num_stages"),
        ({"Nd": None, "Ne": 32}, "LinearCodec2D to be linear"),
    ],
)
def test_hostile_or_wrong_configurations(change, message):
    data = {"channels": 3, "J": 2, "Ne": None, "Nd": 32, "latent_dim": 12, "latent_bits": 8,
            "lightweight_encode": True, **change}  # fmt: skip
    with pytest.raises(ConfigError, match=message) as caught:
        Architecture.from_json(data).build()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("data", [None, [], 7, {}, {"channels": 3, "J": 2, "latent_dims": 3, "latent_bits": 8}])
def test_what_is_no_configuration(data):
    with pytest.raises(ConfigError, match="Expected"):
        Architecture.from_json(data)


def test_unknown_class():
    with pytest.raises(ConfigError, match=r"one of Codec1D, Codec2D, LinearCodec2D, ResidualCodec2D\. Got 'Codec3D'"):
        Architecture(kind="Codec3D", channels=1, J=1, latent_dim=1, latent_bits=8)
    with pytest.raises(ConfigError, match="build"):
        Codec1D(small("Codec2D"))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 16, 16), "batch, channel, y, x"),
        (torch.zeros(1, 4, 16, 16), "3 channels"),
        (torch.zeros(1, 3, 16, 18), "multiple of 4"),
        (torch.zeros(1, 3, 0, 16), "shape"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.float64), "float32"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "float32"),
    ],
)
def test_signals_that_do_not_fit(x, message):
    model = small("Codec2D").build()
    with pytest.raises(ConfigError, match=message):
        model.encode(x)
    with pytest.raises(ConfigError, match=message):
        model(x)


def test_latents_that_do_not_fit():
    two, one = small("Codec2D").build().eval(), small("Codec1D").build().eval()
    for model, latents in (
        (two, torch.zeros(1, 7, 4, 4)),
        (two, torch.zeros(1, 6, 4)),
        (two, torch.zeros(1, 6, 0, 4)),
        (two, torch.zeros(1, 6, 4, 4, dtype=torch.complex64)),
        (one, torch.zeros(1, 4, 2)),
    ):
        with pytest.raises(ConfigError, match="latents"):
            model.decode(latents)
    assert isinstance(two, Codec2D)
    extreme = torch.full((1, 6, 2, 2), 2**31 - 1, dtype=torch.int32)
    assert torch.isfinite(two.decode(extreme)).all()
