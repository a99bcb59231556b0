"""Slabs that threads share, and the streams of a section."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xwalloc.bitstream.segments import MAX_SEGMENTS, cuts, pack, unpack
from xwalloc.errors import FormatError


@given(
    st.tuples(*[st.integers(1, 300)] * 5),
    st.sampled_from([1, 2, 8, 16, 256]),
    st.sampled_from([1, 100, 10_000, 1 << 20]),
)
def test_slabs_cover_the_axis_in_order(shape, align, samples):
    axis, slabs = cuts(shape, align, samples)
    assert 1 <= len(slabs) <= MAX_SEGMENTS
    assert slabs[0][0] == 0
    assert slabs[-1][1] == shape[2 + axis]
    for (start, stop), (following, _) in pairwise(slabs):
        assert stop == following
        assert start < stop
        assert stop % align == 0
    assert all(n <= align for n in shape[2 : 2 + axis])


def test_small_chunks_are_not_cut():
    assert cuts((1, 3, 1, 64, 64), 16)[1] == [(0, 64)]
    assert len(cuts((1, 200, 1, 256, 256), 16)[1]) == 12


@given(st.lists(st.binary(max_size=20), max_size=9))
def test_streams_come_back(streams):
    data = pack(streams)
    assert unpack(data, len(streams)) == streams
    for n in range(len(data)):
        with pytest.raises(FormatError):
            unpack(data[:n], len(streams))
    with pytest.raises(FormatError):
        unpack(data + b"\0", len(streams))
    with pytest.raises(FormatError):
        unpack(data, len(streams) + 1)
    with pytest.raises(FormatError):
        unpack(data, max(0, len(streams) - 1) if streams else 5)


def test_lengths_beyond_the_bytes_are_refused():
    with pytest.raises(FormatError):
        unpack(b"\x02\0" + b"\xff" * 8 + b"ab", 2)
