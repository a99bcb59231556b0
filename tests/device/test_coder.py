"""The entropy coder of devices against that of the CPU: same bytes, same integers, same refusals."""

import numpy as np
import pytest
import torch

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream import rans
from xwalloc.bitstream.contexts import magnitude_code
from xwalloc.bitstream.planes import NO_PLANE, Order
from xwalloc.bitstream.tables import shipped
from xwalloc.device import coder as device_coder
from xwalloc.types import in_turn

FIRST = Order.FLAGS_FIRST


def stack(shape, densities, *, seed=0, links=("previous", "parent", "sibling"), outliers=0.0):
    """Integers (plane, z, y, x) and planes that look at each other, with codes that state their means."""
    count = len(densities)
    nz, ny, nx = shape
    rng = np.random.default_rng(seed)
    data = np.rint(rng.laplace(size=(count, nz, ny, nx)) * np.reshape(densities, (-1, 1, 1, 1))).astype(np.int32)
    data[rng.random(data.shape) < outliers] = rng.integers(-(2**31) + 1, 2**31)
    planes = coder.planes_of(count)
    planes["base"] = np.arange(count) * (nz * ny * nx)
    planes["nz"], planes["ny"], planes["nx"], planes["sz"], planes["sy"] = nz, ny, nx, ny * nx, nx
    for name, behind in (("previous", 1), ("parent", 2), ("sibling", 1)):
        if name in links:
            planes[name][behind:] = planes["base"][:-behind]
    planes["parent_z"], planes["parent_y"], planes["parent_x"] = 0, 1, 1
    planes["parent_nz"], planes["parent_ny"], planes["parent_nx"] = nz, max(1, ny // 2), max(1, nx // 2)
    codes = magnitude_code(np.abs(data.astype(np.float64)).mean(axis=(1, 2, 3)))
    return data.reshape(-1), planes, codes.astype(np.uint8)


def with_codes(planes, codes):
    """Planes as a CPU takes them: neighbours without content are none."""
    planes = planes.copy()
    place = {int(base): i for i, base in enumerate(planes["base"])}
    planes["code"] = codes
    for name in ("previous", "parent", "sibling"):
        for plane in planes:
            if plane[name] != NO_PLANE:
                plane[name + "_code"] = codes[place[int(plane[name])]]
        planes[name] = np.where(planes[name + "_code"] > 0, planes[name], NO_PLANE)
    return planes


class Case:
    """Sections of several chunks in one buffer, as both coders take them."""

    def __init__(self, *chunks, dimensions=2, masked=()):
        self.values, self.mask, self.sections, self.parts = [], [], [], []
        rng = np.random.default_rng(7)
        at = 0
        for number, (kind, stacks) in enumerate(chunks):
            base, parts, codes, data, holes = 0, [], [], [], []
            for values, planes, own in stacks:
                planes = planes.copy()
                for name in ("base", "previous", "parent", "sibling"):
                    planes[name] = np.where(planes[name] >= 0, planes[name] + base, NO_PLANE)
                mask = np.zeros(values.size, np.uint8)
                if number in masked:
                    mask = (rng.random(values.size) < 0.3).astype(np.uint8)
                    mask[: values.size // 5] = 1
                base += values.size
                parts.append(planes)
                codes.append(own)
                data.append(np.where(mask, 0, values))
                holes.append(mask)
            full = [part.copy() for part in parts]
            for part in full:
                part["code"] = 1
            self.sections.append(
                device_coder.Section(
                    device_coder.Geometry.of(full), np.concatenate(codes), kind, dimensions, shipped(), at,
                    at if number in masked else None,
                )
            )  # fmt: skip
            self.parts.append([with_codes(part, own) for part, own in zip(parts, codes, strict=True)])
            self.values.append(np.concatenate(data).astype(np.int32))
            self.mask.append(np.concatenate(holes))
            at += base
        self.flat = np.concatenate(self.values)

    def cpu(self):
        """Bytes of each section, as a CPU makes them."""
        found = []
        for section, values, mask, parts in zip(self.sections, self.values, self.mask, self.parts, strict=True):
            holes = coder.NO_MASK if section.mask_at is None else mask
            found.append(coder.encode_segments(values, parts, section.kind, section.dimensions, holes, in_turn, FIRST))
        return found

    def masks(self, device):
        return torch.from_numpy(np.concatenate(self.mask)).to(device)

    def encode(self, device):
        return device_coder.encode(self.sections, torch.from_numpy(self.flat).to(device), self.masks(device))

    def decode(self, data, device):
        """Integers, and the sections that are damaged."""
        values = torch.zeros(self.flat.size, dtype=torch.int32, device=device)
        streams = [device_coder.unpack(section, own) for section, own in zip(self.sections, data, strict=True)]
        owners, results = device_coder.decode(self.sections, streams, values, self.masks(device))
        return values.cpu().numpy(), set(owners[results.cpu().numpy() != 0].tolist())

    def check(self, device):
        """Same bytes, and the integers come back."""
        data = self.cpu()
        assert self.encode(device) == data
        values, damaged = self.decode(data, device)
        assert not damaged
        np.testing.assert_array_equal(values, self.flat)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 8), (3, 4, 11), (1, 9, 17)])
@pytest.mark.parametrize("kind", [FIRST.latents, FIRST.residuals], ids=str)
def test_same_bytes_and_integers(shape, kind, device):
    # The last planes are so much smaller than the one before that they expect nothing of it.
    stacks = [stack(shape, (0.0, 0.05, 0.1, 2.0, 900.0, 0.2, 0.05), seed=seed) for seed in range(2)]
    Case((kind, stacks), dimensions=3 if shape[0] > 1 else 2).check(device)


def test_large_and_escaped_tokens(device):
    stacks = [stack((1, 6, 21), (0.02, 3.0, 1e5, 0.5), outliers=0.1, seed=seed) for seed in range(2)]
    Case((FIRST.residuals, stacks)).check(device)


def test_masked_and_unmasked_chunks_together(device):
    chunks = [(FIRST.residuals, [stack((1, 7, 19), (0.05, 1.5, 0.08), seed=seed)]) for seed in range(3)]
    Case(*chunks, masked=(0, 2)).check(device)


def test_many_lanes(device, monkeypatch):
    monkeypatch.setattr(coder, "LANE_COST", 0.5)
    case = Case((FIRST.latents, [stack((1, 24, 40), (0.05, 4.0, 0.3))]), (FIRST.residuals, [stack((1, 5, 9), (4.0,))]))
    lanes = {len(states) for data, s in zip(case.cpu(), case.sections, strict=True)
             for states, _ in device_coder.unpack(s, data).parts}  # fmt: skip
    assert max(lanes) >= 64
    case.check(device)


def test_damaged_streams_are_found_and_others_kept(device):
    chunks = [(FIRST.residuals, [stack((1, 7, 19), (0.05, 1.5), seed=seed)]) for seed in range(4)]
    case = Case(*chunks)
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


def test_words_without_room_are_coded_again(device, monkeypatch):
    case = Case((FIRST.residuals, [stack((1, 6, 50), (1e8,))]))
    monkeypatch.setattr(device_coder, "BLOCK", 32)
    tables = []
    encode = device_coder._coded
    monkeypatch.setattr(device_coder, "_coded", lambda *args: tables.append(1) or encode(*args))
    case.check(device)
    assert len(tables) == 2


def test_words_are_taken_as_by_a_cpu(device):
    """Escapes next to each other, with and without a word before them."""
    rng = np.random.default_rng(0)
    values = rng.choice([0, 1, -1, 40, -70_000, 2**31 - 1], 300).astype(np.int32)
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
    assert len(rans.unpack_stream(coder.unpack_segments(expected, 1, FIRST.residuals)[1][0])[1]) > 300
