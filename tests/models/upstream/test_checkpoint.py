"""Reading and writing checkpoints, and what hostile ones can do: nothing."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: published models cannot run")

from xwalloc.errors import ConfigError, FormatError, UnsupportedFormatError, XwallocError  # noqa: E402
from xwalloc.models.upstream import Architecture, load, save  # noqa: E402

SIZES = {"kind": "Codec2D", "channels": 3, "J": 2, "latent_dim": 6, "latent_bits": 8, "Nd": 32}


@pytest.fixture
def saved(tmp_path):
    """A small model, and the files that it was saved to."""
    torch.manual_seed(3)
    model = Architecture(**SIZES, training={"epochs": 2, "ϕ": 0.0}).build().eval()
    save(model, tmp_path / "small.json", tmp_path / "small.pth")
    return model, tmp_path / "small.json", tmp_path / "small.pth"


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"Ne": 32, "lightweight_encode": False},
        {"kind": "Codec1D", "Nd": 12, "post_filter": True},
        {"kind": "Codec1D", "Nd": 12, "Ne": 7, "lightweight_encode": False},
        {"kind": "LinearCodec2D", "Nd": None},
        {"kind": "ResidualCodec2D", "Nd": None, "num_stages": 2},
    ],
)
def test_what_is_saved_is_loaded(tmp_path, sizes):
    torch.manual_seed(1)
    model = Architecture(**{**SIZES, **sizes}).build().eval()
    save(model, str(tmp_path / "a.json"), str(tmp_path / "a.pth"))
    before = torch.get_rng_state()
    again = load(str(tmp_path / "a.json"), tmp_path / "a.pth")
    assert torch.equal(before, torch.get_rng_state())
    assert type(again) is type(model)
    assert again.architecture == model.architecture
    x = torch.rand(1, 3, *((64,) if model.architecture.dimensions == 1 else (16, 16))) - 0.5
    assert torch.equal(again.encode(x), model.encode(x))
    assert torch.equal(again.decode(model.encode(x)), model.decode(model.encode(x)))


def test_golden_cases_are_written_as_they_were(golden, tmp_path):
    for case in sorted(path.parent for path in golden.glob("*/config.json")):
        model = load(case / "config.json", case / "checkpoint.pth", allow_pickle=True)
        save(model, tmp_path / "a.json", tmp_path / "a.pth")
        assert (tmp_path / "a.json").read_text().strip() == (case / "config.json").read_text().strip(), case.name
        state = torch.load(tmp_path / "a.pth", weights_only=True)["model_state_dict"]
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_legacy_pickle(golden, vectors):
    case = golden / "codec2d_legacy_pickle"
    with pytest.raises(UnsupportedFormatError, match=r"__main__ Config.*allow_pickle=True"):
        load(case / "config.json", case / "checkpoint.pth")
    marked = set(torch.serialization.get_safe_globals())
    model = load(case / "config.json", case / "checkpoint.pth", allow_pickle=True)
    assert set(torch.serialization.get_safe_globals()) == marked
    v = vectors("codec2d_legacy_pickle")
    assert torch.allclose(model.decode(v["latent"]), v["x_hat"], atol=1e-5)


def test_legacy_pickles_are_read_by_many_threads(golden):
    case = golden / "codec2d_legacy_pickle"
    marked = set(torch.serialization.get_safe_globals())
    with ThreadPoolExecutor(4) as pool:
        for model in pool.map(
            lambda _: load(case / "config.json", case / "checkpoint.pth", allow_pickle=True), range(8)
        ):
            assert model.architecture.Nd == 32
    assert set(torch.serialization.get_safe_globals()) == marked


@pytest.mark.parametrize("function", [os.system, subprocess.call, eval])
def test_nothing_in_a_pickle_runs(saved, tmp_path, repickle, hostile, function):
    _, config, checkpoint = saved
    witness = tmp_path / "ran"
    argument = f"__import__('pathlib').Path({str(witness)!r}).touch()" if function is eval else f"touch {witness}"
    arguments = (argument,) if function is not subprocess.call else (["touch", str(witness)],)
    bad = repickle(checkpoint, tmp_path / "bad.pth", lambda _: hostile(function, *arguments))
    with pytest.raises(UnsupportedFormatError, match="hostile"):
        load(config, bad)
    with pytest.raises(FormatError):
        load(config, bad, allow_pickle=True)
    assert not witness.exists()
    # the witness is a good one: pickle itself would have run it
    function(*arguments)
    assert witness.exists()


def test_a_hostile_object_beside_good_weights_is_dropped(saved, tmp_path, repickle):
    model, config, checkpoint = saved
    witness = tmp_path / "ran"
    # {'model_state_dict': ...} with one more item, subprocess.getoutput("touch ..."), put in before the end
    command = f"touch {witness}".encode()
    more = (
        b"X\x04\x00\x00\x00morecsubprocess\ngetoutput\n"
        + b"X" + len(command).to_bytes(4, "little") + command + b"\x85Rs."
    )  # fmt: skip
    bad = repickle(checkpoint, tmp_path / "bad.pth", lambda data: data[:-1] + more)
    with pytest.raises(UnsupportedFormatError, match="subprocess getoutput"):
        load(config, bad)
    again = load(config, bad, allow_pickle=True)
    assert not witness.exists()
    latents = torch.ones(1, 6, 2, 2, dtype=torch.int16)
    assert torch.equal(again.decode(latents), model.decode(latents))


def test_damaged_checkpoints(saved, tmp_path):
    _, config, checkpoint = saved
    data, bad = checkpoint.read_bytes(), tmp_path / "bad.pth"
    for cut in (0, 1, 100, len(data) // 2, len(data) - 1):
        bad.write_bytes(data[:cut])
        for allow in (False, True):
            with pytest.raises(FormatError, match="Expected"):
                load(config, bad, allow_pickle=allow)
    for position in range(0, 4000, 37):
        bad.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        for allow in (False, True):
            with contextlib.suppress(XwallocError):
                load(config, bad, allow_pickle=allow)


def test_compressed_archives_are_refused(saved, tmp_path):
    _, config, checkpoint = saved
    with zipfile.ZipFile(checkpoint) as old, zipfile.ZipFile(tmp_path / "bad.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(FormatError, match="compressed"):
        load(config, tmp_path / "bad.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {}, "without 'wt.h0_col', 'wt.h1_col', 'wt.h0_row' and 6"),
        (lambda state: {k: v for k, v in state.items() if k != "encoder.0.bias"}, "without 'encoder.0.bias'"),
        (lambda state: {**state, "extra.weight": torch.zeros(3)}, "'extra.weight' among them"),
        (lambda state: {**state, "encoder.0.bias": torch.zeros(7)}, r"'encoder.0.bias' as torch.float32 \(7,\)"),
        (lambda state: {**state, "encoder.0.bias": torch.zeros(6, dtype=torch.int64)}, "int64"),
        (lambda state: {**state, "encoder.0.bias": 7}, "mapping with tensors"),
        (lambda state: [*state.values()], "mapping with tensors"),
    ],
)
def test_weights_that_are_not_those_of_the_configuration(saved, tmp_path, change, message):
    model, config, _ = saved
    torch.save({"model_state_dict": change(dict(model.state_dict()))}, tmp_path / "bad.pth")
    with pytest.raises(FormatError, match=message):
        load(config, tmp_path / "bad.pth")


def test_checkpoints_of_another_layout(saved, tmp_path):
    model, config, _ = saved
    for content in (model.state_dict(), [1, 2], torch.zeros(3)):
        torch.save(content, tmp_path / "bad.pth")
        with pytest.raises(FormatError, match=r"under 'model_state_dict'.*Save it again"):
            load(config, tmp_path / "bad.pth")


def test_weights_of_half_precision_are_accepted(saved, tmp_path):
    model, config, _ = saved
    torch.save({"model_state_dict": {k: v.half() for k, v in model.state_dict().items()}}, tmp_path / "half.pth")
    assert all(v.dtype == torch.float32 for v in load(config, tmp_path / "half.pth").state_dict().values())


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 10**5, "[]", "null", '"x"', "{}", "\x00\xff", '{"channels": 1e999}', " " * (1 << 21)]
)
def test_files_that_are_no_configuration(saved, tmp_path, text):
    _, _, checkpoint = saved
    (tmp_path / "bad.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="Expected"):
        load(tmp_path / "bad.json", checkpoint)


def test_missing_and_swapped_files(saved, tmp_path):
    model, config, checkpoint = saved
    for paths, message in (
        ((tmp_path / "none.json", checkpoint), "config_path"),
        ((config, tmp_path / "none.pth"), "checkpoint_path"),
        ((tmp_path, checkpoint), "config_path"),
        ((config, tmp_path), "checkpoint_path"),
        ((checkpoint, config), "JSON"),
    ):
        with pytest.raises(ConfigError, match=message):
            load(*paths)
    with pytest.raises(FormatError, match="zip archive"):
        load(config, config)
    with pytest.raises(ConfigError, match="folder"):
        save(model, tmp_path / "none" / "a.json", tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="Got Linear"):
        save(torch.nn.Linear(2, 2), tmp_path / "a.json", tmp_path / "a.pth")


def test_huge_configurations_are_refused_before_anything_is_read(saved, tmp_path):
    _, config, checkpoint = saved
    data = json.loads(config.read_text())
    (tmp_path / "huge.json").write_text(json.dumps({**data, "channels": 10**9}))
    with pytest.raises(ConfigError, match="channels"):
        load(tmp_path / "huge.json", checkpoint)


def test_torch_comes_with_this_package_only():
    code = "import xwalloc, xwalloc.models.linear, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
