"""Tables of what the benchmarks of GPUs measured."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    sys.modules.pop("gpu_tables", None)
    import gpu_tables

    return gpu_tables


@pytest.fixture
def stored():
    return json.loads((RESULTS / "gpu.json").read_text())


def cells(text):
    """Rows of the tables of a text, by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    return rows


def timing(stage, seconds, mode="transform", **more):
    found = {
        "stage": stage,
        "side": 64,
        "bands": 3,
        "chunks": 1,
        "fraction": 0.01,
        "bits_per_sample": 0.5,
        "mode": mode,
    }
    return {**found, "seconds": [seconds], "gb_per_s": 4 * 64 * 64 * 3 / seconds / 1e9, **more}


def found(*timings):
    copies = {"host to device": 50.0, "within the device, read and written": 4000.0}
    return {"device": "one", "torch": "2", "triton": "3", "threads": 4, "copies": copies, "timings": list(timings)}


def test_columns_without_data_stay_out(tables):
    head, _, row = cells(tables.gpu_table(found(timing("decode, host to host", 1.0))))
    assert head == ["chunk", "chunks", "bound, of the range", "bits per sample", "host to host"]
    assert row[:3] == ["3 x 64 x 64", "1", "1 %"]
    forced = timing("decode, device-resident", 1.0, "transform, forced", bits_per_sample=0.7)
    head, _, *rows = cells(tables.gpu_table(found(timing("decode, host to host", 1.0, "lattice"), forced)))
    assert "mode" in head
    assert [row[3:5] for row in rows] == [["lattice", "0.50"], ["transform, forced", "0.70"]]


def test_shares_of_stages(tables):
    text = tables.gpu_stages(
        found(
            timing("decode, parsing on the host", 9.0),
            timing("decode, wavelet", 1.0),
            timing("decode, device-resident", 4.0),
            timing("encode, moments", 1.0),
            timing("encode, synthesis to bytes", 2.0),
            timing("encode, entropy coder", 1.5),
            timing("encode, device-resident", 2.5),
            timing("encode, device-resident with fit", 5.0),
            timing("encode, host to host", 9.0),
        )
    )
    rows = {row[0]: row[1:] for row in cells(text)[2:]}
    assert rows["decode, parsing on the host"] == ["9000.0", "", "", ""]
    assert rows["decode, wavelet"][:2] == ["1000.0", "25%"]
    assert rows["encode, moments"][:2] == ["1000.0", "20%"]
    assert rows["encode, entropy coder (a part of synthesis to bytes)"][:2] == ["1500.0", "30%"]
    assert rows["encode, device-resident with fit"][:2] == ["5000.0", "100%"]
    assert "encode, host to host" not in rows


def test_what_was_measured_can_be_shown(tables, stored):
    assert len(cells(tables.gpu_table(stored))) == 2 + len({
        (item["side"], item["bands"], item["chunks"], item["fraction"], item.get("mode")) for item in stored["timings"]
    })  # fmt: skip
    assert cells(tables.gpu_stages(stored))


def test_peers_stand_beside_xwalloc_of_the_same_device(tables):
    peer = {
        "peer": "nvCOMP ANS", "given": "differences", "side": 64, "bands": 3, "chunks": 1, "bits_per_sample": 1.25,
        "error_by_bound": 1.0, "encode_gb_per_s": 30.0, "decode_gb_per_s": 60.0,
    }  # fmt: skip
    measured = {
        "device": "one", "torch": "2", "versions": {"nvidia-nvcomp-cu13": "6"},
        "measurements": [{**peer, "fraction": None}, {**peer, "fraction": 0.01}],
        "failed": [{"peer": "nvJPEG2000", "error": "no library"}],
    }  # fmt: skip
    ours = found(timing("encode, device-resident", 1.0), timing("decode, device-resident", 1.0))
    text = tables.gpu_peers(measured, ours)
    rows = cells(text)[2:]
    assert [row[:2] for row in rows] == [
        ["lossless", "nvCOMP ANS"], ["1 %", "**xwalloc**, transform mode"], ["1 %", "nvCOMP ANS"],
    ]  # fmt: skip
    assert rows[2][3:] == ["1.250", "30", "60"]
    assert "nvJPEG2000: no library" in text
    assert "xwalloc" not in tables.gpu_peers({**measured, "device": "another"}, ours)
    assert "benchmarks.gpu_peers" in tables.gpu_peers(None, ours)


def test_a_gpu_worker_stands_beside_two_cores(tables):
    worker = {"seconds": [2.0, 4.0], "gb_per_s": 1.0, "nbytes": 3 * 10**9, "stored": 10**8, "max_error": 1.0}
    measured = {
        "machine": "16 cores", "shape": [200, 256, 14592], "chunk": [200, 256, 256], "fraction": 0.01, "threads": 16,
        "worker": "cuda", "gpu": worker, "cpu": {**worker, "seconds": [15.0]}, "chunks": 57, "chunks that differ": 0,
        "times as fast": 5.0, "device": "one",
    }  # fmt: skip
    text = tables.gpu_worker(measured)
    assert cells(text)[2:] == [["one", "16", "3.0", "1"], ["CPU", "2", "15.0", "1"]]
    assert "5.0 times as fast; 0 of 57 chunks differ" in text
    assert "benchmarks.gpu_convert" in tables.gpu_worker(None)
