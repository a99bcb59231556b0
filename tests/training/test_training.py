"""Training of refinement networks: exact, seeded, resumable, and never worse than the linear decoder."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from xwalloc.errors import ConfigError  # noqa: E402
from xwalloc.models.neural import Network  # noqa: E402
from xwalloc.training import (  # noqa: E402
    Architecture,
    Blocks,
    Options,
    Progress,
    TrainingResult,
    loop,
    plot_history,
    train_network,
)
from xwalloc.training.blocks import analysis_of, quantise, varied  # noqa: E402
from xwalloc.training.checkpoint import load_checkpoint  # noqa: E402
from xwalloc.training.encoder import Encoder  # noqa: E402
from xwalloc.training.examples import flipped, gathered  # noqa: E402
from xwalloc.training.quantised import Refiner  # noqa: E402

CPU = torch.device("cpu")
SHORT = Options(steps=12, places=200, validate_every=4, patience=9, variants=2)
PACKET = Architecture(tree="packet", levels=1, widths=(6,))


pytestmark = pytest.mark.usefixtures("one_thread")


def some_blocks(
    seed: int, *, tree: str = "packet", levels: int = 1, extent: tuple[int, int, int] = (1, 24, 26)
) -> Blocks:
    """Smooth fields with edges, mixed into channels."""
    rng = np.random.default_rng(seed)
    fields = rng.normal(size=(2, 3, *extent))
    for axis, n in enumerate(extent):
        if n > 1:
            fields = np.cumsum(fields, axis=2 + axis) / 2
    samples = np.einsum("ck,nkzyx->nczyx", rng.normal(size=(6, 3)), np.maximum(fields, 0))
    flat = samples.swapaxes(0, 1).reshape(6, -1)
    basis = np.linalg.svd(flat - flat.mean(axis=1, keepdims=True), full_matrices=False)[0].T[:4]
    return Blocks(
        samples=samples, means=flat.mean(axis=1), basis=np.ascontiguousarray(basis), step=1.0, tree=tree, levels=levels
    )  # type: ignore[arg-type]


EXACT = [
    (PACKET, {}),
    (Architecture(widths=(6, 5)), {"tree": "dyadic", "levels": 3}),
    (Architecture(kind="fixed", tree="packet", levels=1, rank=4, widths=(7,)), {}),
    (Architecture(dimensions=1, widths=(6,)), {"tree": "dyadic", "levels": 3, "extent": (1, 1, 101)}),
    (Architecture(dimensions=3, widths=(4,)), {"tree": "dyadic", "levels": 2, "extent": (9, 10, 11)}),
]


def shaken(refiner: Refiner, scale: float, seed: int) -> Refiner:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in refiner.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return refiner


@pytest.mark.parametrize(("architecture", "how"), EXACT, ids=[str(i) for i in range(len(EXACT))])
@pytest.mark.parametrize("scale", [0.003, 0.1, 3.0])
def test_forward_pass_is_that_of_inference(architecture: Architecture, how: dict, scale: float) -> None:
    """What training sees is bit for bit what `Network.correct` will do: here by what it saves."""
    blocks = some_blocks(0, **how)
    refiner = shaken(Refiner(architecture, torch.Generator().manual_seed(1)), scale, 2)
    network = refiner.network()
    for block in range(len(blocks.samples)):
        quantised = quantise(blocks, block)
        corrections = network.correct(quantised.symbols[None], blocks.plan, quantised.codes)[0].reshape(4, -1)
        views = iter(network.views(blocks.plan))
        for examples in gathered(architecture, [(blocks, quantised)], CPU):
            view = next(views)
            parts = examples.pick(torch.arange(len(examples.planes)), CPU)
            with torch.no_grad():
                found = 256 * refiner(*parts[:3])
            own = view.index[architecture.shape.context :]
            used = quantised.codes[:, list(view.subbands[-architecture.shape.own_subbands :])].any(axis=1)
            used = used | (architecture.kind == "fixed")
            expected = np.where(own >= 0, corrections[used][:, np.maximum(own, 0)], 0)
            masked = found.numpy().reshape(expected.shape) * (own >= 0)
            assert np.array_equal(masked, expected)
    assert np.count_nonzero(corrections)


def test_untrained_is_linear() -> None:
    refiner = Refiner(PACKET, torch.Generator().manual_seed(1))
    quantised = quantise(some_blocks(0), 0)
    assert not refiner.network().correct(quantised.symbols[None], some_blocks(0).plan, quantised.codes).any()


@pytest.mark.parametrize(("architecture", "how"), EXACT, ids=[str(i) for i in range(len(EXACT))])
def test_start_from_a_network(architecture: Architecture, how: dict) -> None:
    network = shaken(Refiner(architecture, torch.Generator().manual_seed(1)), 0.1, 2).network()
    refiner = Refiner(architecture, torch.Generator().manual_seed(3))
    refiner.start_from(network)
    blocks = some_blocks(0, **how)
    quantised = quantise(blocks, 0)
    arguments = (quantised.symbols[None], blocks.plan, quantised.codes)
    assert np.array_equal(refiner.network().correct(*arguments), network.correct(*arguments))
    result = train_network([blocks], [blocks], architecture, options=replace(SHORT, steps=1), start=network)
    assert result.history[0].distortion != result.linear


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(-6, 6))
def test_weights_stay_exact(seed: int, exponent: float) -> None:
    """Whatever the optimiser makes of the weights, a network accepts them: sums stay below 2^24."""
    architecture = Architecture(kind="fixed", rank=40, widths=(3, 2))
    refiner = shaken(Refiner(architecture, torch.Generator().manual_seed(seed)), 10.0**exponent, seed)
    refiner.network()


def test_symbols_are_those_of_the_codec() -> None:
    """Errors are what the linear decoder with its three points leaves, in the cells of the codec's quantiser."""
    blocks = some_blocks(0)
    quantised = quantise(blocks, 0)
    assert quantised.symbols.dtype == np.int32
    assert np.count_nonzero(quantised.symbols)
    coefficients = blocks.channel_coefficients(0)
    latents = np.tensordot(analysis_of(blocks.basis), coefficients, axes=1)
    linear = latents - quantised.errors
    assert np.abs(linear - quantised.symbols).max() <= 0.51
    assert not linear[quantised.symbols == 0].round(2).any()


def train(options: Options = SHORT, **more: object) -> TrainingResult:
    return train_network([some_blocks(0)], [some_blocks(1)], PACKET, options=options, **more)  # type: ignore[arg-type]


def test_it_learns_and_reports() -> None:
    seen: list[Progress] = []
    options = Options(steps=60, places=400, validate_every=20, variants=2)
    blocks = some_blocks(0)
    result = train_network([blocks], [blocks], PACKET, options=options, progress=seen.append)
    assert result.gain > 0
    assert "better than the linear decoder" in str(result)
    assert [p.step for p in seen] == [0, 20, 40, 60]
    assert seen[0].distortion == result.linear
    assert seen[0].seconds_left == math.inf
    assert seen[-1].seconds_left == 0.0
    assert seen[-1].rate > 0
    assert abs(result.int8_loss) < 1
    # The figure is that of the network which is returned.
    saved = []
    for block in range(len(blocks.samples)):
        quantised = quantise(blocks, block)
        moved = result.network.correct(quantised.symbols[None], blocks.plan, quantised.codes)[0] / 256
        saved.append(np.square(quantised.errors - moved).mean(dtype=np.float64))
    assert np.mean(saved) == pytest.approx(result.distortion, rel=1e-5)


def test_seeded() -> None:
    first, again, other = train(), train(), train(replace(SHORT, seed=1))
    assert first.history == again.history
    same = [np.array_equal(t, again.network.tensors()[n]) for n, t in first.network.tensors().items()]
    assert all(same)
    assert first.history != other.history


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    expected = train()
    checkpoint = tmp_path / "state.safetensors"

    def stop(progress: Progress) -> None:
        if progress.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(checkpoint=checkpoint, progress=stop)
    assert load_checkpoint(checkpoint)[1]["step"] == 4
    found = train(checkpoint=checkpoint)
    assert found.history == expected.history
    assert found.distortion == expected.distortion
    for name, tensor in expected.network.tensors().items():
        assert np.array_equal(found.network.tensors()[name], tensor)
    assert not checkpoint.exists()


def test_foreign_checkpoints(tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.safetensors"
    checkpoint.write_bytes(b"nothing of ours")
    with pytest.raises(ConfigError, match="Expected a checkpoint"):
        train(checkpoint=checkpoint)
    checkpoint.unlink()

    def stop(progress: Progress) -> None:
        if progress.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(checkpoint=checkpoint, progress=stop)
    with pytest.raises(ConfigError, match="one of another"):
        train(replace(SHORT, seed=1), checkpoint=checkpoint)


def test_early_stopping_returns_the_linear_decoder_if_nothing_beats_it() -> None:
    options = Options(steps=400, places=200, validate_every=2, patience=2, variants=1, rate=30.0)
    result = train(options)
    assert len(result.history) < 100
    assert result.distortion <= result.linear
    if result.distortion == result.linear:
        assert "as good" in str(result)
        assert not result.network.tensors()["output.weight"].any()


def test_time_is_used_up_where_the_first_steps_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    learn, measure = loop._Run._learn, loop._Run._distortion

    def slow(run: loop._Run, data: object) -> None:
        nonlocal now
        now += 1.0 if run.step < 25 else 0.5
        learn(run, data)

    def checked(run: loop._Run, data: object, *, rounded: bool) -> float:
        nonlocal now
        now += 2.0
        return measure(run, data, rounded=rounded)

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(loop._Run, "_learn", slow)
    monkeypatch.setattr(loop._Run, "_distortion", checked)
    result = train(Options(steps=1000, minutes=1.0, places=200, validate_every=20, patience=1000, variants=1))
    assert 59 < now <= 60
    # six times the distortion is measured, two of them at the end
    assert result.history[-1].step == pytest.approx(25 + (60 - 25 - 6 * 2) / 0.5, abs=2)


def test_encoder_starts_from_the_closed_form() -> None:
    blocks = some_blocks(0)
    how = {"seed": 0, "device": CPU, "rate": 1e-3}
    start = Encoder.trained([blocks], steps=0, **how)
    assert np.allclose(start, blocks.basis, atol=1e-6)
    trained = Encoder.trained([blocks], steps=5, **how)
    assert not np.array_equal(trained, start)
    assert np.array_equal(trained, Encoder.trained([blocks], steps=5, **how))
    other = replace(blocks, basis=blocks.basis[::-1].copy())
    with pytest.raises(ConfigError, match="one basis"):
        Encoder.trained([blocks, other], steps=5, **how)


def test_encoder_heeds_what_is_not_coded() -> None:
    def kept(plan: object) -> np.ndarray:
        return np.array([True, True, True, False])[:, None].repeat(len(plan.subbands), axis=1)  # type: ignore[attr-defined]

    bases = [
        Encoder.trained([blocks], steps=5, seed=0, device=CPU, rate=1e-3)
        for blocks in (some_blocks(0), replace(some_blocks(0), kept=kept))
    ]
    assert not np.array_equal(*bases)
    # What is not coded is made of the other vectors as well as they can.
    assert np.abs(bases[1] - some_blocks(0).basis).max() < 0.1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize(("architecture", "how"), EXACT, ids=[str(i) for i in range(len(EXACT))])
def test_trained_on_cuda_the_same_everywhere(architecture: Architecture, how: dict, mixed: bool) -> None:
    """Training there is reproducible, and its network corrects bit for bit alike on CPU and CUDA."""
    blocks, options = some_blocks(0, **how), replace(SHORT, steps=40, validate_every=20, mixed=mixed)
    result, again = (train_network([blocks], [blocks], architecture, options=options, device="cuda") for _ in range(2))
    assert result.history == again.history
    assert result.distortion <= result.linear
    saved = []
    for block in range(len(blocks.samples)):
        quantised = quantise(blocks, block)
        symbols = quantised.symbols[None]
        on_cpu = result.network.correct(symbols, blocks.plan, quantised.codes)
        on_cuda = result.network.correct(torch.from_numpy(symbols).cuda(), blocks.plan, quantised.codes)
        assert np.array_equal(on_cpu, on_cuda.cpu().numpy())
        saved.append(np.square(quantised.errors - on_cpu[0] / 256).mean(dtype=np.float64))
    assert np.mean(saved) == pytest.approx(result.distortion, rel=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_encoder_on_cuda() -> None:
    bases = [
        Encoder.trained([some_blocks(0)], steps=5, seed=0, device=torch.device(d), rate=1e-3) for d in ("cpu", "cuda")
    ]
    assert np.allclose(*bases, atol=1e-4)


def test_variants_keep_statistics() -> None:
    blocks = some_blocks(0, extent=(1, 48, 24))
    found = varied(blocks, 6, 0)
    assert found[0] is blocks
    assert len(found) == 6
    assert {b.samples.shape for b in found} <= {(2, 6, 1, y, x) for y in (48, 46, 24, 22) for x in (48, 46, 24, 22)}
    assert all(np.isin(b.samples, blocks.samples).all() for b in found)


def test_flips_keep_magnitudes() -> None:
    for architecture in (PACKET, EXACT[2][0]):
        blocks = some_blocks(0)
        (examples,) = gathered(architecture, [(blocks, quantise(blocks, 0))], CPU)
        planes, _, signs, errors = examples.pick(torch.arange(len(examples.planes)), CPU)
        new = flipped(architecture, planes, signs, errors, torch.Generator().manual_seed(3))
        for before, after in zip((planes, signs, errors), new, strict=True):
            assert torch.equal(before.abs(), after.abs())
            assert not torch.equal(before, after)
        assert torch.equal(signs * errors, new[1] * new[2])


def test_curve(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_history(train(), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_wrong_arguments() -> None:
    blocks = some_blocks(0)
    with pytest.raises(ConfigError, match="validate with"):
        train_network([blocks], [], PACKET)
    with pytest.raises(ConfigError, match="Got none: use a smaller step"):
        train_network([blocks], [blocks], Architecture(tree="packet", levels=2))
    with pytest.raises(ConfigError, match="to start from"):
        train_network([blocks], [blocks], PACKET, start=Network.untrained(EXACT[1][0]))
    for wrong in ({"steps": -1}, {"rate": 0.0}, {"variants": 0}):
        with pytest.raises(ConfigError):
            Options(**wrong)
    for wrong in ({"step": 0.0}, {"means": np.zeros(3)}, {"samples": np.zeros((2, 2))}):
        with pytest.raises(ConfigError):
            replace(blocks, **wrong)
