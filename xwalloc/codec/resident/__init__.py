"""Chunks in transform mode on a CUDA device: bytes of frames there and back, samples there and back."""

from xwalloc.codec.resident.decode import Job, can_decode, decoded
from xwalloc.codec.resident.encode import OnDevice, can_encode

__all__ = ["Job", "OnDevice", "can_decode", "can_encode", "decoded"]
