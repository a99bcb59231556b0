"""Sections for the entropy coders of CPU and device."""

import numpy as np
import torch

from xwalloc.bitstream import planes as coder
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

    def __init__(self, *chunks, dimensions=2, masked=(), codebooks=None):
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
                    device_coder.Geometry.of(full), np.concatenate(codes), kind, dimensions,
                    codebooks[number] if codebooks else shipped(), at, at if number in masked else None,
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
            found.append(
                coder.encode_segments(
                    values, parts, section.kind, section.dimensions, holes, in_turn, FIRST, section.tables
                )
            )
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
