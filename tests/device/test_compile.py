"""Every kernel compiles for a GPU, on a machine that has none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

KERNELS = ["add_errors", "add_magnitudes", "add_squares", "compare", "convert", "count_kernel", "count_rest", "cut",
           "decode_kernel", "encode_kernel", "histogram_kernel", "look_kernel", "make_residuals", "make_samples",
           "pack_kernel", "put_kernel", "rebuild", "round_down", "take_step", "try_rows"]  # fmt: skip


def test_all_kernels_compile_for_a_gpu():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_all.py")
    run = subprocess.run(
        [sys.executable, script, "float32", "float64", "int16"], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert [line.split()[0] for line in run.stdout.splitlines()] == KERNELS
