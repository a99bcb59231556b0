"""The benchmarks of devices, on as little as matters, where kernels run."""

import json
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from benchmarks import gpu  # noqa: E402
from xwalloc.codec import candidates  # noqa: E402
from xwalloc.codec import chunk as chunk_module  # noqa: E402

SIDE, BANDS = 10, 3


@pytest.fixture
def cube(chunks):
    """A scene (band, y, x)."""
    return chunks.mixture((5, 20, 20), "f4")


@pytest.fixture
def machine(monkeypatch, device, places):
    """A device to measure, real or not; everything is done once."""
    if device.type != "cuda":
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "interpreter")
        monkeypatch.setattr(gpu, "copies", lambda device: {"within the device, read and written": 1.0})

    def once(work, repeats, *, warm=True):
        start = time.perf_counter()
        work()
        return [time.perf_counter() - start]

    monkeypatch.setattr(gpu, "timed", once)
    monkeypatch.setattr(gpu, "BATCH_BYTES", (1,))
    return places


WHOLE = {
    f"{direction}, host to host{cores}" for direction in ("encode", "decode") for cores in ("", ", two cores")
}  # fmt: skip
ON_DEVICE = {
    f"{direction}, {part}" for direction in ("encode", "decode") for part in ("device-resident", "transform path")
}  # fmt: skip


def stages(found, mode):
    """Names of the stages that were measured."""
    assert not found["failed"]
    for timing in found["timings"]:
        assert timing["chunks"] == 1
        assert timing["gb_per_s"] > 0
        assert timing["bits_per_sample"] > 0
    names = [timing["stage"] for timing in found["timings"] if timing["mode"] == mode]
    assert len(set(names)) == len(names)
    return set(names)


def test_all_stages_are_measured(machine, cube):
    (found,) = gpu.run(cube, [(SIDE, BANDS)], [0.05], 1, 2)
    assert stages(found, "transform") >= WHOLE | ON_DEVICE
    json.dumps(found)


def test_devices_are_measured_where_other_modes_are_better(machine, monkeypatch, cube):
    def first(*found):
        return next((one for one in found if one is not None), None)

    monkeypatch.setattr(chunk_module, "in_lattice_mode", candidates.in_lattice_mode)
    monkeypatch.setattr(chunk_module, "smaller", first)  # that of lattice mode, where channels are few
    (found,) = gpu.run(cube, [(SIDE, BANDS)], [0.02], 1, 2)
    (mode,) = {timing["mode"] for timing in found["timings"]} - {"transform, forced"}
    assert mode in ("lattice", "stored")  # a lane costs too much here for so small a chunk
    assert stages(found, mode) == WHOLE
    assert stages(found, "transform, forced") >= ON_DEVICE
    assert not stages(found, "transform, forced") & WHOLE


def test_what_fails_is_written_and_the_rest_measured(machine, monkeypatch, cube):
    def fails(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu, "measured", fails)
    *_, found = gpu.run(cube, [(SIDE, BANDS), (SIDE, 1)], [0.05], 1, 2)
    assert [one["bands"] for one in found["failed"]] == [BANDS, 1]
    assert "out of memory" in found["failed"][0]["error"]
    assert found["timings"] == []


def test_no_batch_is_begun_after_the_minutes(machine, cube, caplog):
    assert list(gpu.run(cube, [(SIDE, BANDS)], [0.05], 1, 2, minutes=-1)) == []
    assert "1 of 1 batches" in caplog.text


def test_stages_that_take_long_are_not_repeated(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    calls = []
    assert len(gpu.timed(lambda: calls.append(0), 3)) == 3
    assert len(calls) == 4
    monkeypatch.setattr(gpu, "PATIENCE", -1.0)
    assert len(gpu.timed(lambda: calls.append(0), 3, warm=False)) == 1
    assert len(calls) == 5


def test_the_most_important_batches_come_first():
    plan = gpu.plan_of(gpu.CASES, gpu.FRACTIONS)
    assert plan[0] == ((256, 200), 0.01, 20)
    assert len(set(plan)) == len(plan)
    assert {bands for (_, bands), _, _ in plan} >= {3, 200, 300}
    assert {side for (side, _), _, _ in plan} == {64, 256, 1024}
    assert {count for case, _, count in plan if case == (256, 200)} == {20, 1, 2}


def test_bands_beyond_those_of_the_cube_go_backwards(cube):
    (chunk,) = gpu.mosaic(cube, 40, 8, 1)
    assert chunk.shape == (8, 40, 40)
    np.testing.assert_array_equal(chunk[5:], chunk[4:1:-1])
    assert np.isin(chunk[0], cube[0]).all()
