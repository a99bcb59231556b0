"""Lists of integers come back from their bits; damage is a format error."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xwalloc.bitstream.lists import Reader, Writer
from xwalloc.errors import FormatError

SIGNED = st.integers(-(2**63), 2**63 - 1)


@settings(deadline=None)  # the first example loads kernels
@given(st.lists(st.lists(SIGNED | st.integers(-20, 20), max_size=40), max_size=5))
def test_lists_come_back(lists):
    writer = Writer()
    for values in lists:
        writer.signed(values)
        writer.unsigned([abs(v) % 2**62 for v in values])
    reader = Reader(writer.to_bytes())
    for values in lists:
        assert reader.signed(len(values)).tolist() == values
        assert reader.unsigned(len(values), 2**62).tolist() == [abs(v) % 2**62 for v in values]
    reader.end()


def test_numbers_that_repeat_take_about_a_bit():
    writer = Writer()
    writer.unsigned(np.zeros(1000))
    assert len(writer.to_bytes()) < 130


@given(st.binary(max_size=12), st.integers(0, 200))
def test_foreign_bytes_are_a_format_error_or_lists(data, count):
    reader = Reader(data)
    try:
        assert reader.signed(count).shape == (count,)
        assert reader.sums(min(count, 3), 100).max(initial=0) < 100
        reader.end()
    except FormatError:
        return


def test_what_is_left_over_must_be_zeros():
    writer = Writer()
    writer.unsigned([1])
    data = writer.to_bytes()
    for damaged in (bytes([data[0] | 1]), data + b"\0"):
        reader = Reader(damaged)
        reader.unsigned(1, 9)
        with pytest.raises(FormatError):
            reader.end()
