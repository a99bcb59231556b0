"""Examples with real tasks run at a small size: on data of their own, and on recordings where those are there."""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("XWALLOC_BENCH_DATA", ROOT.parent / "shared" / "data"))
recordings = pytest.mark.skipif(not DATA.is_dir(), reason=f"no recordings in {DATA}")


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_land_cover_from_latents():
    land_cover = example("land_cover")
    land_cover.LATENTS, land_cover.CELLS = land_cover.LATENTS[:4], (3,)
    land_cover.WINDOWS, land_cover.POWERS, land_cover.CS = (1, 3), (1,), (100,)  # few to choose from, to be quick
    rows = {row["input"]: row for row in land_cover.measure(size=40)}
    assert [row["numbers"] for row in rows.values()][:5] == [200, 20, 20, 10, 2]
    for row in rows.values():
        assert 0 < row["tiles"][0] <= 100
        assert 0 < row["pixels"][0] <= 100
    assert rows["20 latents of a pixel"]["pixels"][0] > rows["all bands"]["pixels"][0] - 15


def test_tiles_keep_training_and_test_apart():
    land_cover = example("land_cover")
    labels = np.ones((64, 64), int)
    tested = np.zeros(labels.shape, int)
    for train, test in land_cover.splits(labels, "tiles", 0):
        ty, tx = np.nonzero(test)
        for y, x in np.argwhere(train)[::37]:
            assert np.maximum(abs(ty - y), abs(tx - x)).min() > land_cover.GAP
        tested += test
    assert (tested == 1).all()


def audio_holds(rows):
    of = {(row["codec"], row["setting"]): row for row in rows}
    assert of["xwalloc", "lossless"]["snr"] == of["FLAC", "lossless"]["snr"] == math.inf
    assert of["xwalloc", "max_error 16"]["max_error"] <= 16
    for target in (40, 30, 20):
        assert of["xwalloc", f"snr {target}"]["snr"] > target - 0.5
    assert {"Vorbis", "Opus"} <= {codec for codec, _ in of}
    assert all(row["snr"] > 5 for row in rows)  # aligned


def test_audio_of_its_own(tmp_path):
    import soundfile

    audio = example("audio")
    rows = audio.measure(copy=tmp_path / "copy.flac", seconds=0.5)
    audio_holds(rows)
    samples, rate = soundfile.read(tmp_path / "copy.flac")
    assert samples.shape == (rate // 2, 2)


@recordings
def test_audio_of_a_file():
    audio_holds(example("audio").measure(DATA / "audio" / "guit_em9.flac", seconds=0.25))


def test_alignment_finds_a_delay():
    audio = example("audio")
    original = np.random.default_rng(0).normal(size=(2, 5000))
    late = np.pad(original, ((0, 0), (312, 0)))
    assert np.array_equal(audio.aligned(original, late)[:, :4000], original[:, :4000])


def biosignals_hold(result):
    for row in result["bounds"]:
        assert row["max_error"] <= row["bound"]
        assert row["bytes"]["xwalloc"] < row["raw"]


def test_biosignals_of_their_own():
    biosignals = example("biosignals")
    biosignals.CHUNKS = (512, 2048)
    result = biosignals.measure(seconds=8)
    biosignals_hold(result)
    assert result["kind"] == "ecg"
    assert result["bounds"][0]["survived"].startswith("9 of 9 beats, 9 at")


@recordings
@pytest.mark.parametrize("name", ["100.hea", "EEG_Eye_State_Classification.csv"])
def test_biosignals_of_a_file(name):
    biosignals = example("biosignals")
    biosignals.CHUNKS = (512,)
    result = biosignals.measure(DATA / "timeseries" / name, seconds=4)
    biosignals_hold(result)
    assert result["kind"] == ("ecg" if name == "100.hea" else "eeg")


@recordings
def test_samples_of_format_212_are_those_of_the_header():
    path = DATA / "timeseries" / "100.hea"
    values, rate = example("biosignals").read_wfdb(path)
    signals = [line.split() for line in path.read_text().splitlines() if ".dat" in line]
    assert rate == 360
    assert values.shape == (2, 650_000)
    for signal, fields in zip(values, signals, strict=True):
        counts = np.rint(signal * float(fields[2]) / 1000).astype(np.int64) + int(fields[4])
        assert counts[0] == int(fields[5])
        assert counts.sum().astype(np.int16) == int(fields[6])
