"""Runs that are killed, stores that are damaged, and what the same command makes of them."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner

from xwalloc.cli import main
from xwalloc.conversion.convert import convert
from xwalloc.conversion.manifest import FOLDER, Manifest
from xwalloc.conversion.verify import verify
from xwalloc.errors import ConfigError

SETTINGS = {"max_error": 0.5, "chunks": {"y": 32, "x": 32}}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    rng = np.random.default_rng(5)
    field = rng.normal(size=(1, 128, 112)).cumsum(1).cumsum(2) * np.arange(1, 9)[:, None, None] / 8
    values = (field + rng.normal(size=field.shape)).astype("f4")
    values[:, 40:50, 60:70] = np.nan
    path = tmp_path_factory.mktemp("source") / "scene.nc"
    coordinates = {"band": np.arange(8), "wavelength": ("band", np.linspace(400.0, 900, 8))}
    xr.Dataset({"radiance": (("band", "y", "x"), values)}, coordinates).to_netcdf(path)
    return path


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """An uninterrupted run."""
    store = tmp_path_factory.mktemp("whole") / "whole.zarr"
    assert convert(source, store, **SETTINGS).ok
    return store


def chunks(store):
    """Objects that hold samples or coordinates, by key."""
    files = (path for path in Path(store).rglob("*") if path.is_file())
    found = {str(path.relative_to(store)): path.read_bytes() for path in files}
    return {key: data for key, data in found.items() if not key.startswith("_xwalloc") and "zarr.json" not in key}


def command(source, store, *more):
    arguments = ["convert", str(source), str(store), "--max-error", "0.5", "--chunk", "y=32,x=32", "--quiet", *more]
    return [sys.executable, "-m", "xwalloc.cli", *arguments]


def test_killed_at_any_moment_the_same_command_completes(source, whole, tmp_path):
    store = tmp_path / "out.zarr"
    chance = random.Random(11)
    kills = 0
    for attempt in range(40):
        process = subprocess.Popen(command(source, store), start_new_session=True)
        units = store / FOLDER / "units" / "radiance"
        if attempt < 4:  # one before anything is written, the others somewhere in between
            wanted = 0 if attempt == 0 else chance.randrange(2, 5) + len(list(store.glob(f"{FOLDER}/units/**/*.json")))
            while process.poll() is None and len(list(store.glob(f"{FOLDER}/units/**/*.json"))) < wanted:
                time.sleep(0.002)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
        if process.wait() == 0:
            break
        for path in (store, store / "radiance"):
            with pytest.raises(FileNotFoundError):
                zarr.open(path, mode="r")
        with pytest.raises(ConfigError, match=r"whole|Got none"):
            verify(source, store)
    assert kills >= 3
    assert chunks(store) == chunks(whole)
    assert verify(source, store).ok
    assert not units.exists()
    again = convert(source, store, **SETTINGS)
    assert (again.earlier, again.ok) == (again.units, True)


def test_finished_units_are_not_written_again(source, tmp_path):
    store = tmp_path / "out.zarr"
    with pytest.raises(KeyboardInterrupt):
        convert(source, store, progress=stop_after(5), **SETTINGS)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("c/*/*/*")}
    assert len(before) >= 5
    again = convert(source, store, **SETTINGS)
    assert again.ok
    assert again.earlier >= 5
    for record in list(Manifest(zarr.storage.LocalStore(store)).records().values())[:5]:
        assert record.objects
    untouched = [path for path, when in before.items() if path.stat().st_mtime_ns == when]
    assert len(untouched) >= 5


def stop_after(count):
    def tell(progress):
        if progress.done >= count:
            raise KeyboardInterrupt

    return tell


@pytest.mark.parametrize("damage", ["cut", "torn", "gone", "empty"])
@pytest.mark.parametrize("complete", [True, False])
def test_damaged_units_are_found_and_written_again(source, whole, tmp_path, damage, complete, caplog):
    store = tmp_path / "out.zarr"
    if complete:
        convert(source, store, **SETTINGS)
    else:
        with pytest.raises(KeyboardInterrupt):
            convert(source, store, progress=stop_after(10), **SETTINGS)
    victim = sorted(path for path in store.glob("radiance/c/*/*/*"))[3]
    data = victim.read_bytes()
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes({"cut": data[:-7], "torn": data[:50] + bytes(len(data) - 50), "empty": b""}[damage])
    again = convert(source, store, **SETTINGS)
    assert again.ok
    assert chunks(store) == chunks(whole)
    assert verify(source, store).ok


def test_a_record_that_is_cut_does_not_count(source, whole, tmp_path):
    store = tmp_path / "out.zarr"
    with pytest.raises(KeyboardInterrupt):
        convert(source, store, progress=stop_after(10), **SETTINGS)
    record = sorted(store.glob(f"{FOLDER}/units/*.json"))[2]
    record.write_bytes(record.read_bytes()[:20])
    assert convert(source, store, **SETTINGS).ok
    assert chunks(store) == chunks(whole)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"max_error": 0.6}, r"begun\. setting max_error: 0\.5 before, 0\.6 now\. Use"),
        ({"chunks": {"y": 64, "x": 32}}, r"begun\. setting chunks: \{.*\} before, \{'x': 32, 'y': 64\} now\. Use"),
        ({"zarr_format": 2}, r"begun\. zarr_format: 3 before, 2 now\. Use"),
        ({"nodata": -1}, r"begun\. setting nodata: not given before, -1 now\. Use"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_other_settings_are_refused_and_nothing_is_touched(source, tmp_path, changed, words, complete):
    store = tmp_path / "out.zarr"
    if complete:
        convert(source, store, **SETTINGS)
    else:
        with pytest.raises(KeyboardInterrupt):
            convert(source, store, progress=stop_after(3), **SETTINGS)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in store.rglob("*")}
    with pytest.raises(ConfigError, match=words):
        convert(source, store, **{**SETTINGS, **changed})
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in store.rglob("*")} == before


def test_the_same_setting_as_another_type_goes_on(source, tmp_path):
    assert convert(source, tmp_path / "out.zarr", max_error=1, chunks={"y": 64, "x": 64}).ok
    again = convert(source, tmp_path / "out.zarr", max_error=1.0, chunks={"x": np.int32(64), "y": 64})
    assert (again.ok, again.earlier) == (True, again.units)


def test_a_source_that_changed_is_refused(source, tmp_path):
    copy = tmp_path / "scene.nc"
    copy.write_bytes(source.read_bytes())
    convert(copy, tmp_path / "out.zarr", **SETTINGS)
    with xr.open_dataset(copy) as dataset:
        changed = dataset.load() + 1
    changed.to_netcdf(copy)
    words = r"begun\. source .*scene\.nc has changed \(modified 20\d\d-.* before, 20\d\d-.* now.*\)\. Use"
    with pytest.raises(ConfigError, match=words):
        convert(copy, tmp_path / "out.zarr", **SETTINGS)
    changed.isel(x=slice(40)).to_netcdf(copy)
    words = r"array .* has changed, shape: \[.*\] before, \[.*\] now; source .*scene\.nc has changed \("
    with pytest.raises(ConfigError, match=words):
        convert(copy, tmp_path / "out.zarr", **SETTINGS)


@pytest.mark.parametrize("content", ["file", "zarr"])
def test_what_is_not_ours_is_never_touched(source, tmp_path, content):
    store = tmp_path / "out.zarr"
    if content == "file":
        store.mkdir()
        (store / "thesis.txt").write_text("years of work")
    else:
        xr.Dataset({"a": ("x", np.arange(3))}).to_zarr(store, consolidated=False)
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"not convert|something else"):
            convert(source, store, overwrite=overwrite, **SETTINGS)
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]


def test_overwriting_builds_beside_and_swaps(source, whole, tmp_path):
    store = tmp_path / "out.zarr"
    convert(source, store, max_error=5.0)
    before = chunks(store)
    with pytest.raises(KeyboardInterrupt):
        convert(source, store, overwrite=True, progress=stop_after(3), **SETTINGS)
    assert chunks(store) == before
    assert zarr.open_group(store, mode="r")["radiance"].shape == (8, 128, 112)
    again = convert(source, store, overwrite=True, **SETTINGS)
    assert again.ok
    assert again.earlier >= 3
    assert chunks(store) == chunks(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]


def test_overwriting_may_begin_anew_with_other_settings(source, whole, tmp_path):
    store = tmp_path / "out.zarr"
    convert(source, store, max_error=5.0)
    with pytest.raises(KeyboardInterrupt):
        convert(source, store, overwrite=True, progress=stop_after(1), max_error=2.0, chunks={"y": 32, "x": 32})
    again = convert(source, store, overwrite=True, **SETTINGS)
    assert (again.ok, again.earlier) == (True, 0)
    assert chunks(store) == chunks(whole)


def test_what_a_swap_left_is_deleted_only_if_it_is_ours(source, whole, tmp_path):
    store, left = tmp_path / "out.zarr", tmp_path / ".out.zarr.old"
    convert(source, left, max_error=5.0)
    convert(source, store, max_error=2.0)
    assert convert(source, store, overwrite=True, **SETTINGS).ok
    assert not left.exists()
    assert chunks(store) == chunks(whole)


def test_a_swap_that_was_interrupted_is_taken_back(source, tmp_path):
    store = tmp_path / "out.zarr"
    convert(source, store, max_error=5.0)
    before = chunks(store)
    store.rename(tmp_path / ".out.zarr.old")
    with pytest.raises(KeyboardInterrupt):
        convert(source, store, overwrite=True, progress=stop_after(3), **SETTINGS)
    assert chunks(store) == before


def test_overwriting_is_refused_where_renaming_is_not_atomic(source):
    with pytest.raises(ConfigError, match="only for folders"):
        convert(source, "memory://archive.zarr", overwrite=True, **SETTINGS)


def test_half_a_store_fails_verification(source, tmp_path):
    store = tmp_path / "out.zarr"
    with pytest.raises(KeyboardInterrupt):
        convert(source, store, progress=stop_after(3), **SETTINGS)
    result = CliRunner().invoke(main, ["verify", str(source), str(store)])
    assert result.exit_code == 1
    assert "not finished" in result.output


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_nothing_that_lacks_units_can_be_opened(source, tmp_path, zarr_format):
    store, settings = tmp_path / "out.zarr", {**SETTINGS, "zarr_format": zarr_format}
    with pytest.raises(KeyboardInterrupt):
        convert(source, store, progress=stop_after(3), **settings)
    assert chunks(store)
    for path in (store, store / "radiance"):
        with pytest.raises(FileNotFoundError):
            zarr.open(path, mode="r")
        for arguments in (["info", str(path)], ["export", str(path), str(tmp_path / "out.nc")]):
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 1
            assert f"The conversion to file://{store} was not finished: run the same command again." in result.output
    assert zarr.open_array(store / "wavelength", mode="r")[:].tolist() == np.linspace(400.0, 900, 8).tolist()
    again = convert(source, store, **settings)
    assert again.ok
    assert again.earlier >= 3
    assert verify(source, store).ok
    typo = CliRunner().invoke(main, ["info", str(store / "radiant")])
    assert "Check the path" in typo.output


def test_metadata_that_were_damaged_are_written_again_with_a_unit(source, whole, tmp_path):
    store = tmp_path / "out.zarr"
    convert(source, store, **SETTINGS)
    (store / "radiance/zarr.json").unlink()
    next(store.glob("radiance/c/*/*/*")).unlink()
    assert convert(source, store, **SETTINGS).ok
    assert (store / "radiance/zarr.json").read_bytes() == (whole / "radiance/zarr.json").read_bytes()
    assert verify(source, store).ok


def test_the_record_tells_what_was_written(source, whole):
    records = Manifest(zarr.storage.LocalStore(whole)).records()
    array = zarr.open_group(whole, mode="r")["radiance"]
    assert len(records) == 16
    assert sum(record.stored for record in records.values()) == array.nbytes_stored() - len(
        (whole / "radiance" / "zarr.json").read_bytes()
    )
    assert 0 < max(record.max_error for record in records.values()) <= 0.5
    root = json.loads((whole / "zarr.json").read_text())
    said = root["attributes"]["xwalloc"]
    assert said["settings"] == {"max_error": 0.5, "chunks": {"y": 32, "x": 32}}
    assert said["sources"] == {"": str(source)}
    assert said["as_stored"] == {"radiance": {"max_error": 0.5}}
