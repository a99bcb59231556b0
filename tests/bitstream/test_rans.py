"""The entropy coder against plain Python integers; values beyond every table; streams that are not what they say."""

import contextlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xwalloc.bitstream import rans
from xwalloc.bitstream.tables import ESCAPE, PROB_BITS, TOKENS, Tables, from_counts, shipped
from xwalloc.errors import FormatError

SLOW = {"deadline": None, "suppress_health_check": list(HealthCheck)}
LARGEST = 2**63 - 1


def tables_of(seed, count=3):
    """Tables of very different shapes: flat, peaked, nearly all escapes."""
    rng = np.random.default_rng(seed)
    counts = rng.random((count, TOKENS)) ** rng.integers(1, 60, (count, 1))
    counts[0] = 0
    counts[0, 0] = 1
    return Tables(from_counts(counts * 1e6), np.arange(count, dtype=np.uint16))


values = st.one_of(
    st.integers(-40, 40),
    st.integers(-70000, 70000),
    st.integers(-LARGEST, LARGEST),
    st.builds(
        lambda e, d, s: s * min((1 << e) + d, LARGEST), st.integers(0, 63), st.integers(-1, 1), st.sampled_from([-1, 1])
    ),
)


@settings(max_examples=150, **SLOW)
@given(st.lists(values, max_size=80), st.integers(0, 20), st.data())
def test_bytes_and_values_are_those_of_the_reference(reference, numbers, seed, data):
    tables = tables_of(seed)
    contexts = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(numbers), max_size=len(numbers))), np.uint16)
    stream = rans.encode(np.array(numbers, np.int64), contexts, tables)
    assert stream == reference.encode(numbers, contexts, tables.frequencies)
    assert rans.decode(stream, contexts, tables).tolist() == numbers
    assert reference.decode(stream, contexts, tables.frequencies) == numbers


def test_shipped_tables_agree_with_the_reference(reference):
    tables = shipped()
    rng = np.random.default_rng(0)
    numbers = np.rint(rng.laplace(size=600) * 10 ** rng.uniform(-1, 5, 600)).astype(np.int64)
    contexts = rng.integers(0, len(tables.frequencies), 600).astype(np.uint16)
    stream = rans.encode(numbers, contexts, tables)
    assert stream == reference.encode(numbers, contexts, tables.frequencies)
    assert reference.decode(stream, contexts, tables.frequencies) == numbers.tolist()
    np.testing.assert_array_equal(rans.decode(stream, contexts, tables), numbers)


def test_tokens_split_and_join_without_gap_or_overlap(reference):
    seen = {}
    numbers = [s * v for v in [*range(300), *(2**e + d for e in range(4, 63) for d in (-1, 0, 1))] for s in (1, -1)]
    for value in [*numbers, LARGEST, -LARGEST]:
        token, bits, raw = (int(x) for x in rans.split(np.int64(value)))
        assert (token, bits, raw) == reference.split(value)
        assert 0 <= token < ESCAPE
        assert token <= rans.LAST_TOKEN
        assert 0 <= raw < 1 << bits if bits else raw == 0
        assert rans.raw_bits_of(token) == bits
        assert int(rans.join(np.int64(token), np.int64(raw))) == value
        assert seen.setdefault((token, raw), value) == value


def test_everything_that_has_no_place_in_a_table_escapes():
    """A table of zeros alone costs bits, not values."""
    tables = tables_of(0)
    assert set(np.flatnonzero(tables.frequencies[0])) == {0, ESCAPE}
    numbers = np.array([0, 1, -1, 15, 16, -17, 2**31 - 1, -(2**31), 2**62, -LARGEST, LARGEST], np.int64)
    contexts = np.zeros(len(numbers), np.uint16)
    assert rans.decode(rans.encode(numbers, contexts, tables), contexts, tables).tolist() == numbers.tolist()


@pytest.mark.parametrize("lanes", [4, 8, 256, 4096])
def test_lanes_share_one_stream(lanes, reference):
    tables = shipped()
    rng = np.random.default_rng(lanes)
    numbers, contexts = rng.integers(-9, 10, 3000), rng.integers(0, 50, 3000).astype(np.uint16)
    stream = rans.encode(numbers, contexts, tables, lanes)
    assert stream == reference.encode(numbers, contexts, tables.frequencies, lanes)
    assert rans.decode(stream, contexts, tables).tolist() == numbers.tolist()
    for first in (0, 1, 13, 200):
        with pytest.raises(FormatError):
            rans.decode(bytes([first]) + stream[1:], contexts, tables)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 63, 5000])
def test_any_count_and_the_room_for_words_grows(dtype, count):
    tables = tables_of(0)
    rng = np.random.default_rng(count)
    numbers = rng.integers(-np.iinfo(dtype).max, np.iinfo(dtype).max, count, dtype)  # more bits than the first room has
    contexts = np.zeros(count, np.uint16)
    stream = rans.encode(numbers, contexts, tables)
    assert len(stream) >= 16
    np.testing.assert_array_equal(rans.decode(stream, contexts, tables), numbers)


def test_size_is_close_to_the_entropy():
    tables = shipped()
    table = int(np.argmax((tables.frequencies[:, :31] > 0).sum(axis=1)))
    shares = tables.frequencies[table, :31] / tables.frequencies[table, :31].sum(dtype=float)
    tokens = np.random.default_rng(1).choice(31, 20000, p=shares)
    numbers = np.where(tokens % 2 == 1, (tokens + 1) // 2, -(tokens // 2)).astype(np.int32)
    contexts = np.full(len(numbers), table, np.uint16)
    bits = -np.log2(tables.frequencies[table][tokens] / (1 << PROB_BITS)).sum()
    assert bits < 8 * len(rans.encode(numbers, contexts, tables)) < bits * 1.01 + 200


def test_damaged_streams_are_refused_or_differ():
    tables = shipped()
    rng = np.random.default_rng(2)
    numbers = rng.integers(-9, 10, 300).astype(np.int64)
    contexts = rng.integers(0, 50, 300).astype(np.uint16)
    stream = rans.encode(numbers, contexts, tables)
    for n in range(len(stream)):
        with pytest.raises(FormatError):
            rans.decode(stream[:n], contexts, tables)
    for tail in (b"\0", b"\0\0", stream):
        with pytest.raises(FormatError):
            rans.decode(stream + tail, contexts, tables)
    with pytest.raises(FormatError):
        rans.decode(stream, contexts[:-1], tables)
    with pytest.raises(FormatError):
        rans.decode(stream, np.append(contexts, contexts[:1]), tables)
    with pytest.raises(FormatError):
        rans.decode(bytes(17), contexts, tables)
    for _ in range(300):
        damaged = bytearray(stream)
        damaged[rng.integers(len(stream))] ^= int(1 << rng.integers(8))
        with contextlib.suppress(FormatError):
            assert rans.decode(bytes(damaged), contexts, tables).shape == contexts.shape


def taken_apart(data, places):
    """States and words of streams, from the bytes that a device gets."""
    bits = np.empty(rans.room_for(places), np.uint8)
    lanes, words = rans.take_apart(data, places, bits)
    states, rest = np.split(bits, [4 * lanes.sum()])
    return (
        np.split(states.view("<u4"), np.cumsum(lanes)[:-1]),
        np.split(rest.view("<u2"), np.cumsum(words)[:-1]),
    )  # fmt: skip


def test_streams_taken_apart_together_are_those_taken_apart_alone():
    rng = np.random.default_rng(0)
    streams = [
        rans.pack_stream(rng.integers(1 << 16, 1 << 32, 1 << lanes), rng.integers(0, 1 << 16, count))
        for lanes, count in ((2, 0), (5, 301), (12, 7), (3, 64), (2, 1))
    ]
    data = b"before" + b"".join(streams) + b"behind"
    edges = np.cumsum([len(b"before"), *map(len, streams)]).tolist()
    for chosen in ([0, 1, 2, 3, 4], [3], [1, 4]):
        found = taken_apart(memoryview(data), [(edges[i], edges[i + 1]) for i in chosen])
        for i, states, words in zip(chosen, *found, strict=True):
            expected = rans.unpack_stream(streams[i])
            np.testing.assert_array_equal(states, expected[0])
            np.testing.assert_array_equal(words, expected[1])


def test_impossible_streams_are_refused_together_as_alone():
    good = rans.pack_stream(np.full(8, 1 << 16), np.arange(5))
    low = rans.pack_stream(np.array([1 << 16, 1 << 16, (1 << 16) - 1, 1 << 16]), np.arange(5))
    for bad in (b"", good[:-1], good[:30], bytes([1]) + good[1:], bytes([13]) + good[1:], b"\xff" + good[1:], low):
        with pytest.raises(FormatError):
            rans.unpack_stream(bad)
        for first, second in ((bad, good), (good, bad)):
            at, end = len(first), len(first) + len(second)
            with pytest.raises(FormatError):
                taken_apart(first + second, [(0, at), (at, end)])
