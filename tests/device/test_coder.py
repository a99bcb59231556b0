"""The entropy coder of devices against that of the CPU: same bytes, same integers, same refusals."""

import numpy as np
import pytest
import torch

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream import rans
from xwalloc.bitstream.planes import Order
from xwalloc.bitstream.tables import shipped
from xwalloc.device import coder as device_coder
from xwalloc.types import in_turn

FIRST = Order.FLAGS_FIRST


@pytest.mark.parametrize(
    ("shape", "lane_cost"), [((1, 1, 1), 0.02), ((1, 5, 8), 0.02), ((3, 4, 11), 1.0), ((1, 9, 17), 1.0)]
)
@pytest.mark.parametrize("kind", [FIRST.latents, FIRST.residuals], ids=str)
def test_same_bytes_and_integers(sections, shape, lane_cost, kind, device, monkeypatch):
    monkeypatch.setattr(coder, "LANE_COST", lane_cost)
    # The last planes are so much smaller than the one before that they expect nothing of it.
    densities = 0.0, 0.05, 0.1, 2.0, 900.0, 0.2, 0.05
    stacks = [sections.stack(shape, densities, seed=seed) for seed in range(2)]
    sections.Case((kind, stacks), dimensions=3 if shape[0] > 1 else 2).check(device)


def test_large_and_escaped_tokens(sections, device):
    sections.Case((FIRST.residuals, [sections.stack((1, 6, 21), (0.02, 3.0, 1e5, 0.5), outliers=0.1)])).check(device)


def test_masked_and_unmasked_chunks_together(sections, device):
    chunks = [(FIRST.residuals, [sections.stack((1, 7, 19), (0.05, 1.5, 0.08), seed=seed)]) for seed in range(3)]
    sections.Case(*chunks, masked=(0, 2)).check(device)


def test_many_lanes(sections, device, monkeypatch):
    monkeypatch.setattr(coder, "LANE_COST", 0.5)
    large, small = sections.stack((1, 24, 40), (0.05, 4.0, 0.3)), sections.stack((1, 5, 9), (4.0,))
    case = sections.Case((FIRST.latents, [large]), (FIRST.residuals, [small]))
    lanes = [device_coder.unpack(s, data).lanes.max() for data, s in zip(case.cpu(), case.sections, strict=True)]
    assert max(lanes) >= 64
    case.check(device)


def test_damaged_streams_are_found_and_others_kept(sections, device):
    chunks = [(FIRST.residuals, [sections.stack((1, 7, 19), (0.05, 1.5), seed=seed)]) for seed in range(4)]
    case = sections.Case(*chunks)
    data = case.cpu()
    rng = np.random.default_rng(0)
    torn = bytearray(data[1])
    torn[-9] ^= 0x40
    for _ in range(20):
        torn[len(torn) - 1 - int(rng.integers(30))] ^= int(rng.integers(1, 255))
    values, damaged = case.decode([data[0], bytes(torn), data[2], data[3]], device)
    assert damaged == {1}
    kept = np.ones(values.size, bool)
    at = case.sections[1].values_at
    kept[at : at + case.values[1].size] = False
    np.testing.assert_array_equal(values[kept], case.flat[kept])


def test_integers_beyond_32_bits_are_refused(device):
    """Planes that look at such integers must not look beyond their tables."""
    values = np.zeros(3 * 64, np.int64)
    values[::5] = np.resize([2**31, -(2**31), 2**40, -(2**62), 2**31 - 1], len(values[::5]))
    planes = coder.planes_of(3)
    planes["base"], planes["ny"], planes["nx"], planes["sy"], planes["code"] = [0, 64, 128], 8, 8, 8, 60
    planes["previous"][1:], planes["previous_code"][1:] = planes["base"][:-1], 60
    section = device_coder.Section(
        device_coder.Geometry.of([planes]), np.full(3, 60, np.uint8), FIRST.residuals, 2, shipped(), 0
    )
    data = coder.encode_segments(values, [planes], FIRST.residuals, 2, coder.NO_MASK, in_turn, FIRST)
    out = torch.zeros(len(values), dtype=torch.int32, device=device)
    _, results = device_coder.decode([section], [device_coder.unpack(section, data)], out)
    assert results.all()
    assert out.cpu().numpy()[:5].tolist() == [0, 0, 0, 0, 0]


def test_words_without_room_are_coded_again(sections, device, monkeypatch):
    case = sections.Case((FIRST.residuals, [sections.stack((1, 6, 50), (1e8,))]))
    monkeypatch.setattr(device_coder, "BLOCK", 32)
    monkeypatch.setattr(coder, "LANE_COST", 0.1)
    tables = []
    encode = device_coder._coded
    monkeypatch.setattr(device_coder, "_coded", lambda *args: tables.append(1) or encode(*args))
    case.check(device)
    assert len(tables) == 2


def test_words_are_taken_as_by_a_cpu(sections, device):
    """Escapes next to each other, with and without a word before them."""
    rng = np.random.default_rng(0)
    values = rng.choice([0, 1, -1, 40, -70_000, 2**31 - 1], 160).astype(np.int32)
    planes = coder.planes_of(1)
    planes["nx"], planes["code"] = values.size, 12  # dense, of small numbers: large tokens have no place in tables
    tables = shipped()
    contexts = coder.classify(values, planes, FIRST.residuals, 1, order=FIRST, lookups=None)[1]
    assert len(contexts) == values.size
    section = device_coder.Section(
        device_coder.Geometry.of([planes]), np.array([12], np.uint8), FIRST.residuals, 1, tables, 0
    )
    expected = coder.encode_segments(values, [planes], FIRST.residuals, 1, coder.NO_MASK, in_turn, FIRST)
    there = torch.from_numpy(values).to(device)
    assert device_coder.encode([section], there) == [expected]
    out = torch.zeros_like(there)
    _, results = device_coder.decode([section], [device_coder.unpack(section, expected)], out)
    assert not results.any()
    np.testing.assert_array_equal(out.cpu().numpy(), values)
    assert len(rans.unpack_stream(coder.unpack_segments(expected, 1, FIRST.residuals)[1][0])[1]) > values.size
