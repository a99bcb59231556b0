"""Frequency tables: what must hold for each of them, and their serial form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xwalloc.bitstream.contexts import CLASSES, Kind, Role, first_class
from xwalloc.bitstream.tables import ESCAPE, PROB_BITS, TOKENS, Tables, from_counts, shipped
from xwalloc.errors import FormatError

TOTAL = 1 << PROB_BITS


def test_shipped_tables():
    tables = shipped()
    assert (tables.frequencies.sum(axis=1, dtype=int) == TOTAL).all()
    assert (tables.frequencies[:, ESCAPE] > 0).all()
    assert len(tables.index) == len(Kind) * len(Role) * CLASSES
    assert len(tables.frequencies) < 1 << 16
    assert shipped() is tables


def test_classes_of_kinds_and_roles_do_not_overlap():
    firsts = [first_class(kind, role) for kind in Kind for role in Role]
    assert sorted(firsts) == list(range(0, len(firsts) * CLASSES, CLASSES))


def test_slots_and_spans_agree():
    tables = shipped()
    spans = tables.spans.reshape(-1, TOKENS)
    symbols = tables.symbols.reshape(-1, TOTAL)
    for table in range(0, len(spans), 7):
        for token in range(TOKENS):
            frequency, start = int(spans[table, token]) >> 16, int(spans[table, token]) & 0xFFFF
            assert frequency == tables.frequencies[table, token]
            assert (symbols[table, start : start + frequency] == token).all()
            assert np.count_nonzero(symbols[table] == token) == frequency


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(float, (3, TOKENS), elements=st.floats(0, 1e9)))
def test_tables_of_any_counts_are_tables(counts):
    frequencies = from_counts(counts)
    tables = Tables(frequencies, np.array([2, 0, 1, 2], np.uint16))
    back = Tables.from_bytes(tables.to_bytes())
    np.testing.assert_array_equal(back.frequencies, frequencies)
    np.testing.assert_array_equal(back.index, tables.index)


@pytest.mark.parametrize("change", ["sum", "escape", "width", "index"])
def test_what_is_no_table_is_refused(change):
    frequencies = from_counts(np.ones((2, TOKENS)))
    index = np.array([0, 1], np.uint16)
    if change == "sum":
        frequencies[1, 3] += 1
    elif change == "escape":
        frequencies[1, 0] += frequencies[1, ESCAPE]
        frequencies[1, ESCAPE] = 0
    elif change == "width":
        frequencies = frequencies[:, :100]
    else:
        index[1] = 2
    with pytest.raises(FormatError):
        Tables(frequencies, index)


def test_damaged_bytes_are_refused():
    data = Tables(from_counts(np.ones((2, TOKENS))), np.array([0, 1, 1], np.uint16)).to_bytes()
    for n in range(0, len(data), 3):
        with pytest.raises(FormatError):
            Tables.from_bytes(data[:n])
    rng = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] = int(rng.integers(256))
        try:
            tables = Tables.from_bytes(bytes(damaged))
        except FormatError:
            continue
        assert (tables.frequencies.sum(axis=1, dtype=int) == TOTAL).all()
