"""Classes of expected magnitudes, magnitude codes, and the weights that ship with the package."""

import numpy as np
import pytest

from xwalloc.bitstream.contexts import (
    CAP,
    CLASSES,
    DIRECT_CLASSES,
    FEATURES,
    FLAG_FEATURES,
    MAGNITUDES,
    ONE,
    Kind,
    class_of,
    direct_classes,
    large_class,
    magnitude_code,
    weights,
)
from xwalloc.bitstream.scan import is_serial


def test_classes_rise_without_a_gap(reference):
    edges = {(1 << e) * q // 4 + d for e in range(12, 62) for q in range(4, 8) for d in (-1, 0)}
    numbers = sorted({*range(3 * DIRECT_CLASSES)} | edges)
    classes = [class_of(n) for n in numbers]
    assert classes == [reference.class_of(n) for n in numbers]
    assert classes == sorted(classes)
    assert set(np.diff(classes)) <= {0, 1}
    assert 0 <= min(classes) <= max(classes) < CLASSES


def test_the_two_halves_of_the_class_function_agree():
    assert direct_classes().tolist() == [class_of(n) for n in range(DIRECT_CLASSES)]
    for n in [*range(DIRECT_CLASSES, 2 * DIRECT_CLASSES), *(2**e + d for e in range(13, 62) for d in (-1, 0, 1))]:
        assert int(large_class(np.int64(n))) == class_of(n)


def test_magnitude_codes():
    assert MAGNITUDES[0] == 0
    assert (np.diff(MAGNITUDES.astype(float)) >= 0).all()
    assert magnitude_code(np.array([0.0])) == 0
    assert (magnitude_code(np.array([1e-12, 1 / ONE])) == 1).all()
    assert magnitude_code(np.array([1e300])) == len(MAGNITUDES) - 1
    means = 2.0 ** np.arange(-7, 30, 0.13)
    ratio = MAGNITUDES[magnitude_code(means)] / (means * ONE)
    assert (np.abs(np.log2(ratio)) < 0.5).all()


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind != Kind.LATTICE])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_weighted_sums_cannot_overflow(kind, dimensions):
    symbols, flags = weights(kind, dimensions)
    assert symbols.shape == (2, len(FEATURES))
    assert flags.shape == (2, len(FLAG_FEATURES))
    # diagonal counts twice, ring four times, and the ratio of two planes may multiply the last four by 64.
    times = np.array([1, 1, 1, 1, 1, 2, 1, 1, 64, 256, 64, 64], dtype=object)
    for row in symbols:
        assert sum(abs(int(w)) * t for w, t in zip(row, times, strict=True)) * (CAP << 8) < 2**63
        assert sum(int(w) for w in row[:10]) >= 0
    assert (symbols >= 0).all(), "an expectation must not be negative"
    assert (flags >= 0).all()


def test_tables_of_a_row_are_known_before_it_is_read():
    """Where there are rows, latents and residuals do without what lies in their own: it is the slow way (scan.py)."""
    for kind in (Kind.LATENT, Kind.LATENT_PARALLEL, Kind.RESIDUAL, Kind.RESIDUAL_PARALLEL):
        for dimensions in (2, 3):
            assert not is_serial(*weights(kind, dimensions))
    assert is_serial(*weights(Kind.LATENT, 1))
    assert is_serial(*weights(Kind.SIDE, 2))
