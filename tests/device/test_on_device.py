"""What is promised of devices, at the size of real work; where there is no device, the same on as little as matters.

Large forms are marked `gpu`: they take about a minute together on a device whose kernels are compiled.
"""

import dataclasses
import gc
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

import xwalloc  # noqa: E402
from xwalloc import settings  # noqa: E402
from xwalloc.bitstream.frame import Mode, Section  # noqa: E402
from xwalloc.bitstream.planes import Order  # noqa: E402
from xwalloc.codec import candidates, transform_mode  # noqa: E402
from xwalloc.codec import chunk as chunk_module  # noqa: E402
from xwalloc.codec import places as places_module  # noqa: E402
from xwalloc.codec.chunk import ChunkCodec, decode_frame  # noqa: E402
from xwalloc.codec.config import CodecConfig  # noqa: E402
from xwalloc.codec.devices import owner  # noqa: E402
from xwalloc.codec.resident import decode, encode  # noqa: E402
from xwalloc.codec.transform_sections import LINEAR, NAMED, REFINED, ROTATED  # noqa: E402
from xwalloc.models.neural import Architecture  # noqa: E402
from xwalloc.models.published import TOLERANCE  # noqa: E402
from xwalloc.testing import assert_kept, cases  # noqa: E402

SIZES = [pytest.param(False, id="small"), pytest.param(True, marks=pytest.mark.gpu, id="large")]


@pytest.mark.gpu
def test_more_than_ten_million_symbols(sections, device):
    """Same bytes, same integers; sparse and dense planes, with masks and without, of both kinds."""
    first = Order.FLAGS_FIRST
    stacks = [sections.stack((1, 512, 512), (0.05, 1.0, 4.0, 40.0), seed=seed) for seed in range(8)]
    case = sections.Case((first.latents, stacks), (first.residuals, stacks), (first.residuals, stacks), masked=(2,))
    assert np.count_nonzero(case.flat) > 10**7  # each is a symbol, and there are zeros and flags besides
    case.check(device)


def field(large, seed=0):
    """Smooth fields mixed into channels, with some noise."""
    shape = (24, 300, 260) if large else (3, 14, 12)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[1], : shape[2]] / 40
    sources = np.stack([np.sin(9 * x + 4 * y), np.cos(7 * y * x), np.hypot(x - 0.3, y - 0.6)])
    mixed = np.tensordot(rng.normal(size=(shape[0], 3)), sources, 1) * 400 + rng.normal(size=shape) * 4 + 2000
    return xr.DataArray(mixed.astype("f4"), dims=("band", "y", "x"))


@pytest.fixture
def only(monkeypatch):
    """Lets transform mode have models of one kind only, whether that is best or not."""
    encode_chunk, counter = transform_mode.encode, itertools.count()

    def only(kind):
        def chosen(*arguments):
            shared, rotated = arguments[8], any(arguments[9:])
            wanted = {LINEAR: shared is None, ROTATED: rotated}.get(kind, shared is not None and not rotated)
            return encode_chunk(*arguments) if wanted else None

        monkeypatch.setattr(transform_mode, "encode", chosen)
        if kind == REFINED:
            monkeypatch.setattr(places_module.Attempt, "cost", property(lambda self: next(counter)))

    return only


@pytest.mark.parametrize(
    ("kind", "large"),
    [
        pytest.param(kind, large, marks=pytest.mark.gpu if large else (), id=f"{name}-{'large' if large else 'small'}")
        for name, kind in (("own", LINEAR), ("named", NAMED), ("rotated", ROTATED), ("refined", REFINED))
        for large in (False, True)
        if large or kind != LINEAR  # test_encode and test_resident have more of those
    ],
)
def test_values_are_the_same_bits(places, chunks, refined, only, kind, large):
    """Whoever has encoded the chunk: models of its own and of arrays, with a network of integers and without."""
    data, levels = field(large), 4 if large else 1
    model, options = None, {"levels": levels}
    if kind != LINEAR:
        model, options = xwalloc.fit(data, channel_dim="band", max_error=6.0, levels=levels), {}
    if kind == REFINED:
        architecture = Architecture(kind="shared", tree="dyadic", dimensions=2, widths=(6,))
        model = refined.with_network(model, refined.some_network(architecture))
    only(kind)
    codec = ChunkCodec(CodecConfig(**chunks.CUBE, **options, model=model, max_error=6.0))
    chunk = field(large, seed=1).values if kind == ROTATED else data.values
    frames = [codec.encode(chunk), places.on_cpu(codec.encode, chunk)]
    assert places.encoded
    for frame in dict.fromkeys(frames):
        assert chunks.parsed(frame).sections[Section.MODEL][0] == kind
        places.decoded.clear()
        here, there = places.on_cpu(codec.decode, frame), codec.decode(frame)
        assert places.decoded == [1]
        assert here.tobytes() == there.tobytes()
        assert np.abs(there - chunk).max() <= 6.0


def test_lattice_mode_stays_on_the_host(places, chunks, monkeypatch):
    monkeypatch.setattr(chunk_module, "in_lattice_mode", candidates.in_lattice_mode)
    data = np.random.default_rng(0).integers(0, 40, (3, 70, 60)).cumsum(2).astype("i4")
    codec = ChunkCodec(CodecConfig(**chunks.CUBE, max_error=1))
    frame = codec.encode(data)
    assert chunks.parsed(frame).header.mode == Mode.LATTICE
    assert not places.encoded
    assert places.on_cpu(codec.encode, data) == frame
    assert places.on_cpu(codec.decode, frame).tobytes() == codec.decode(frame).tobytes()
    assert not places.decoded


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", ["rgb", "stereo"])
@pytest.mark.parametrize("large", SIZES)
def test_float_networks_agree_within_their_tolerance(places, chunks, learned, kind, large):
    model = learned.fresh(kind)
    data = learned.samples(model, "f4", signal=(256, 200) if large else (33, 46))
    codec = learned.codec_of(model, data.ndim, step=1, profile="parallel")
    frame = places.on_cpu(codec.encode, data)
    assert chunks.parsed(frame).header.mode == Mode.LEARNED
    here, there = places.on_cpu(codec.decode, frame), codec.decode(frame)
    rounding = np.spacing(np.abs(data).max()) * 2
    assert np.abs(here - there).max() <= TOLERANCE * np.ptp(data) + rounding


def in_parallel(config, levels):
    """A configuration for devices, with so many levels at most."""
    return dataclasses.replace(config, profile="parallel", levels=min(config.levels, levels))


@pytest.mark.parametrize("large", SIZES)
def test_the_bound_holds_whoever_encodes_and_decodes(places, large):
    """1,000 cases, half of them encoded on the device and decoded on the CPU, the others the other way."""
    together = 8 if large else 2
    several = st.lists(
        cases(quality="max_error", most_samples=4096 if large else 256), min_size=together, max_size=together
    )

    @hypothesis_settings(
        max_examples=125 if large else 4, deadline=None, derandomize=not large, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(several)
    def check(some):
        codecs = [ChunkCodec(in_parallel(case.config, 8 if large else 1)) for case in some]
        half = together // 2
        with ThreadPoolExecutor(together) as pool:
            frames = list(pool.map(lambda codec, case: codec.encode(case.array), codecs[:half], some[:half]))
            with settings.set({"device": "cpu"}):
                frames += [codec.encode(case.array) for codec, case in zip(codecs[half:], some[half:], strict=True)]
                decoded = [decode_frame(frame) for frame in frames[:half]]
            decoded += pool.map(decode_frame, frames[half:])
        for case, found in zip(some, decoded, strict=True):
            assert_kept(case.array, found, case.config)

    check()
    assert places.encoded
    if large:  # most of the small chunks are not worth it, and are stored
        assert sum(places.encoded) > 100
        assert sum(places.decoded) > 50


@pytest.mark.gpu
def test_memory_of_the_device_does_not_grow(places, chunks):
    work = [
        (ChunkCodec(CodecConfig(**chunks.CUBE, **target)), data)
        for target, data in (
            ({"max_error": 0.5}, chunks.mixture((20, 64, 64), "f4")),
            ({"max_error": 0.5, "nodata": -9999}, chunks.with_holes((12, 48, 40))),
            ({"step": 1.0}, chunks.mixture((8, 64, 48), "f8")),
            ({"max_error": 2}, chunks.mixture((20, 12, 64), "u2")),
        )
    ]

    def used(count):
        for codec, data in itertools.islice(itertools.cycle(work), count):
            codec.decode(codec.encode(data))
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    before = used(50)
    after = used(1000)
    assert sum(places.decoded) == 1050
    for earlier, later in zip(before, after, strict=True):
        assert later <= 1.01 * earlier


def watched(work, *, most=None):
    """A function of a device and items that takes no more than `most` items; notes the batches that had no memory."""

    def call(device, items, *more):
        try:
            if most is not None and len(items) > most:
                raise torch.OutOfMemoryError(f"no memory for {len(items)} chunks")
            return work(device, items, *more)
        except torch.OutOfMemoryError:
            call.failed.append(len(items))
            raise

    call.failed = []
    return call


def watch(monkeypatch, **options):
    """What the device does with batches, watched: moments, quantisation, what comes of symbols, decoding."""
    found = []
    for module, name in ((encode, "moments"), (encode, "quantise"), (encode, "attempt"), (decode, "decode")):
        found.append(watched(getattr(module, name), **options))
        monkeypatch.setattr(module, name, found[-1])
    return found


def test_batches_without_memory_are_halved(places, chunks, monkeypatch):
    codec = ChunkCodec(CodecConfig(**chunks.CUBE, max_error=2, levels=0))
    some = [chunks.mixture((3, 6, 7), "f4", seed) for seed in range(2)]
    expected = [places.on_cpu(codec.encode, chunk) for chunk in some]
    measuring, *_, decoding = watch(monkeypatch, most=1)
    assert places.together(codec.encode, some) == expected
    found = places.together(codec.decode, expected)
    for one, frame in zip(found, expected, strict=True):
        assert one.tobytes() == places.on_cpu(codec.decode, frame).tobytes()
    assert measuring.failed == decoding.failed == [2]
    assert set(places.encoded) == set(places.decoded) == {1}


def test_batches_stay_within_the_setting(places, chunks):
    codec = ChunkCodec(CodecConfig(**chunks.CUBE, max_error=2, levels=0))
    some = [chunks.mixture((3, 6, 7), "f4", seed) for seed in range(2)]
    with settings.set({"batch.max_bytes": 5000}):
        frames = places.together(codec.encode, some)
        found = places.together(codec.decode, frames)
    assert places.encoded == places.decoded == [1, 1]
    for one, chunk in zip(found, some, strict=True):
        assert np.abs(one - chunk).max() <= 2


@pytest.mark.parametrize("beside", [1, 2])
def test_chunks_are_sent_there_when_there_is_room(places, chunks, monkeypatch, beside):
    codec = ChunkCodec(CodecConfig(**chunks.CUBE, max_error=2, levels=0))
    some = [chunks.mixture((3, 6, 7), "f4", seed) for seed in range(3)]
    expected = [places.on_cpu(codec.encode, chunk) for chunk in some]
    room, each, work, used = owner(places.name).room, some[0].size * 8, encode.attempt, []
    monkeypatch.setattr(encode, "attempt", lambda *given: used.append(room.used) or work(*given))
    with settings.set({"batch.max_bytes": beside * each}):
        assert places.together(codec.encode, some, waiting=beside) == expected
    assert set(used) <= {n * each for n in range(1, beside + 1)}
    assert len(used) == 3
    assert room.used == 0


@pytest.mark.gpu
def test_a_device_with_little_memory(places, chunks, monkeypatch):
    """Chunks of 8 MiB fit singly, and 16 of them do not."""
    codec = ChunkCodec(CodecConfig(**chunks.CUBE, max_error=0.5))
    some = [chunks.mixture((32, 256, 256), "f4", seed) for seed in range(16)]
    expected = [places.on_cpu(codec.encode, chunk) for chunk in some]
    codec.decode(codec.encode(some[0]))  # the device has its tables
    *encoding, decoding = watch(monkeypatch)
    total = torch.cuda.get_device_properties(places.name).total_memory
    try:
        leave(384 << 20, total, places.name)
        assert places.together(codec.encode, some) == expected
        leave(128 << 20, total, places.name)
        found = places.together(codec.decode, expected)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, places.name)
        torch.cuda.empty_cache()
    assert any(work.failed for work in encoding)
    assert decoding.failed
    for one, chunk in zip(found, some, strict=True):
        assert np.abs(one - chunk).max() <= 0.5


def leave(nbytes, total, name):
    """Leave so much memory of a device to this process, beyond what it has."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(name) + nbytes) / total, name)
