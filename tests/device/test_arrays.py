"""Device arrays in and out of Zarr: the values of the host, and no way through it that is not needed.

Where there is no CUDA device, arrays of NumPy that are named as those of CuPy stand for them, and kernels run in
Triton's interpreter: Zarr's own buffers of GPUs hold them, so that what is copied between host and device is counted.
"""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import xarray as xr
import zarr
from xarray.namedarray import pycompat
from zarr.core.buffer import gpu

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from xwalloc import numcodecs as v2  # noqa: E402
from xwalloc import zarr as v3  # noqa: E402
from xwalloc.bitstream import planes  # noqa: E402
from xwalloc.codec import chunk as chunk_module  # noqa: E402
from xwalloc.codec import devices, engine, resident  # noqa: E402
from xwalloc.codec.decode import decode_frame, decode_there  # noqa: E402
from xwalloc.codec.resident import decode  # noqa: E402
from xwalloc.models import choice  # noqa: E402

CODEC = {"channel_axis": 0, "signal_axes": [1, 2], "max_error": 1.5, "profile": "parallel", "levels": 1}


class StandIn(np.lib.mixins.NDArrayOperatorsMixin):
    """Stands for `cupy.ndarray`: functions of NumPy take it, but nobody gets an array of NumPy unasked."""

    __cuda_array_interface__ = None

    def __init__(self, there):
        self.there = there

    def __array__(self, *args, **more):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_function__(self, function, types, args, more):
        return wrapped(function(*unwrapped(args), **unwrapped(more)))

    def __array_ufunc__(self, ufunc, method, *args, **more):
        return wrapped(getattr(ufunc, method)(*unwrapped(args), **unwrapped(more)))

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self.there, name)
        return (lambda *args, **more: wrapped(found(*args, **more))) if callable(found) else found

    def __getitem__(self, key):
        return StandIn(self.there[key])

    def __setitem__(self, key, value):
        self.there[key] = unwrapped(value)

    def __len__(self):
        return len(self.there)

    def __dlpack__(self, **more):
        return self.there.__dlpack__()

    def __dlpack_device__(self):
        return self.there.__dlpack_device__()

    def get(self):
        """A copy on the host."""
        return sys.modules["cupy"].asnumpy(self)


def wrapped(found):
    """A result as CuPy gives it."""
    if isinstance(found, tuple | list):
        return type(found)(map(wrapped, found))
    return StandIn(found) if isinstance(found, np.ndarray) else found


def unwrapped(given):
    """Arguments as NumPy takes them."""
    if isinstance(given, tuple | list):
        return type(given)(map(unwrapped, given))
    if isinstance(given, dict):
        return {key: unwrapped(value) for key, value in given.items()}
    return given.there if isinstance(given, StandIn) else given


def stand_in():
    """What Zarr and xwalloc use of CuPy, in NumPy."""
    cupy = ModuleType("cupy")
    cupy.ndarray, cupy.__version__ = StandIn, "14.0"
    cupy.asarray = cupy.asanyarray = lambda data: data if isinstance(data, StandIn) else StandIn(np.array(data))
    cupy.asnumpy = lambda array: np.array(unwrapped(array))
    for name in ("frombuffer", "empty", "array", "concatenate", "from_dlpack"):
        setattr(cupy, name, lambda *args, name=name, **more: wrapped(getattr(np, name)(*unwrapped(args), **more)))
    return cupy


@pytest.fixture(params=["stand-in", pytest.param("cupy", marks=pytest.mark.gpu)])
def there(request, monkeypatch, device):
    """Zarr gives arrays of CuPy; counts samples that are decoded on the device, uploaded, and downloaded."""
    if request.param == "stand-in":
        if device.type == "cuda":
            pytest.skip("there is a CUDA device")
        cupy = stand_in()
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setattr(gpu, "cp", cupy)
        monkeypatch.setattr(pycompat, "_cached_duck_array_modules", {})
    else:
        cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    counts = SimpleNamespace(cupy=cupy, decoded=0, uploaded=0, downloaded=0, monkeypatch=monkeypatch)

    def count(owner, name, key, size, when=lambda given: True):
        original = getattr(owner, name)

        def counting(*args, **more):
            result = original(*args, **more)
            setattr(counts, key, getattr(counts, key) + (size(result) if when(args[-1]) else 0))
            return result

        monkeypatch.setattr(owner, name, counting)

    count(decode, "decode", "decoded", lambda batch: sum(samples.numel() for samples in batch.samples))
    count(resident, "decoded", "downloaded", np.size)
    count(resident.DeviceArray, "on_host", "downloaded", np.size)
    count(cupy, "asnumpy", "downloaded", np.size)
    count(cupy, "asarray", "uploaded", np.size, lambda given: type(given) is np.ndarray)
    if device.type != "cuda":  # fewer steps for the interpreter
        monkeypatch.setattr(planes, "LANE_COST", 4.0)
        monkeypatch.setattr(choice, "RATIOS", choice.RATIOS[2:5])
        monkeypatch.setattr(choice, "FIRST", 1)
        monkeypatch.setattr(choice, "CONCENTRATION", (1, 1))
    monkeypatch.setattr(engine, "device", lambda: "cuda:0" if device.type == "cuda" else "cpu:0")
    with zarr.config.enable_gpu():
        yield counts


def mixture(shape, dtype, seed=0):
    """Few sources and some noise, that transform mode codes best."""
    rng = np.random.default_rng(seed)
    sources = rng.normal(size=(2, *shape[1:])).cumsum(1).cumsum(2) * 3
    data = np.tensordot(rng.normal(size=(shape[0], 2)), sources, 1) + rng.normal(size=shape) / 20
    return ((data - data.min()).clip(0, 125) if np.dtype(dtype).kind in "iu" else data).astype(dtype)


def on_host(monkeypatch, work):
    """What a process without a device makes of it."""
    with (
        monkeypatch.context() as context,
        zarr.config.set({"buffer": "zarr.buffer.cpu.Buffer", "ndbuffer": "zarr.buffer.cpu.NDBuffer"}),
    ):
        context.setattr(engine, "device", lambda: "cpu")
        return work()


def written(there, data, *, chunks, store=None, codec=CODEC, **more):
    """An array written on the host, and what is read of it there."""

    def write():
        array = zarr.create_array(
            {} if store is None else store, shape=data.shape, dtype=data.dtype, chunks=chunks, compressors=(),
            serializer=v3.Walloc(**codec), **more,
        )  # fmt: skip
        array[...] = data
        return array, array[...]

    return on_host(there.monkeypatch, write)


def same(there, found, expected):
    """An array on the device of the same bits."""
    assert isinstance(found, there.cupy.ndarray)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.get().tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["f4", "u2"])
def test_samples_stay_on_the_device(there, dtype):
    array, expected = written(there, mixture((18, 11, 24), dtype), chunks=(18, 11, 12))
    found = array[...]
    assert (there.decoded, there.uploaded, there.downloaded) == (found.size, 0, 0)
    same(there, found, expected)


def test_selections_stay_on_the_device(there):
    array, expected = written(there, mixture((18, 11, 13), "f4"), chunks=(18, 11, 13))
    found = array[3, 2:9:2]
    assert there.decoded > 0
    assert there.uploaded == there.downloaded == 0
    same(there, found, expected[3, 2:9:2])
    same(there, array.oindex[[1, 4], :, [2, 0, 9]], expected[np.ix_([1, 4], range(11), [2, 0, 9])])


def test_chunks_in_shards(there, tmp_path):
    data = mixture((18, 11, 24), "f4")
    array, expected = written(there, data, chunks=(18, 11, 12), shards=(18, 11, 24), store=tmp_path)
    found = array[...]
    assert there.decoded == found.size
    same(there, found, expected)


def test_what_the_host_decodes_is_uploaded_once(there):
    data = mixture((3, 20, 24), "i2")
    array, expected = written(there, data, chunks=(3, 20, 12), codec={**CODEC, "max_error": None, "lossless": True})
    found = array[...]
    assert (there.decoded, there.uploaded, there.downloaded) == (0, found.size, 0)
    same(there, found, expected)
    there.monkeypatch.setattr(engine, "device", lambda: "cpu")
    array, expected = written(there, mixture((18, 11, 13), "f4"), chunks=(18, 11, 13))
    there.uploaded = 0
    same(there, array[...], expected)
    assert (there.decoded, there.uploaded) == (0, expected.size)


def test_frames_of_the_other_byte_order(there):
    array, expected = written(there, mixture((18, 11, 13), "f4"), chunks=(18, 11, 13))
    swapped = v2.Walloc(**CODEC).encode(expected.astype(">f4"))
    (key,) = [key for key in array.store._store_dict if key.startswith("c/")]
    array.store._store_dict[key] = zarr.core.buffer.cpu.Buffer.from_bytes(swapped)
    again = on_host(there.monkeypatch, lambda: array[...])
    there.decoded = 0
    found = array[...]
    assert there.decoded == found.size
    same(there, found, again)


def test_arrays_of_a_device_are_written(there, tmp_path):
    data = mixture((18, 11, 24), "f4")
    array = zarr.create_array(
        tmp_path, shape=data.shape, dtype=data.dtype, chunks=(18, 11, 12), compressors=(),
        serializer=v3.Walloc(**CODEC), config={"write_empty_chunks": True},
    )  # fmt: skip
    given = there.cupy.asarray(data)
    there.monkeypatch.setattr(chunk_module, "in_lattice_mode", lambda *_: None)  # small chunks may be better there
    there.monkeypatch.setattr(chunk_module, "draft_of", lambda *_: None)
    there.downloaded = 0
    array[...] = given
    assert there.downloaded < data.size // 2  # bytes of frames, which Zarr puts where arrays are
    found = on_host(there.monkeypatch, lambda: array[...])
    assert np.abs(found - data).max() <= CODEC["max_error"]
    same(there, array[...], found)


@pytest.mark.parametrize(
    ("dtype", "more"), [("f4", {}), ("u2", {"nodata": 9999}), ("f8", {"max_error": None, "step": 1})]
)
def test_bytes_are_those_of_arrays_on_the_host(there, dtype, more):
    data = mixture((16, 5, 6), dtype)
    codec = v2.Walloc(**{**CODEC, **more})
    assert codec.encode(there.cupy.asarray(data)) == codec.encode(data)


def test_arrays_that_do_not_fit_there_again_come_to_the_host(there):
    """A copy of what lies backwards, or on another device, may be too much."""
    data = mixture((16, 5, 6), "f4")
    codec = v2.Walloc(**CODEC)

    def no_memory(array):
        raise MemoryError("too little")

    there.monkeypatch.setattr(resident.DeviceArray, "of", no_memory)
    there.monkeypatch.setattr(devices, "_warned", False)
    with pytest.warns(RuntimeWarning, match="on the CPU"):
        assert codec.encode(there.cupy.asarray(data)) == codec.encode(data)


def test_memory_order(there):
    """torch takes no axis backwards."""
    data = mixture((4, 6, 7), "u2").transpose(1, 2, 0)[::-1, ::2]
    found = resident.DeviceArray.of(there.cupy.asarray(data))
    assert (found.shape, found.dtype, found.nbytes) == (data.shape, data.dtype, data.nbytes)
    arranged = found.arranged((2, 0, 1), (1, 4, 1, 6, 4))
    assert np.array_equal(arranged.on_host()[0, :, 0], data.transpose(2, 0, 1))
    padded = arranged.padded((1, 8, 4)).on_host()
    assert np.array_equal(padded, np.pad(arranged.on_host(), [(0, 0)] * 3 + [(0, 2), (0, 0)], "edge"))


@pytest.mark.parametrize("special", ["nan", "nodata", "outlier"])
def test_what_is_special_comes_to_the_host(there, special):
    data = mixture((16, 5, 6), "f4")
    data[3, 4, 5] = {"nan": np.nan, "nodata": -9999.0, "outlier": 1e9}[special]
    codec = v2.Walloc(**CODEC, nodata=-9999.0 if special == "nodata" else None)
    there.downloaded = 0
    assert codec.encode(there.cupy.asarray(data)) == codec.encode(data)
    assert there.downloaded == data.size


def test_exceptions_are_looked_up_on_the_host(there):
    """Float32 samples so large that rounding exceeds the bound here and there."""
    data = mixture((16, 6, 6), "f4") + np.float32(2.0**24)
    codec = v2.Walloc(**{**CODEC, "max_error": 1.1})
    assert codec.encode(there.cupy.asarray(data)) == codec.encode(data)


def test_xarray_and_dask(there, tmp_path):
    """As docs/clusters.md has it; indices are on the host, where pandas needs them."""
    dask_array = pytest.importorskip("dask.array", reason="Dask is not installed")
    data = xr.DataArray(
        mixture((18, 11, 24), "f4"), dims=("band", "y", "x"), name="r",
        coords={"band": np.arange(18), "x": np.linspace(0, 1, 24)},
    )  # fmt: skip

    def write():
        encoding = {"serializer": v3.Walloc(**CODEC), "compressors": (), "chunks": (18, 11, 12)}
        data.to_dataset().to_zarr(tmp_path / "s.zarr", encoding={"r": encoding}, consolidated=False)
        return xr.open_zarr(tmp_path / "s.zarr", consolidated=False).r.values

    expected = on_host(there.monkeypatch, write)
    eager = xr.open_zarr(tmp_path / "s.zarr", chunks=None, consolidated=False).r
    assert eager.band.values.tolist() == list(range(18))
    there.downloaded = 0
    same(there, eager.sel(band=slice(2, 4)).load().data, expected[2:5])

    stored = zarr.open_array(tmp_path / "s.zarr" / "r", mode="r")
    chunks = dask_array.from_array(stored, stored.chunks, meta=there.cupy.empty((0, 0, 0), dtype="f4"))
    lazy = eager.copy(data=chunks)
    there.decoded = there.downloaded = 0
    found = (lazy.sel(band=slice(2, 4)) + 1).compute(scheduler="synchronous")
    assert there.decoded == found.size
    assert there.uploaded == there.downloaded == 0
    assert found.x.values.tolist() == data.x.values.tolist()
    same(there, found.data, expected[2:5] + 1)


@pytest.mark.gpu
@pytest.mark.parametrize("own", [False, True], ids=["default", "own"])
def test_any_stream_of_cupy_waits_for_the_samples(own):
    """Arrays may outlive their stream."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    frame = v2.Walloc(**CODEC).encode(mixture((18, 64, 64), "f4"))
    expected = decode_frame(frame)
    with cupy.cuda.Stream(non_blocking=True) if own else cupy.cuda.Stream.null:
        for _ in range(50):
            found = decode_there(frame)
            assert isinstance(found, resident.DeviceArray)
            array = found.as_cupy()
            assert (array.data.ptr == found.samples.data_ptr()) != own
            assert cupy.asnumpy(array + 0).tobytes() == expected.tobytes()
