"""Speed and size of other codecs on a CUDA device, with the chunks that `benchmarks.gpu` gives to xwalloc.

nvCOMP
    Zstandard, ANS, Bitcomp and Cascaded. Each chunk is one compressed buffer, in the pieces of 64 KiB that nvCOMP makes
    by default. Samples and buffers are in the memory of the device, which is allocated beforehand.
nvJPEG2000
    Through nvImageCodec, band by band, JPEG 2000 and its high-throughput form (HTJ2K), reversible. Samples are in the
    memory of the device, streams in that of the host, where nvImageCodec puts them.
cuSZ
    Has no wheel: pip finds none as cusz, cuszp, pycusz or pszpy (November 2026).

What they are given, each in what suits it:

float32
    the samples; or their bytes by significance, all first bytes first, as Blosc shuffles them
integers
    the samples as integers of 16 bits, which those of Indian Pines are
indices
    those of a lattice whose steps are just below twice the bound, so that the peer holds the bound. nvCOMP gets the
    difference from the band before, or from the pixel on the left where there are few bands, with the sign in the last
    bit. The quantiser is a few operations of torch, one after the other; its time counts, and is a row of its own.

What comes back is compared with the samples: bit for bit, or against the bound. Results are written after each peer,
and after ``--minutes`` no other is begun.

.. code-block:: shell

    python -m pip install nvidia-nvcomp-cu13 'nvidia-nvimgcodec-cu13[nvjpeg2k]'  # -cu12: where torch is for CUDA 12
    python -m benchmarks.gpu_peers
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from benchmarks.gpu import BATCH_BYTES, count_of, parse_case, span_of, timed
from benchmarks.gpu_given import EDGE, Arrangement, Bytes, Differences, Indices, Integers, Values
from benchmarks.mosaic import mosaic

logger = logging.getLogger(__name__)

REPEATS = 7
MINUTES = 4.0
FRACTIONS = (0.01, 0.001)
"""Bounds, as fractions of the range."""
CASES = ((256, 200), (64, 200), (1024, 3))
"""Side and bands of chunks, as in `benchmarks.gpu`."""
IMAGES = 256
"""So many bands are given to codecs of images."""


class Coder(Protocol):
    """A peer."""

    def stream(self) -> AbstractContextManager[Any]:
        """Has operations of torch run where the peer does, so that they wait for each other."""

    def encode(self, rows: torch.Tensor) -> Any:
        """What rows become."""

    def nbytes(self, coded: Any) -> int:
        """Bytes that they take."""

    def decode(self, coded: Any) -> torch.Tensor:
        """Rows of what was made of them."""


class Nothing:
    """No peer: for what comes before and after."""

    def stream(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def encode(self, rows: torch.Tensor) -> torch.Tensor:
        return rows

    def nbytes(self, coded: torch.Tensor) -> int:
        return coded.numel() * coded.element_size()

    def decode(self, coded: torch.Tensor) -> torch.Tensor:
        return coded


class Nvcomp:
    """An algorithm of nvCOMP.

    Parameters
    ----------
    nvcomp
        Its module.
    device
        Where it runs.
    algorithm, options
        Of ``nvcomp.Codec``.
    """

    def __init__(self, nvcomp: Any, device: torch.device, algorithm: str, **options: Any) -> None:
        self.nvcomp, self.own = nvcomp, torch.cuda.Stream(device)
        self.codec = nvcomp.Codec(
            algorithm=algorithm, device_id=device.index or 0, cuda_stream=self.own.cuda_stream, **options
        )
        self.space: list[torch.Tensor] = []
        self.decoded: torch.Tensor | None = None
        self.configs: tuple[Any, Any] | None = None

    def stream(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self.own)

    def arrays(self, tensors: Sequence[torch.Tensor]) -> Any:
        return self.nvcomp.as_arrays(list(tensors), cuda_stream=self.own.cuda_stream)

    def encode(self, rows: torch.Tensor) -> list[torch.Tensor]:
        sources = self.arrays(rows.unbind())
        if self.configs is None:
            compression = self.codec.compression_config([row.numel() * row.element_size() for row in rows])
            self.configs = compression, self.codec.decompression_config(compression)
            sizes = [self.codec.get_max_comp_buffer_size(source) for source in sources]
            self.space = [torch.empty(size, dtype=torch.uint8, device=rows.device) for size in sizes]
            self.decoded = torch.empty_like(rows)
        made = self.codec.encode(sources, out=self.arrays(self.space), compression_config=self.configs[0])
        return [space[: one.buffer_size] for space, one in zip(self.space, made, strict=True)]

    def nbytes(self, coded: Sequence[torch.Tensor]) -> int:
        return sum(map(len, coded))

    def decode(self, coded: Sequence[torch.Tensor]) -> torch.Tensor:
        assert self.decoded is not None
        assert self.configs is not None
        out = self.arrays(self.decoded.unbind())
        self.codec.decode(self.arrays(coded), out=out, decompression_config=self.configs[1])
        return self.decoded


class Nvjpeg2000:
    """JPEG 2000 of nvImageCodec, on the device alone, reversible.

    Parameters
    ----------
    nvimgcodec
        Its module.
    device
        Where it runs.
    fast
        Whether block coding is that of HTJ2K.
    """

    def __init__(self, nvimgcodec: Any, device: torch.device, *, fast: bool) -> None:
        self.nvimgcodec, self.device = nvimgcodec, device
        backends = [nvimgcodec.Backend(nvimgcodec.GPU_ONLY)]
        self.encoder = nvimgcodec.Encoder(device_id=device.index or 0, backends=backends)
        self.decoder = nvimgcodec.Decoder(device_id=device.index or 0, backends=backends)
        self.how = nvimgcodec.EncodeParams(
            quality_type=nvimgcodec.QualityType.LOSSLESS,
            jpeg2k_encode_params=nvimgcodec.Jpeg2kEncodeParams(
                bitstream_type=nvimgcodec.Jpeg2kBitstreamType.J2K, ht=fast
            ),
        )
        self.as_stored = nvimgcodec.DecodeParams(color_spec=nvimgcodec.ColorSpec.UNCHANGED, allow_any_depth=True)

    def stream(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def encode(self, rows: torch.Tensor) -> list[Any]:
        images = self.nvimgcodec.as_images([row[:, :, None].view(torch.uint16) for row in rows])
        return self.complete(self.encoder.encode(images, "jpeg2k", params=self.how))

    def nbytes(self, coded: Sequence[Any]) -> int:
        return sum(one.size for one in coded)

    def decode(self, coded: Sequence[Any]) -> torch.Tensor:
        images = self.complete(self.decoder.decode(coded, params=self.as_stored))
        torch.cuda.synchronize()
        return torch.stack([torch.as_tensor(one, device=self.device).view(torch.int16)[:, :, 0] for one in images])

    def complete(self, found: Sequence[Any]) -> list[Any]:
        if any(one is None for one in found):
            raise RuntimeError(f"nvImageCodec left out {sum(one is None for one in found)} of {len(found)} images.")
        return list(found)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Speed and size of a peer on one batch.

    Parameters
    ----------
    peer, given : str
        What it is, and what it gets.
    side, bands, chunks : int
        The batch.
    fraction : float or None
        Bound, as a fraction of the range; None: bit for bit.
    bits_per_sample : float
        Rate.
    error_by_bound : float
        Largest error, by the bound; 0 where there is none.
    encode_seconds, decode_seconds : list of float
        Every repetition.
    encode_gb_per_s, decode_gb_per_s : float
        Bytes of float32 samples over the median time, in 1e9.
    """

    peer: str
    given: str
    side: int
    bands: int
    chunks: int
    fraction: float | None
    bits_per_sample: float
    error_by_bound: float
    encode_seconds: list[float]
    decode_seconds: list[float]
    encode_gb_per_s: float
    decode_gb_per_s: float


@dataclass(frozen=True)
class Peer:
    """A coder to be made, and what it gets."""

    name: str
    make: Callable[[], Coder]
    arrangement: Callable[[tuple[int, ...]], Arrangement]
    images: bool = False


def measure(
    peer: Peer, samples: torch.Tensor, fraction: float | None, bound: float | None, repeats: int
) -> Measurement:
    """Speed and size of a peer on samples (chunk, band, y, x).

    Raises
    ------
    RuntimeError
        If what comes back is not what was given, or misses the bound.
    """
    chunks, bands, side, _ = samples.shape
    if peer.images:  # chunks as they come, the last one in part
        samples = samples.reshape(1, -1, side, side)[:, :IMAGES].contiguous()
    arrangement, coder = peer.arrangement(tuple(samples.shape)), peer.make()
    torch.cuda.synchronize()
    with coder.stream():
        coded = coder.encode(arrangement.forward(samples))
        bits = 8 * coder.nbytes(coded) / samples.numel()
        decoded = arrangement.inverse(coder.decode(coded))
        error = largest_error(samples, decoded)
        if bound is None and not torch.equal(samples.view(torch.int32), decoded.view(torch.int32)):
            raise RuntimeError(f"{peer.name} decodes other bits; its largest error is {error:g}.")
        if bound is not None and not error <= bound:
            raise RuntimeError(f"{peer.name} decodes with an error of {error:g}. The bound is {bound:g}.")
        del decoded
        encoding = timed(lambda: coder.encode(arrangement.forward(samples)), repeats)
        coded = coder.encode(arrangement.forward(samples))  # the same space was written again and again
        decoding = timed(lambda: arrangement.inverse(coder.decode(coded)), repeats)
    nbytes = samples.numel() * samples.element_size()
    speeds = [nbytes / statistics.median(seconds) / 1e9 for seconds in (encoding, decoding)]
    logger.info(
        "%-22s %-30s %4d x %3d, %3d chunks, %s: %6.3f bits per sample, encode %7.2f GB/s, decode %7.2f GB/s",
        peer.name, arrangement.given, side, bands, chunks, "lossless" if fraction is None else f"{fraction:.3f}", bits,
        *speeds,
    )  # fmt: skip
    return Measurement(
        peer=peer.name, given=arrangement.given, side=side, bands=bands, chunks=chunks, fraction=fraction,
        bits_per_sample=bits, error_by_bound=error / bound if bound else 0.0, encode_seconds=encoding,
        decode_seconds=decoding, encode_gb_per_s=speeds[0], decode_gb_per_s=speeds[1],
    )  # fmt: skip


def largest_error(samples: torch.Tensor, decoded: torch.Tensor) -> float:
    """Largest difference, as float64 has it."""
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(samples, decoded, strict=True))


def peers(
    device: torch.device, nvcomp: Any | None, nvimgcodec: Any | None, low: float, span: float, bound: float | None
) -> list[Peer]:
    """Peers that are installed, with a bound or bit for bit.

    Parameters
    ----------
    device
        Where they run.
    nvcomp, nvimgcodec
        Modules; None where they are not installed.
    low, span
        Least sample, and largest difference between two.
    bound
        Largest error; None: bit for bit.
    """
    found = []
    if nvcomp is not None:

        def make(algorithm: str, **options: Any) -> Callable[[], Coder]:
            return lambda: Nvcomp(nvcomp, device, algorithm, **options)

        if bound is None:
            found += [
                Peer("nvCOMP Zstd", make("Zstd"), Bytes),
                Peer("nvCOMP ANS", make("ANS", data_type="<f4"), Values),
                Peer("nvCOMP ANS", make("ANS", data_type="|u1"), Bytes),
                Peer("nvCOMP Bitcomp", make("Bitcomp", data_type="<f4"), Values),
                Peer("nvCOMP Cascaded", make("Cascaded", data_type="<i4"), lambda shape: Values(shape, torch.int32)),
            ]
        else:

            def bytewise(shape: tuple[int, ...]) -> Arrangement:
                return Differences(shape, low, span, bound, bytewise=True)

            def differences(shape: tuple[int, ...]) -> Arrangement:
                return Differences(shape, low, span, bound)

            few = Differences((1, 1, 1, 1), low, span, bound).dtype == torch.uint8
            typed = {"data_type": "|u1" if few else "<i2"}
            lossy = {"mode": nvcomp.BitcompMode.BITCOMP_LOSSY_FP_TO_SIGNED, "delta": 2 * bound * EDGE}
            found += [
                Peer("no codec, quantiser alone", Nothing, differences),
                Peer("nvCOMP Zstd", make("Zstd"), bytewise),
                Peer("nvCOMP ANS", make("ANS", data_type="|u1"), bytewise),
                Peer("nvCOMP Bitcomp", make("Bitcomp", **typed), differences),
                Peer("nvCOMP Cascaded", make("Cascaded", **typed), differences),
                Peer("nvCOMP Bitcomp, lossy", make("Bitcomp", data_type="<f4", **lossy), Values),
            ]
    if nvimgcodec is not None:
        for fast in (False, True):
            found.append(
                Peer(
                    f"nvJPEG2000{', HTJ2K' if fast else ''}",
                    lambda fast=fast: Nvjpeg2000(nvimgcodec, device, fast=fast),  # type: ignore[misc]
                    Integers if bound is None else lambda shape: Indices(shape, low, span, bound),
                    images=True,
                )
            )
    return found


def installed(module: str, package: str, extra: str = "") -> Any | None:
    """A module of NVIDIA's wheels; None where it is not there, and the log says how to install it."""
    try:
        return import_module(f"nvidia.{module}")
    except (ImportError, OSError) as error:
        cuda = (torch.version.cuda or "13").split(".")[0]
        logger.warning("%s is left out (%s): python -m pip install '%s-cu%s%s'", module, error, package, cuda, extra)
        return None


def versions() -> dict[str, str]:
    """Wheels of NVIDIA's codecs that are installed."""
    wanted = ("nvidia-nvcomp-", "nvidia-nvimgcodec-", "nvidia-nvjpeg2k-")
    names = {wheel.name: wheel.version for wheel in metadata.distributions() if wheel.name.startswith(wanted)}
    return dict(sorted(names.items()))


def run(
    device: torch.device, cube: np.ndarray[Any, Any], cases: Sequence[tuple[int, int]], fractions: Sequence[float],
    repeats: int, minutes: float = MINUTES,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """All measurements so far, after each."""
    start = time.monotonic()
    nvcomp = installed("nvcomp", "nvidia-nvcomp")
    nvimgcodec = installed("nvimgcodec", "nvidia-nvimgcodec", "[nvjpeg2k]")
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device), "torch": torch.__version__, "versions": versions(),
        "measurements": [], "failed": [],
    }  # fmt: skip
    for side, bands in cases:
        chunks = list(mosaic(cube, side, bands, count_of(max(BATCH_BYTES), side, bands)))
        low, span = float(min(chunk.min() for chunk in chunks)), span_of(chunks)
        samples = torch.stack([torch.from_numpy(chunk) for chunk in chunks]).to(device)
        for fraction in (None, *fractions):
            bound = None if fraction is None else fraction * span
            for peer in peers(device, nvcomp, nvimgcodec, low, span, bound):
                if time.monotonic() - start > 60 * minutes:
                    logger.warning("No other peer is begun: %g minutes are over.", minutes)
                    return
                try:
                    found["measurements"].append(asdict(measure(peer, samples, fraction, bound, repeats)))
                except Exception as error:  # the others are measured all the same
                    logger.exception("%s failed.", peer.name)
                    case = {"peer": peer.name, "side": side, "bands": bands, "fraction": fraction}
                    found["failed"].append({**case, "error": repr(error)})
                yield found


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cube", type=Path, help=".npy file (band, y, x) instead of Indian Pines")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--cases", nargs="+", default=CASES, type=parse_case, metavar="256x200", help="side x bands")
    parser.add_argument("--fractions", nargs="+", default=FRACTIONS, type=float, help="bounds by the range")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after which no other peer is begun")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu_peers.json")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.cube:
        cube = np.load(options.cube)
    else:
        from benchmarks.scenes import indian_pines

        cube = indian_pines(None)
    device = torch.device(options.device)
    for found in run(device, cube, options.cases, options.fractions, options.repeats, options.minutes):
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
