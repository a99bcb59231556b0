"""Latents for torch: windows with their labels, whole chunks read once, whole batches on a device."""

import numpy as np
import pytest
import xarray as xr

import xwalloc
from xwalloc.errors import ConfigError

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch.utils.data import DataLoader  # noqa: E402

from xwalloc import learning  # noqa: E402
from xwalloc.learning import IGNORED, LatentDataset, LatentLoader  # noqa: E402


def grid(shape=(12, 10), chunks=(4, 5), latents=3, patch=4, **attrs):
    """Latents that count up, and the class of every sample."""
    dims = ("z", "y", "x")[-len(shape) :]
    values = np.arange(latents * np.prod(shape), dtype=np.int32).reshape(latents, *shape)
    found = xr.DataArray(values, dims=("latent", *(f"{d}_patch" for d in dims)))
    found.attrs = {"patch": [patch] * len(shape), "step": 0.5, **attrs}
    found.encoding["preferred_chunks"] = {"latent": latents, **dict(zip(found.dims[1:], chunks, strict=True))}
    extent = [n * patch - 1 for n in shape]  # the last samples lie beyond the array
    samples = xr.DataArray(np.arange(np.prod(extent), dtype=np.uint16).reshape(extent), dims=dims)
    return found, samples


@pytest.mark.parametrize("cut", ["copy_in_turn", "copy_at_once"])
@pytest.mark.parametrize(
    ("shape", "chunks", "window"),
    [((13,), (4,), 1), ((12, 10), (4, 5), 2), ((12, 10), (5, 4), 3), ((4, 6, 5), (2, 4, 5), 2)],
)
def test_windows_and_labels_are_those_of_the_arrays(shape, chunks, window, cut, monkeypatch):
    """Both on a CPU and as a device cuts them."""
    monkeypatch.setattr(learning, "copy_in_turn", getattr(learning, cut))
    latents, samples = grid(shape, chunks)
    dataset = LatentDataset(latents, samples, window=window, cache=2)
    assert len(dataset) == np.prod([n // window for n in shape])
    there = np.pad(samples.values.astype(np.int64), (0, 1), constant_values=IGNORED)
    for i, start in enumerate(dataset.starts):
        box = tuple(slice(s, s + window) for s in start)
        found, labels = dataset[i]
        np.testing.assert_array_equal(found, latents.values[(slice(None), *box)])
        np.testing.assert_array_equal(labels, there[tuple(slice(4 * b.start, 4 * b.stop) for b in box)])
    assert found.dtype == torch.int32
    assert labels.dtype == torch.int64
    assert torch.equal(dataset[-1][0], found)
    for one, other in zip(dataset[list(range(len(dataset)))], zip(*dataset, strict=True), strict=True):
        assert torch.equal(one, torch.stack(other))


def test_batches_have_no_batch_dimensions_of_the_array():
    latents, _ = grid()
    series = xr.concat([latents, -latents], "time").transpose("time", "latent", ...)
    wanted = xr.DataArray([[1.0, 2.0]], dims=("y_patch", "time")).isel(y_patch=[0] * 12)
    wanted = wanted.expand_dims(x_patch=10)
    dataset = LatentDataset(series, wanted, window={"y_patch": 4})
    found, labels = dataset[[0, 30]]
    assert found.shape == (2, 3, 4, 1)
    np.testing.assert_array_equal(found[1], -found[0])
    np.testing.assert_array_equal(labels[:, 0, 0], [1, 2])
    assert labels.dtype == torch.float32


@pytest.mark.parametrize("bound", [{"snr": 30}, {"max_error": 20.0}])
def test_latents_that_are_not_comparable_are_warned_of(tmp_path, bound):
    values = np.random.default_rng(2).normal(size=(3, 64, 64)).cumsum(1).cumsum(2).astype("f4")
    data = xr.DataArray(values, dims=("band", "y", "x"), name="r")
    options = {"chunks": {"y": 32, "x": 64}, "consolidated": False}
    data.to_dataset().walloc.to_zarr(tmp_path / "own.zarr", **bound, **options)
    latents = xwalloc.open_latents(tmp_path / "own.zarr", "r")
    cure = r"comparable from chunk to chunk.*xwalloc.fit\(array, snr=...\).*model=model"
    with pytest.warns(UserWarning, match=cure):
        LatentDataset(latents)
    with pytest.warns(UserWarning, match=cure):
        LatentDataset(latents.isel(y_patch=[1, 2]))
    LatentDataset(latents.isel(y_patch=slice(2)))  # of one chunk
    model = xwalloc.fit(data, snr=30, levels=3)
    data.to_dataset().walloc.to_zarr(tmp_path / "one.zarr", model=model, **options)
    LatentDataset(xwalloc.open_latents(tmp_path / "one.zarr", "r"))


def count_reads(dataset, monkeypatch):
    reads, original = [], xr.DataArray.__getitem__
    monkeypatch.setattr(
        xr.DataArray,
        "__getitem__",
        lambda self, key: reads.append(key) or original(self, key) if self is dataset.latents else original(self, key),
    )
    return reads


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_pass_reads_every_chunk_once(shuffle, monkeypatch):
    latents, _ = grid()
    dataset = LatentDataset(latents, cache=2)
    reads = count_reads(dataset, monkeypatch)
    loader = LatentLoader(dataset, 7, shuffle=shuffle, seed=3)
    passes = [list(loader) for _ in range(2)]
    assert len(reads) <= 2 * 6
    assert [len(batch) for batch in passes[0]] == [7] * 17 + [1]
    assert len(loader) == 18
    seen = [torch.cat(batches)[:, 0, 0, 0].tolist() for batches in passes]
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(120))
    assert (seen[0] != seen[1]) is shuffle
    again = torch.cat(list(LatentLoader(dataset, 7, shuffle=shuffle, seed=3)))[:, 0, 0, 0]
    assert again.tolist() == seen[0]


def test_the_cache_is_bounded(monkeypatch):
    dataset = LatentDataset(grid()[0], cache=2)
    reads = count_reads(dataset, monkeypatch)
    for i in (0, 1, 5, 0, 40, 0, 5):  # chunks 0 0 1 0 2 0 1
        dataset[i]
    assert len(reads) == 4


def store(tmp_path, **arguments):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:60, :72] / 20
    mixed = np.tensordot(rng.normal(size=(5, 2)), np.stack([np.sin(x * y), np.cos(3 * y)]), 1)
    da = xr.DataArray((900 + 100 * mixed).astype("f4"), dims=("band", "y", "x"), name="r")
    model = xwalloc.fit(da, latents=20, levels=2)
    da.to_dataset().walloc.to_zarr(tmp_path / "s.zarr", model=model, consolidated=False, **arguments)
    return da, model, xwalloc.open_latents(tmp_path / "s.zarr", "r")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12 on fork
@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_workers_read_a_store(tmp_path, context):
    da, _, latents = store(tmp_path, chunks={"y": 32, "x": 32})
    classes = (da.isel(band=0, drop=True) > 900).astype("u1")
    dataset = LatentDataset(latents, classes, window=2)
    loader = LatentLoader(dataset, 16, shuffle=True, workers=2)
    loader.loader.multiprocessing_context = context
    found = [torch.cat(parts) for parts in zip(*loader, strict=True)]
    whole = dataset[list(range(len(dataset)))]
    assert sum(1 for _ in loader) == len(loader)
    for one, other in zip(found, whole, strict=True):
        assert one.shape == other.shape
        assert sorted(one.flatten().tolist()) == sorted(other.flatten().tolist())


def test_loaders_of_torch_work(tmp_path):
    _, _, latents = store(tmp_path, chunks={"y": 32, "x": 32})
    (found,) = DataLoader(LatentDataset(latents, window=4), batch_size=100)
    assert found.shape == (4 * 6, 20, 4, 4)
    np.testing.assert_array_equal(found[1, :, :, 0], latents.values[:, :4, 4])


def test_latents_are_dequantised_on_the_device(tmp_path):
    da, model, latents = store(tmp_path, chunks={"y": 60, "x": 72})
    assert latents.attrs["patch"] == [4, 4]
    loader = LatentLoader(LatentDataset(latents, window={"y_patch": 15, "x_patch": 18}), 1, dequantised=True)
    (found,) = loader
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found[0], latents.values * model.target["step"], rtol=1e-6)
    direct = model.encode(da)
    assert direct.attrs["step"] == model.target["step"]
    assert direct.attrs["patch"] == [4, 4]
    floats = xwalloc.open_latents(tmp_path / "s.zarr", "r", dequantised=True)
    with pytest.raises(ConfigError, match="dequantised=True"):
        LatentLoader(LatentDataset(floats), 1, dequantised=True)


def test_chunks_that_cut_patches_have_no_labels_by_sample(tmp_path):
    da, _, latents = store(tmp_path, chunks={"y": 30, "x": 32})
    assert "patch" not in latents.attrs
    with pytest.raises(ConfigError, match="multiples of 2"):
        LatentDataset(latents, da.isel(band=0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_lie_on_the_gpu(tmp_path):
    da, _, latents = store(tmp_path, chunks={"y": 32, "x": 32})
    dataset = LatentDataset(latents, da.isel(band=0), window=2)
    for values, labels in LatentLoader(dataset, 16, device="cuda", dequantised=True):
        assert values.is_cuda
        assert labels.is_cuda
    on_cpu = torch.cat([values for values, _ in LatentLoader(dataset, 16)])
    on_gpu = torch.cat([values.cpu() for values, _ in LatentLoader(dataset, 16, device="cuda")])
    assert torch.equal(on_cpu, on_gpu)


@pytest.mark.gpu
def test_chunks_are_uploaded_once_and_cut_on_the_gpu(tmp_path, monkeypatch):
    da, _, latents = store(tmp_path, chunks={"y": 32, "x": 32})
    on_cpu, on_gpu = (
        LatentDataset(latents, da.isel(band=0), window=2, device=name) for name in ("cpu", "cuda")
    )  # fmt: skip
    blocks, original = [], LatentDataset._block
    monkeypatch.setattr(LatentDataset, "_block", lambda self, place: blocks.append(place) or original(self, place))
    reads = count_reads(on_gpu, monkeypatch)
    batches = list(LatentLoader(on_gpu, 16, dequantised=True))
    assert all(values.is_cuda and labels.is_cuda for values, labels in batches)
    assert len(reads) == len(set(blocks)) == 6
    for found, expected in zip(batches, LatentLoader(on_cpu, 16, dequantised=True), strict=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.cpu(), other)
    (back, _), *_ = LatentLoader(on_gpu, 16, device="cpu")
    assert not back.is_cuda


def test_wrong_arguments_are_refused():
    latents, samples = grid()
    labels = latents.isel(latent=0)
    for arguments in (
        {"latents": samples},
        {"window": 11},
        {"window": {"y": 2}},
        {"cache": 0},
        {"labels": labels[:5]},
        {"labels": samples.rename(y="v")},
        {"labels": samples.expand_dims("time")},
        {"labels": samples.isel(y=[0] * 60)},
        {"labels": samples[:32]},  # a whole chunk is missing
        {"latents": latents.drop_attrs(), "labels": samples},
    ):
        with pytest.raises(ConfigError, match="Expected"):
            LatentDataset(**{"latents": latents, **arguments})
    with pytest.raises(ConfigError, match="DataArray"):
        LatentDataset(latents.values)
    dataset = LatentDataset(latents)
    with pytest.raises(ConfigError, match="Expected"):
        LatentLoader(dataset, 0)
    with pytest.raises(ConfigError, match="LatentDataset"):
        LatentLoader(torch.utils.data.Subset(dataset, [0, 1]), 1)
    with pytest.raises(ConfigError, match="no workers"):
        LatentLoader(LatentDataset(latents, device="meta"), 1, workers=1)
    with pytest.raises(IndexError, match="Expected"):
        dataset[120]
