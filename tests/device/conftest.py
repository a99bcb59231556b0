"""Kernels of a CUDA device: on the device where there is one, else in Triton's interpreter, on the CPU.

Triton decides when a kernel is decorated: the interpreter must be asked for before anything imports xwalloc.device.
"""

import importlib.util
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

collect_ignore = ["compile_all.py"]  # a script

if find_spec("torch") and find_spec("triton"):
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
        early = [name for name in sys.modules if name.startswith("xwalloc.device.")]
        assert not early, f"kernels were imported before they could be interpreted: {early}"


@pytest.fixture(scope="session")
def device():
    """Where kernels run."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("triton", reason="triton is not installed")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def helpers(path):
    """A module of this folder, or of another one, that several tests share."""
    known = f"tests_device_{Path(path).stem}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, Path(__file__).parent / path)
        module = sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[known]


@pytest.fixture(scope="session")
def chunks(device):
    """Chunks, and where they are computed (chunks.py)."""
    return helpers("chunks.py")


@pytest.fixture(scope="session")
def sections(device):
    """Sections for the entropy coder (sections.py)."""
    return helpers("sections.py")


@pytest.fixture(scope="session")
def refined(device):
    """Models with networks of integers."""
    return helpers("../codec/test_refined.py")


@pytest.fixture(scope="session")
def learned(device):
    """Published models."""
    return helpers("../codec/test_learned.py")


@pytest.fixture
def places(monkeypatch, device, chunks):
    """The CPU and the device, to compute chunks on; chunks are computed on the device unless a test says otherwise."""
    return chunks.Places(monkeypatch, device)
