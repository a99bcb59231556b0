"""Makes the slow second implementation importable by the tests of this folder."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference():
    name = "tests_bitstream_reference"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("reference.py"))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
