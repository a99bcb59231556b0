"""The worked example of docs/format.md: python tests/format/example.py writes it into the page.

Run it after the frequency tables or the weights were trained anew.
"""

from __future__ import annotations

import importlib.util
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig

__all__ = ["PAGE", "between", "make", "text"]

PAGE = Path(__file__).parents[2] / "docs" / "format.md"
BEGIN, END = "<!-- example: ", "<!-- end of example -->"
TRACED_SYMBOLS = 12


def load_decoder() -> ModuleType:
    """The second decoder, as a module of its own: its classes are replaced while it is traced."""
    spec = importlib.util.spec_from_file_location("format_traced_decoder", Path(__file__).parent / "second_decoder.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


second: Any = load_decoder()


def chunk() -> NDArray[np.int16]:
    """Two channels of 6 x 16 samples."""
    y, x = np.mgrid[:6, :16]
    first = 100 + 3 * x + (y - 2) * (x - 7) // 4
    return np.stack([first, first + 20 + (x * y) // 9]).astype("i2")


def make() -> bytes:
    """The frame of the example."""
    return ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), max_error=1, nodata=-1)).encode(chunk())


def fields(frame: bytes) -> Iterator[tuple[int, str]]:
    """Length and meaning of each field, to the end of the frame."""
    yield 4, '"XWLC"'
    yield 1, "format version 1"
    yield 1, f"mode {frame[5]}: lattice"
    yield 1, f"dtype {frame[6]}: int16"
    yield 1, "little-endian"
    yield 1, f"{frame[8]} axes"
    yield 1, f"{frame[9]} sections"
    yield 1, "quality target 1: max_error"
    yield 1, "flags: there is a nodata value"
    yield 8, f"bound {struct.unpack_from('<d', frame, 12)[0]}"
    yield 8, "nodata: the bits of -1 as int16"
    yield 4, "id of the tables"
    yield 4, f"length of the frame: {len(frame)}"
    for i in range(frame[8]):
        role, length = struct.unpack_from("<BI", frame, 36 + 5 * i)
        yield 5, f"axis {i}: {('batch', 'channel', 'signal')[role]}, {length} entries"
    table = 36 + 5 * frame[8]
    lengths = []
    for i in range(frame[9]):
        name, length, _ = struct.unpack_from("<BII", frame, table + 9 * i)
        lengths.append(length)
        yield 9, f"section {name}: {('LATTICE', 'LATTICE_SYMBOLS')[name - 4]}, {length} bytes, its CRC-32C"
    yield 4, "CRC-32C of everything above"
    at = table + 9 * frame[9] + 4
    yield 1, "LATTICE: kind 0, integers"
    yield 8, f"unit {struct.unpack_from('<d', frame, at + 1)[0]}"
    yield 4, f"radius {struct.unpack_from('<I', frame, at + 9)[0]}"
    yield lengths[0] - 13, "parameters, as lists (below)"
    at += lengths[0]
    choice, stream = struct.unpack_from("<2I", frame, at + 2)
    yield 2, "LATTICE_SYMBOLS: a choice of tables and one stream"
    yield 4, f"the choice has {choice} bytes"
    yield 4, f"the stream {stream}"
    yield choice, "the choice (below)"
    at += 10 + choice
    lanes = 1 << frame[at]
    yield 1, f"{lanes} lanes"
    for i in range(lanes):
        yield 4, f"state {i}: {struct.unpack_from('<I', frame, at + 1 + 4 * i)[0]:#x}"
    yield stream - 1 - 4 * lanes, f"{(stream - 1 - 4 * lanes) // 2} words"


def dump(frame: bytes) -> list[str]:
    """Hex dump by fields."""
    lines = []
    at = 0
    for length, meaning in fields(frame):
        for start in range(0, length, 16):
            part = frame[at + start : at + min(start + 16, length)]
            lines.append(f"{at + start:4d}  {part.hex(' '):48s} {meaning if start == 0 else ''}".rstrip())
        at += length
    assert at == len(frame)
    return lines


GROUPS = 6
LISTS = (
    "moved", "references", "distances", "sequential", *(f"kinds {g}" for g in range(GROUPS)), "own taps",
    "reference taps", "shifts", "biases", "coefficients", "starts", *(f"codes {g}" for g in range(GROUPS)), "weighted",
    "ranked", "count", "classes", "tables",
)  # fmt: skip
"""The last three are those of the choice of tables."""


def traced(frame: bytes) -> tuple[list[str], list[str], NDArray[Any]]:
    """What is read from the parameters, the first symbols, and the samples."""
    parameters: list[str] = []
    symbols: list[str] = []
    seen: list[tuple[int, int]] = []

    def class_of(expected: int) -> int:
        found: int = original[2](expected)
        seen.append((expected, found))
        return found

    class Bits(second.Bits):  # type: ignore[misc]
        def unsigned(self, count: int, largest: int = (1 << 64) - 1) -> list[int]:
            before = self.at
            found: list[int] = super().unsigned(count, largest)
            bits = "".join(str((self.data[i // 8] >> (7 - i % 8)) & 1) for i in range(before, self.at))
            name = LISTS[len(parameters)]
            parameters.append(f"{name:15s} {bits or '-':44s} {' '.join(map(str, found))}".rstrip())
            return found

    class Stream(second.Stream):  # type: ignore[misc]
        def symbol(self, role: int, expected: int) -> int:
            count, states, position = self.count, list(self.states), self.position
            value: int = super().symbol(role, expected)
            if len(symbols) < TRACED_SYMBOLS:
                table = self.tables[role * 112 + seen[-1][1]]
                lane = count % len(states)
                slot = states[lane] % 4096
                token = table.token[slot]
                symbols.append(
                    f"{count:5d} {seen[-1][0]:8d} {seen[-1][1]:5d} {lane:5d} {states[lane]:#11x} {slot:5d} "
                    f"{token:6d} {table.start[token]:6d} "
                    f"{table.frequency[token]:10d} {value:7d} {self.position - position:6d} {self.states[lane]:#11x}"
                )
            return value

    original = second.Bits, second.Stream, second.class_of
    second.Bits, second.Stream, second.class_of = Bits, Stream, class_of
    try:
        samples = second.decode(frame)
    finally:
        second.Bits, second.Stream, second.class_of = original
    return parameters, symbols, samples


def text() -> str:
    """The example as it stands in the page."""
    frame = make()
    parameters, symbols, samples = traced(frame)
    first = " ".join(map(str, samples[0, 0]))
    given = " ".join(map(str, chunk()[0, 0]))
    lines = [
        "A chunk of int16, 2 channels of 6 x 16 samples, with `max_error=1` and nodata -1: bins of 3 integers.",
        "Offsets are decimal, bytes hexadecimal.",
        "",
        "```text",
        *dump(frame),
        "```",
        "",
        "The parameters, list by list, and those of the choice of tables (the last three): their bits, and the",
        "unsigned integers that they are. Signed lists are still to be halved, differences to be added up.",
        "",
        "```text",
        *parameters,
        "```",
        "",
        f"The first {len(symbols)} symbols of the stream, with the expected magnitude and its class, the state before",
        "and after, and how many words each reads:",
        "",
        "```text",
        "count expected class state       value  slot  token  start  frequency  symbol  words  next state",
        *symbols,
        "```",
        "",
        "The first line of the chunk as it is decoded, and as it was:",
        "",
        "```text",
        first,
        given,
        "```",
    ]
    return "\n".join(lines)


def between(page: str) -> str:
    """What stands between the two marks."""
    rest = page.split(BEGIN, 1)[1]
    return rest.split("-->\n", 1)[1].split(END)[0].strip("\n")


def main() -> None:
    """Write the example into the page."""
    page = PAGE.read_text()
    head, rest = page.split(BEGIN, 1)
    mark, rest = rest.split("-->\n", 1)
    tail = rest.split(END, 1)[1]
    PAGE.write_text(f"{head}{BEGIN}{mark}-->\n\n{text()}\n\n{END}{tail}")


if __name__ == "__main__":
    main()
