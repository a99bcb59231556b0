"""Kernels of a CUDA device: on the device where there is one, else in Triton's interpreter, on the CPU.

Triton decides when a kernel is decorated: the interpreter must be asked for before anything imports xwalloc.device.
"""

import os
from importlib.util import find_spec

import pytest

collect_ignore = ["compile_all.py"]  # a script

if find_spec("torch") and find_spec("triton"):
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device():
    """Where kernels run."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("triton", reason="triton is not installed")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
