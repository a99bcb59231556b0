"""Kernels run on a CUDA device where there is one, else under Triton's interpreter, on tensors of the CPU."""

import os
from importlib.util import find_spec

import pytest

if find_spec("torch") is None or find_spec("triton") is None:
    collect_ignore_glob = ["test_*"]
else:
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # read when xwalloc.device is first imported


@pytest.fixture(scope="session")
def device():
    """Where kernels run."""
    import torch

    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
