"""Frames of every released format version decode for ever, bit for bit (tests/fixtures/make.py writes them)."""

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
