"""What the codecs of `benchmarks.gpu_peers` are given comes back; their modules are stood in for."""

import sys
import types
import zlib
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from benchmarks import gpu_given as given  # noqa: E402
from benchmarks import gpu_peers as peers  # noqa: E402

SHAPE = (2, 3, 8, 8)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def streams(monkeypatch):
    """No CUDA."""
    stream = types.SimpleNamespace(cuda_stream=7)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda given: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "none")


def samples(shape=SHAPE, span=9000.0, integral=True):
    rng = np.random.default_rng(0)
    found = rng.uniform(900, 900 + span, shape).astype("f4")
    return torch.from_numpy(np.rint(found) if integral else found)


class Nvcomp:
    """What is used of nvidia.nvcomp 6, its algorithms being zlib on the CPU."""

    BitcompMode = types.SimpleNamespace(BITCOMP_LOSSY_FP_TO_SIGNED=1)

    @dataclass
    class Array:
        tensor: torch.Tensor
        buffer_size: int

    class Codec:
        def __init__(self, *, algorithm, device_id, cuda_stream, data_type="|u1", **more):
            assert algorithm in ("Zstd", "ANS", "Bitcomp", "Cascaded")
            assert (device_id, cuda_stream) == (0, 7)
            assert (more["delta"] > 0) if "delta" in more else not more
            self.data_type = np.dtype(data_type)

        def compression_config(self, sizes):
            return ("compression", tuple(sizes))

        def decompression_config(self, compression):
            assert compression[0] == "compression"
            return ("decompression", compression[1])

        def get_max_comp_buffer_size(self, source):
            return source.buffer_size + 64

        def encode(self, sources, *, out, compression_config):
            assert compression_config == ("compression", tuple(one.buffer_size for one in sources))
            for source, target in zip(sources, out, strict=True):
                assert source.tensor.is_contiguous()
                if self.data_type.itemsize > 1:
                    assert source.tensor.element_size() == self.data_type.itemsize
                coded = np.frombuffer(zlib.compress(source.tensor.numpy().tobytes()), np.uint8)
                target.tensor[: len(coded)] = torch.from_numpy(coded.copy())
                target.buffer_size = len(coded)
            return out

        def decode(self, sources, *, out, decompression_config):
            assert decompression_config == ("decompression", tuple(one.buffer_size for one in out))
            for source, target in zip(sources, out, strict=True):
                values = np.frombuffer(zlib.decompress(source.tensor.numpy().tobytes()), target.tensor.numpy().dtype)
                target.tensor.copy_(torch.from_numpy(values.copy()))
            return out

    def as_arrays(self, tensors, *, cuda_stream):
        assert cuda_stream == 7
        return [self.Array(one, one.numel() * one.element_size()) for one in tensors]


class Images:
    """What is used of nvidia.nvimgcodec, its codec being zlib on the CPU."""

    GPU_ONLY = "GPU_ONLY"
    QualityType = types.SimpleNamespace(LOSSLESS="lossless")
    Jpeg2kBitstreamType = types.SimpleNamespace(J2K="j2k")
    ColorSpec = types.SimpleNamespace(UNCHANGED="unchanged")
    Backend = staticmethod(str)
    Jpeg2kEncodeParams = EncodeParams = DecodeParams = dict

    @dataclass
    class Stream:
        data: bytes
        shape: tuple

        @property
        def size(self):
            return len(self.data)

    class Encoder:
        lost = False

        def __init__(self, device_id, backends):
            assert (device_id, backends) == (0, ["GPU_ONLY"])

        def encode(self, images, codec, *, params):
            assert codec == "jpeg2k"
            assert params["quality_type"] == "lossless"
            assert all(one.dtype == torch.uint16 and one.shape[2:] == (1,) for one in images)
            streams = [Images.Stream(zlib.compress(one.numpy().tobytes()), tuple(one.shape)) for one in images]
            return [None, *streams[1:]] if self.lost else streams

    class Decoder:
        def __init__(self, device_id, backends):
            pass

        def decode(self, streams, *, params):
            assert params == {"color_spec": "unchanged", "allow_any_depth": True}
            return [np.frombuffer(zlib.decompress(one.data), np.uint16).reshape(one.shape).copy() for one in streams]

    def as_images(self, tensors):
        return tensors


@pytest.mark.parametrize("bound", [None, 0.01, 0.001])
def test_what_peers_are_given_comes_back(bound):
    values = samples()
    low, span = float(values.min()), float(values.max() - values.min())
    absolute = None if bound is None else bound * span
    found = peers.peers(CPU, Nvcomp(), Images(), low, span, absolute)
    assert len({(peer.name, peer.arrangement(SHAPE).given) for peer in found}) == len(found)
    for peer in found:
        measurement = peers.measure(peer, values, bound, absolute, 2)
        assert len(measurement.encode_seconds) == len(measurement.decode_seconds) == 2
        assert measurement.bits_per_sample > 0
        assert measurement.encode_gb_per_s > 0
        assert measurement.error_by_bound <= 1
        assert (measurement.chunks, measurement.bands, measurement.side) == SHAPE[:3]
    assert {peer.name.split(",")[0] for peer in found} >= {
        "nvCOMP Zstd", "nvCOMP ANS", "nvCOMP Bitcomp", "nvCOMP Cascaded", "nvJPEG2000",
    }  # fmt: skip


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(("bands", "axis"), [(3, 3), (40, 1)])
@pytest.mark.parametrize(("fraction", "dtype"), [(0.01, torch.uint8), (0.0005, torch.int16)])
def test_differences_hold_the_bound(bytewise, bands, axis, fraction, dtype):
    values = samples((2, bands, 8, 8), integral=False)
    low, span = float(values.min()), float(values.max() - values.min())
    differences = given.Differences(tuple(values.shape), low, span, fraction * span, bytewise=bytewise)
    assert differences.axis == axis
    assert differences.dtype == dtype
    rows = differences.forward(values)
    assert rows.shape[0] == 2
    assert rows.numel() * rows.element_size() == values.numel() * dtype.itemsize
    assert rows.is_contiguous()
    error = peers.largest_error(values, differences.inverse(rows))
    assert 0.9 * fraction * span < error <= fraction * span


def test_bytes_by_significance():
    rows = torch.tensor([[0x0102, 0x0304], [0x0506, 0x0708]], dtype=torch.int16)
    found = given.by_significance(rows)
    assert found.tolist() == [[2, 4, 1, 3], [6, 8, 5, 7]]
    assert torch.equal(given.from_significance(found, torch.int16), rows)


def test_integers_of_sixteen_bits():
    values = torch.tensor([0, 1, 32767, 32768, 65535], dtype=torch.float32).view(1, 1, 1, 5)
    integers = given.Integers((1, 1, 1, 5))
    assert torch.equal(integers.inverse(integers.forward(values)), values)


def test_bounds_that_need_more_bits_are_refused():
    with pytest.raises(ValueError, match="indices of 16 bits"):
        given.Indices(SHAPE, 0.0, 1e6, 1.0)


def test_wrong_samples_and_lost_images_are_noticed(monkeypatch):
    values = samples()

    class Wrong(peers.Nothing):
        def decode(self, coded):
            return coded + 1

    wrong = peers.Peer("wrong", Wrong, given.Values)
    with pytest.raises(RuntimeError, match="other bits"):
        peers.measure(wrong, values, None, None, 1)
    with pytest.raises(RuntimeError, match="error of 1"):
        peers.measure(wrong, values, 0.1, 0.5, 1)
    monkeypatch.setattr(Images.Encoder, "lost", True)
    lossless = peers.peers(CPU, None, Images(), 0.0, 1.0, None)
    with pytest.raises(RuntimeError, match="left out 1 of 6"):
        peers.measure(lossless[0], values, None, None, 1)


def test_codecs_of_images_get_some_of_the_bands(monkeypatch):
    monkeypatch.setattr(peers, "IMAGES", 4)
    (peer, _) = peers.peers(CPU, None, Images(), 0.0, 1.0, None)
    assert peers.measure(peer, samples(), None, None, 1).bits_per_sample < 32


def test_a_run_goes_on_where_a_peer_fails_or_is_missing(monkeypatch, caplog):
    broken = Nvcomp()
    broken.as_arrays = lambda tensors, *, cuda_stream: (_ for _ in ()).throw(RuntimeError("no driver"))
    module = types.ModuleType("nvidia.nvcomp")
    module.__dict__.update(as_arrays=broken.as_arrays, Codec=Nvcomp.Codec, BitcompMode=Nvcomp.BitcompMode)
    monkeypatch.setitem(sys.modules, "nvidia", types.ModuleType("nvidia"))
    monkeypatch.setitem(sys.modules, "nvidia.nvcomp", module)
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)  # importing it fails
    cube = samples((4, 20, 20)).numpy()
    monkeypatch.setattr(peers, "BATCH_BYTES", (1,))
    *_, found = peers.run(CPU, cube, [(8, 3)], [0.01], 1)
    assert {one["peer"] for one in found["measurements"]} == {"no codec, quantiser alone"}
    assert len(found["failed"]) == 10
    assert all("no driver" in one["error"] for one in found["failed"])
    assert "nvimgcodec is left out" in caplog.text
    assert "pip install 'nvidia-nvimgcodec-cu" in caplog.text
    assert list(peers.run(CPU, cube, [(8, 3)], [0.01], 1, minutes=-1)) == []
