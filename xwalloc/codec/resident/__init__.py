"""Chunks in transform mode on a CUDA device: bytes of frames there and back, samples there and back."""

from xwalloc.codec.resident.arrays import DeviceArray
from xwalloc.codec.resident.delivery import decoded, left_there
from xwalloc.codec.resident.encode import OnDevice, admitted, can_encode, survey
from xwalloc.codec.resident.job import Job, can_decode

__all__ = [
    "DeviceArray", "Job", "OnDevice", "admitted", "can_decode", "can_encode", "decoded", "left_there", "survey",
]  # fmt: skip
