"""The golden cases: what the published package itself computed."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[4] / "shared" / "golden"


@pytest.fixture(autouse=True)
def quick(one_thread):
    """Networks as small as these only wait for threads."""


@pytest.fixture(scope="session")
def golden():
    """Folder of the golden vectors."""
    if not GOLDEN.is_dir():
        pytest.skip("../shared/golden is not here: nothing to compare with")
    return GOLDEN


@pytest.fixture(scope="session")
def vectors(golden):
    """Arrays of one case, as tensors."""
    import torch

    def read(case):
        with np.load(golden / case / "vectors.npz") as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays}

    return read


@pytest.fixture
def repickle():
    """Copy a checkpoint with other bytes as its pickle."""

    def write(source, target, change):
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
            for entry in old.infolist():
                data = old.read(entry)
                new.writestr(entry.filename, change(data) if entry.filename.endswith("data.pkl") else data)
        return target

    return write


@pytest.fixture
def hostile():
    """Pickle of a call, in the protocol of torch."""

    def dump(function, *arguments):
        class Call:
            def __reduce__(self):
                return function, arguments

        return pickle.dumps({"model_state_dict": Call()}, protocol=2)

    return dump
