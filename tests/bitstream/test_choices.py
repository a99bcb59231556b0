"""Choices of tables: what is chosen codes in fewer bits, and comes back from its bytes."""

import numpy as np
import pytest

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream import rans
from xwalloc.bitstream.choices import ALL, Choice, choose
from xwalloc.bitstream.contexts import Kind
from xwalloc.bitstream.lists import Writer
from xwalloc.bitstream.planes import Order
from xwalloc.bitstream.tables import shipped
from xwalloc.errors import FormatError
from xwalloc.types import in_turn


def symbols(count: int = 40_000, mean: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    """Symbols that are far smaller than their classes say."""
    rng = np.random.default_rng(0)
    return np.rint(rng.laplace(size=count) * mean).astype(np.int32), rng.integers(20, 40, count).astype(np.uint16)


@pytest.mark.parametrize("kind", list(Kind))
def test_better_tables_are_chosen_and_come_back(kind):
    values, classes = symbols()
    usual, choice = Choice.usual(kind), choose([(values, classes)], kind)
    assert np.flatnonzero(choice.tables != usual.tables).tolist() == list(range(20, 40))
    before = len(rans.encode(values, usual.tables[classes], shipped()))
    assert len(rans.encode(values, choice.tables[classes], shipped())) < before / 2
    np.testing.assert_array_equal(Choice.from_bytes(choice.to_bytes(), kind).tables, choice.tables)


def test_few_symbols_keep_the_usual_tables():
    values, classes = symbols(10, 1.0)
    choice = choose([(values, classes)], Kind.LATENT)
    np.testing.assert_array_equal(choice.tables, Choice.usual(Kind.LATENT).tables)
    assert len(choice.to_bytes()) == 1


@pytest.mark.parametrize(
    ("classes", "tables"), [([ALL], [0]), ([ALL - 1, 0], [0, 0]), ([0], [1 << 20]), ([0], [-(1 << 20)])]
)
def test_what_cannot_be_is_refused(classes, tables):
    writer = Writer()
    writer.unsigned([len(classes)])
    writer.unsigned(classes)
    writer.signed(tables)
    with pytest.raises(FormatError):
        Choice.from_bytes(writer.to_bytes(), Kind.LATENT)


def test_bytes_behind_and_short_of_the_choice_are_refused():
    data = choose([symbols()], Kind.RESIDUAL).to_bytes()
    for damaged in (data + b"\0", data[:-1], b"", data[:-1] + bytes([data[-1] | 1])):
        with pytest.raises(FormatError):
            Choice.from_bytes(damaged, Kind.RESIDUAL)


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("count", [1, 3, 40])
def test_segments_round_trip(order, count):
    """Small sections and those of which a sample decides."""
    shape = (count, 200, 300)
    buffer = np.rint(np.random.default_rng(1).laplace(size=shape) * 3).astype(np.int32).reshape(-1)
    parts = []
    for index in range(count):
        planes = coder.planes_of(2)
        planes["base"] = index * 60_000 + np.arange(2) * 30_000
        planes["ny"], planes["nx"], planes["sz"], planes["sy"], planes["code"] = 100, 300, 30_000, 300, 20
        parts.append(planes)
    data = coder.encode_segments(buffer, parts, order.residuals, 2, coder.NO_MASK, in_turn, order)
    out = np.zeros_like(buffer)
    coder.decode_segments(data, out, parts, order.residuals, 2, coder.NO_MASK, in_turn, None, order)
    np.testing.assert_array_equal(out, buffer)
    _, streams = coder.unpack_segments(data, count, order.residuals)
    lanes = 1 << streams[0][0]
    assert lanes == 4 if order == Order.ROWS else 0 < 3 * lanes < 0.02 * len(streams[0])


def test_lanes_cost_little():
    assert coder.lanes_for(100) == 4
    assert coder.lanes_for(10**7) == 1024
    assert coder.LANE_COST <= 0.02
    for nbytes in (5_000, 50_000, 500_000):
        assert 4 <= coder.lanes_for(nbytes) * coder.BYTES_PER_LANE <= max(12, coder.LANE_COST * nbytes)
