"""Frames of every released format version decode for ever, bit for bit (tests/fixtures/make.py writes them)."""

import hashlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from xwalloc import inspect
from xwalloc.codec.chunk import decode_frame

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("v*/*.xwalloc"))


def test_there_are_fixtures_of_every_mode():
    modes = {inspect(path.read_bytes()).mode for path in FIXTURES}
    assert modes == {"stored", "lattice", "transform"}


@pytest.mark.parametrize("path", FIXTURES, ids=[f"{path.parent.name}-{path.stem}" for path in FIXTURES])
def test_fixture_decodes_to_the_same_bits(path):
    expected = np.load(path.with_suffix(".npy"))
    decoded = decode_frame(path.read_bytes())
    assert decoded.dtype == expected.dtype
    assert decoded.shape == expected.shape
    assert decoded.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("tables-1.bin", "5fb52995a2b8a8a0803cc9e2066a2066dcd3a5e1749197aac9af699a632f25db"),
        ("weights-1.json", "e0c9d613e32a883f7df8cdafbb83dddffcda900d07b63febcca811c8ad29cf54"),
    ],
)
def test_tables_and_weights_are_frozen(name, digest):
    """They belong to format version 1: others need a number of their own."""
    assert hashlib.sha256(files("xwalloc.bitstream").joinpath(name).read_bytes()).hexdigest() == digest
