"""The entropy coder of devices against that of the CPU: same bytes, same integers, same refusals."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream import rans
from xwalloc.bitstream.choices import Choice
from xwalloc.bitstream.contexts import class_of
from xwalloc.bitstream.planes import Order
from xwalloc.bitstream.tables import Tables, shipped
from xwalloc.device import coder as device_coder
from xwalloc.device.coder import encoder
from xwalloc.device.coder.kernels import contexts as device_contexts
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


def test_sections_of_several_codebooks(sections, device, monkeypatch):
    usual = shipped()
    turned = Tables(usual.frequencies[::-1].copy(), len(usual.frequencies) - 1 - usual.index)
    # A stack whose symbols are not as usual has other tables than the usual ones.
    stacks = [sections.stack((1, 6, 24), (0.05, density), seed=3) for density in (0.08, 0.5, 12.0, 0.08)]
    case = sections.Case(
        *[(FIRST.residuals, [stack]) for stack in stacks], codebooks=[usual, turned, turned, usual]
    )  # fmt: skip
    monkeypatch.setattr(encoder, "COMPARED", 2)
    case.check(device)
    chosen = [device_coder.unpack(own, data).choice for own, data in zip(case.sections, case.cpu(), strict=True)]
    assert any((choice.tables != Choice.usual(choice.kind, choice.codebook).tables).any() for choice in chosen)


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


def test_reciprocals_divide_exactly():
    """At the quotients where an excess or a shortfall shows first: they grow with the dividend."""
    multipliers, shifts, addends = (table.astype(np.uint64) for table in encoder.reciprocals())
    f = np.arange(1, 4097, dtype=np.uint64)
    rng = np.random.default_rng(0)
    quotients = [0, 1, 2**19, 2**20 - 2, 2**20 - 1, *rng.integers(2**20, size=50).tolist()]
    assert multipliers.max() < 2**32
    for quotient in quotients:
        for rest in (f * 0, f // 2, f - 1):
            x = f * np.uint64(quotient) + rest + addends[1:]
            assert x.max() < 2**32
            np.testing.assert_array_equal((x * multipliers[1:] >> np.uint64(32)) >> shifts[1:], quotient)


@triton.jit
def classify_and_divide(numbers, dividends, divisor, classes, quotients, rests, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(classes + i, device_contexts.class_of(tl.load(numbers + i)))
    by = tl.load(divisor)
    quotient, rest = device_contexts.divide(tl.load(dividends + i), by, device_contexts.reciprocal_of(by))
    tl.store(quotients + i, quotient)
    tl.store(rests + i, rest)


@pytest.mark.parametrize("divisor", [1, 2, 3, 7, 8, 145, 255, 256, 65_537, 2**30 + 1, 2**31 - 1])
def test_classes_and_quotients_are_exact(divisor, device):
    edges = [quarter << k >> 2 for k in range(62) for quarter in (4, 5, 6, 7)]
    numbers = np.unique(np.clip([[e - 1, e, e + 1] for e in edges], 0, 2**62 - 1))
    near = [divisor * q + rest for q in (1, 2, 3, (2**31 - 1) // divisor) for rest in (-1, 0, 1)]
    dividends = np.clip([*near, *range(100), 2**31 - 1, 2**31 - 2, *2 ** np.arange(31)], 0, 2**31 - 1)
    there = [torch.zeros(1024, dtype=d, device=device) for d in (torch.int64, *[torch.int32] * 4)]
    there[0][: len(numbers)] = torch.from_numpy(numbers)
    there[1][: len(dividends)] = torch.from_numpy(dividends)
    one = torch.tensor([divisor], dtype=torch.int32, device=device)
    classify_and_divide[(1,)](there[0], there[1], one, *there[2:], SIZE=1024)
    classes, quotients, rests = (own.cpu().numpy() for own in there[2:])
    assert classes[: len(numbers)].tolist() == [class_of(int(number)) for number in numbers]
    assert quotients[: len(dividends)].tolist() == (dividends // divisor).tolist()
    assert rests[: len(dividends)].tolist() == (dividends % divisor).tolist()


def test_every_kind_of_token(sections, device):
    magnitudes = np.unique(np.clip([[2**k - 1, 2**k, 2**k + 1, 3 * 2**k] for k in range(31)], 0, 2**31 - 1))
    values = np.concatenate([magnitudes, -magnitudes]).astype(np.int32)
    for code in (12, 40):  # planes of small numbers, and of large ones
        planes = coder.planes_of(1)
        planes["nx"], planes["code"] = values.size, code
        section = device_coder.Section(
            device_coder.Geometry.of([planes]), np.array([code], np.uint8), FIRST.residuals, 1, shipped(), 0
        )
        expected = coder.encode_segments(values, [planes], FIRST.residuals, 1, coder.NO_MASK, in_turn, FIRST)
        there = torch.from_numpy(values).to(device)
        assert device_coder.encode([section], there) == [expected]
        out = torch.zeros_like(there)
        _, results = device_coder.decode([section], [device_coder.unpack(section, expected)], out)
        assert not results.any()
        np.testing.assert_array_equal(out.cpu().numpy(), values)


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
