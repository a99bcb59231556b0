"""Sections of many chunks <-> bytes on a device, to the byte what bitstream/planes.py does on a CPU."""

from xwalloc.device.coder.decoder import Streams, decode, unpack
from xwalloc.device.coder.encoder import encode
from xwalloc.device.coder.sections import Geometry, Section

__all__ = ["Geometry", "Section", "Streams", "decode", "encode", "unpack"]
