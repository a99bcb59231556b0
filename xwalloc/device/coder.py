"""Sections of many chunks <-> bytes on a device, to the byte what bitstream/planes.py does on a CPU."""

from xwalloc.device.decoder import Streams, decode, unpack
from xwalloc.device.encoder import encode
from xwalloc.device.sections import Geometry, Section

__all__ = ["Geometry", "Section", "Streams", "decode", "encode", "unpack"]
