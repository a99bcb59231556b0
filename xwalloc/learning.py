"""Latents for training with torch: whole chunks are read, and whole chunks or whole batches moved to a device.

Entropy decoding gives a chunk or nothing, so windows of one chunk should be asked for together: `LatentLoader`
shuffles chunks, and windows only among those that the cache of `LatentDataset` holds. That cache may lie on a device:
then every chunk is uploaded once, and windows are cut there.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

try:
    import torch
    from torch.utils.data import DataLoader, Dataset
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "Learning on latents needs torch. Install it: pip install 'xwalloc[torch]'.", name="torch"
    ) from error

from xwalloc.device.memory import upload
from xwalloc.errors import ConfigError
from xwalloc.models.adapt import LATENT, chunk_coordinate

__all__ = ["IGNORED", "LatentDataset", "LatentLoader"]

IGNORED = -100
"""Integer label beyond the edge of the labels: what losses of torch ignore unless told otherwise."""

Place = tuple[int, ...]


class LatentDataset(Dataset[Any]):
    """Windows of patches of an array of latents, with labels or without.

    Item ``i`` is a tensor (latent, *window) of the dtype of the latents, or with labels a pair of that and a tensor
    (*window) of their labels, in samples if the labels are. Windows do not overlap; what is left over at the far edges
    is left out. Parts of the array, such as a region to validate on, are datasets of ``latents.isel(...)``.

    Parameters
    ----------
    latents
        What `xwalloc.open_latents` or `Model.encode` returned, or a selection of it that keeps its dimensions.
    labels
        Array over the same dimensions without ``latent``: one label for each patch (``y_patch``), or for each sample
        (``y``). Batch dimensions may be absent. Integers become int64, with `IGNORED` beyond their edge; other labels
        float32, with NaN.
    window
        Patches along every axis of patches, or a mapping by dimension.
    cache
        Chunks to keep, at most.
    device
        Where they are kept and windows are cut, and so where items are.

    Raises
    ------
    ConfigError
        If an argument does not suit the latents.

    Warns
    -----
    UserWarning
        If the latents come from several chunks and are not comparable from one to the other.
    """

    def __init__(
        self,
        latents: xr.DataArray,
        labels: xr.DataArray | None = None,
        *,
        window: int | Mapping[Hashable, int] = 1,
        cache: int = 8,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, array in (("latents", latents), ("labels", labels)):
            if not isinstance(array, xr.DataArray | None):
                raise ConfigError(f"Expected {name} to be an xarray.DataArray. Got {type(array).__name__}.")
        if LATENT not in latents.dims:
            raise ConfigError(f"Expected latents with a dimension {LATENT!r}. Got {latents.dims}.")
        axis = latents.dims.index(LATENT)
        batch, patches = latents.dims[:axis], latents.dims[axis + 1 :]
        windows = window if isinstance(window, Mapping) else dict.fromkeys(patches, window)
        if set(windows) - set(patches) or any(not 1 <= windows[d] <= latents.sizes[d] for d in windows):
            raise ConfigError(f"Expected a window of patches within {dict(latents.sizes)}. Got {window}.")
        if cache < 1:
            raise ConfigError(f"Expected a cache of one chunk or more. Got {cache}.")
        self.latents, self.cache, self.batch = latents, cache, len(batch)
        self.device = torch.device(device)
        self.dims = (*batch, *patches)
        self.window = (*(1 for _ in batch), *(windows.get(d, 1) for d in patches))
        whole = tuple(latents.sizes[d] for d in self.dims)
        chunks = latents.encoding.get("preferred_chunks", {})
        self.chunks = tuple(min(chunks.get(d, n), n) for d, n in zip(self.dims, whole, strict=True))
        if latents.attrs.get("comparable") == 0 and several_chunks(latents, self.dims, self.chunks):
            warnings.warn(
                "Expected latents that are comparable from chunk to chunk. Got some that are not (attribute "
                "comparable: 0): the same latent means something else in each chunk, and what is learned from one is "
                "wrong for others. Fit a model, model = xwalloc.fit(array, snr=...), and write the store with "
                "model=model and without a bound.",
                UserWarning,
                stacklevel=2,
            )
        self.counts = tuple(n // w for n, w in zip(whole, self.window, strict=True))
        self.labels = None
        if labels is not None:
            self.factors, self.labels = aligned(latents, labels, batch, patches, self.chunks[len(batch) :])
            self.dtype = np.dtype(np.int64 if labels.dtype.kind in "biu" else np.float32)
        self._blocks: OrderedDict[Place, list[torch.Tensor]] = OrderedDict()

    @property
    def starts(self) -> NDArray[np.int64]:
        """First patch of every window: (windows, batch and patch dimensions)."""
        places = np.stack(np.unravel_index(np.arange(len(self)), self.counts), axis=-1)
        return places * np.array(self.window, np.int64)

    def __len__(self) -> int:
        return int(np.prod(self.counts))

    def __getitem__(self, index: int | Sequence[int]) -> Any:
        """One item, or for a list of indices the tensors of a whole batch."""
        if not isinstance(index, int | np.integer):
            return self._batch(index)
        return self.__getitems__([int(index)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Items that are read together, for a `DataLoader`."""
        batch = self._batch(indices)
        return list(zip(*batch, strict=True)) if isinstance(batch, tuple) else list(batch)

    def _batch(self, indices: Sequence[int]) -> Any:
        wanted = np.asarray(indices, np.int64)
        if wanted.size and not (-len(self) <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"Expected indices of {len(self)} windows. Got {wanted.min()} to {wanted.max()}.")
        places = np.stack(np.unravel_index(wanted % len(self), self.counts), axis=-1)
        starts, width = places * np.array(self.window), np.array(self.window)
        kinds: list[tuple[tuple[int, ...], tuple[int, ...], np.dtype[Any]]] = []  # leading axes, factors, dtype
        kinds.append(((self.latents.sizes[LATENT],), (1,) * len(self.dims), self.latents.dtype))
        if self.labels is not None:
            kinds.append(((), self.factors, self.dtype))
        out = [
            torch.empty(
                (len(wanted), *lead, *(w * f for w, f in zip(self.window, factors, strict=True))),
                dtype=torch.from_numpy(np.empty(0, dtype)).dtype, device=self.device,
            )
            for lead, factors, dtype in kinds
        ]  # fmt: skip
        chunks = np.array(self.chunks)
        touched: dict[Place, list[int]] = {}
        for k, (first, last) in enumerate(zip(starts // chunks, (starts + width - 1) // chunks, strict=True)):
            for offset in np.ndindex(*(last - first + 1)):
                touched.setdefault(tuple((first + offset).tolist()), []).append(k)
        for place, items in touched.items():
            block, low = self._block(place), np.array(place) * chunks
            begin = np.maximum(starts[items], low)
            extents = np.minimum(starts[items] + width, low + chunks) - begin
            for extent in np.unique(extents, axis=0):  # windows that the edges of the chunk cut alike
                alike = np.flatnonzero((extents == extent).all(axis=1))
                rows = np.array(items)[alike]
                here, there = begin[alike] - low, begin[alike] - starts[rows]
                copy = copy_in_turn if self.device.type == "cpu" else copy_at_once
                for array, own, (lead, factors, _) in zip(out, block, kinds, strict=True):
                    copy(array, rows, there, own, here, extent, len(lead), factors)
        tensors = tuple(
            a.reshape(*a.shape[: 1 + len(lead)], *a.shape[1 + len(lead) + self.batch :])
            for a, (lead, _, _) in zip(out, kinds, strict=True)
        )
        return tensors if len(tensors) > 1 else tensors[0]

    def _block(self, place: Place) -> list[torch.Tensor]:
        """Latents of a chunk and their labels, from the cache where they are in it."""
        if place in self._blocks:
            self._blocks.move_to_end(place)
            return self._blocks[place]
        while len(self._blocks) >= self.cache:
            self._blocks.popitem(last=False)
        low = np.array(place) * self.chunks
        high = np.minimum(low + self.chunks, [self.latents.sizes[d] for d in self.dims])
        box = spans(low, high, (1,) * len(self.dims))
        latents = self.latents[(*box[: self.batch], slice(None), *box[self.batch :])].values
        block = [np.moveaxis(latents, self.batch, 0)]
        if self.labels is not None:
            known = self.labels[tuple(spans(low, high, self.factors))].values.astype(self.dtype)
            extent = (high - low) * self.factors
            fill = IGNORED if known.dtype.kind == "i" else np.nan
            widths = [(0, int(to - n)) for to, n in zip(extent, known.shape, strict=True)]
            block.append(np.pad(known, widths, constant_values=fill))
        self._blocks[place] = upload(self.device, *block)
        return self._blocks[place]


class LatentLoader:
    """Batches of a dataset, on a device.

    Every chunk is decoded once in a pass where windows do not cross its edges. Latents stay integers until they are
    on the device. Where the dataset keeps chunks on a CUDA device, batches are made there. Else a batch is one copy
    from pinned memory for each tensor, which does not wait, and other processes may read.

    Parameters
    ----------
    dataset
        Where batches come from.
    batch_size
        Windows in a batch; the last ones of a pass (one for each worker) may be smaller.
    shuffle
        Another order in every pass: chunks are shuffled, and windows among `LatentDataset.cache` chunks.
    seed
        What the orders follow from.
    device
        Where batches go; None for where the dataset has them.
    dequantised
        Latents as float32 in units of the samples: integers times the step, multiplied on the device.
    workers
        Processes that read; each has chunks of its own. 0 reads in this one, as datasets on a CUDA device need.

    Raises
    ------
    ConfigError
        If latents without a common step are to be dequantised, or other processes to read for a dataset on a device.
    """

    def __init__(
        self,
        dataset: LatentDataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str | None = None,
        dequantised: bool = False,
        workers: int = 0,
    ) -> None:
        if not isinstance(dataset, LatentDataset):
            raise ConfigError(
                f"Expected a LatentDataset. Got {type(dataset).__name__}: make datasets of parts of the latents, which "
                "`isel` selects."
            )
        step = dataset.latents.attrs.get("step")
        if dequantised and (step is None or dataset.latents.dtype.kind != "i"):
            raise ConfigError(
                "Expected integer latents with the attribute 'step'. Got none: open them with dequantised=True."
            )
        if workers and dataset.device.type != "cpu":
            raise ConfigError(
                f"Expected no workers for a dataset on {dataset.device}. Got {workers}: leave them out, or leave the "
                "device of the dataset out and give it to the loader."
            )
        self.device = dataset.device if device is None else torch.device(device)
        self.step = step if dequantised else None
        self.order = ChunkOrder(dataset, batch_size, shuffle, seed, max(1, workers))
        self.loader: DataLoader[Any] = DataLoader(
            dataset, batch_size=None, sampler=self.order, num_workers=workers, persistent_workers=workers > 0,
            pin_memory=self.device.type == "cuda" and dataset.device.type == "cpu",
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if isinstance(batch, torch.Tensor):
                yield self._latents(batch)
            else:
                yield self._latents(batch[0]), batch[1].to(self.device, non_blocking=True)

    def _latents(self, latents: torch.Tensor) -> torch.Tensor:
        there = latents.to(self.device, non_blocking=True)
        return there if self.step is None else there.float().mul_(self.step)


class ChunkOrder:
    """Indices of batches such that those of a chunk come together, and those of every worker's chunks in its turn."""

    def __init__(self, dataset: LatentDataset, batch_size: int, shuffle: bool, seed: int, workers: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"Expected a batch of one window or more. Got {batch_size}.")
        self.batch_size, self.shuffle, self.seed, self.cache = batch_size, shuffle, seed, dataset.cache
        _, home = np.unique(dataset.starts // dataset.chunks, axis=0, return_inverse=True)
        order = np.argsort(home.reshape(-1), kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(home.reshape(-1)[order])) + 1)
        self.parts = [members[worker::workers] for worker in range(workers)]
        self.passes = 0

    def __len__(self) -> int:
        return sum(-(-sum(map(len, part)) // self.batch_size) for part in self.parts)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.passes])
        self.passes += 1
        streams = [self._stream(part, rng) for part in self.parts]
        while streams:  # DataLoader hands batches to workers in turn
            for stream in list(streams):
                batch = next(stream, None)
                if batch is None:
                    streams.remove(stream)
                else:
                    yield batch

    def _stream(self, members: Sequence[NDArray[np.int64]], rng: np.random.Generator) -> Iterator[list[int]]:
        order = rng.permutation(len(members)) if self.shuffle else np.arange(len(members))
        pool: list[int] = []
        for start in range(0, len(order), self.cache):
            group = np.concatenate([members[i] for i in order[start : start + self.cache]])
            pool += (rng.permutation(group) if self.shuffle else group).tolist()
            while len(pool) >= self.batch_size:
                yield pool[: self.batch_size]
                pool = pool[self.batch_size :]
        if pool:
            yield pool


def several_chunks(latents: xr.DataArray, dims: Sequence[Hashable], chunks: Sequence[int]) -> bool:
    """Whether latents come from more than one chunk; a selection may be smaller than one and lie in two."""
    marks = [chunk_coordinate(str(dim).removesuffix("_patch")) for dim in dims]
    larger = any(latents.sizes[dim] > size for dim, size in zip(dims, chunks, strict=True))
    return larger or any(np.unique(latents[mark]).size > 1 for mark in marks if mark in latents.coords)


def spans(begin: NDArray[Any], end: NDArray[Any], factors: Sequence[int]) -> list[slice]:
    """Slices from patches, in units of a factor along every axis."""
    return [slice(int(b) * f, int(e) * f) for b, e, f in zip(begin, end, factors, strict=True)]


def copy_in_turn(
    out: torch.Tensor,
    rows: NDArray[np.int64],
    there: NDArray[np.int64],
    block: torch.Tensor,
    here: NDArray[np.int64],
    extent: NDArray[np.int64],
    lead: int,
    factors: Sequence[int],
) -> None:
    """Copy boxes of a chunk into windows, one after the other: what a CPU is fast at.

    Parameters
    ----------
    out : (windows, *lead, *extent of a window)
        Is written to.
    rows : (boxes,)
        Window of each box.
    there, here : (boxes, axes)
        Where boxes begin in their windows and in the block, in patches.
    block : (*lead, *extent of a chunk)
        What is copied.
    extent : (axes,)
        Patches of each box.
    lead
        Number of axes that are copied whole.
    factors
        Entries of a patch along every axis.
    """
    target, source, whole = out.numpy(), block.numpy(), [slice(None)] * lead
    for k, to, at in zip(rows.tolist(), there, here, strict=True):
        target[(k, *whole, *spans(to, to + extent, factors))] = source[(*whole, *spans(at, at + extent, factors))]


def copy_at_once(
    out: torch.Tensor,
    rows: NDArray[np.int64],
    there: NDArray[np.int64],
    block: torch.Tensor,
    here: NDArray[np.int64],
    extent: NDArray[np.int64],
    lead: int,
    factors: Sequence[int],
) -> None:
    """`copy_in_turn` with few kernels of a device, however many boxes there are."""
    ones = [1] * len(factors)
    windows, to, at = upload(out.device, rows, there, here)

    def along(begin: torch.Tensor) -> list[torch.Tensor]:
        """Indices of every axis, which broadcast to (boxes, *extent)."""
        found = []
        for axis, (n, factor) in enumerate(zip(extent.tolist(), factors, strict=True)):
            steps = torch.arange(n * factor, device=begin.device)
            shape = [len(begin), *ones]
            shape[1 + axis] = n * factor
            found.append((begin[:, axis, None] * factor + steps).view(shape))
        return found

    whole: list[Any] = [slice(None)] * lead
    boxes = block[(*whole, *along(at))]
    out[(windows.view(-1, *ones), *whole, *along(to))] = boxes.movedim(0, -1) if lead else boxes


def aligned(
    latents: xr.DataArray,
    labels: xr.DataArray,
    batch: Sequence[Hashable],
    patches: Sequence[Hashable],
    chunks: Sequence[int],
) -> tuple[tuple[int, ...], xr.DataArray]:
    """Labels of a patch along every dimension, and the labels with the dimensions of the latents in their order.

    `chunks` has the patches of a chunk along every dimension of patches.
    """
    samples = [str(d).removesuffix("_patch") for d in patches]
    if set(patches) <= set(labels.dims):
        names, factors = list(patches), [1] * len(patches)
    elif set(samples) <= set(labels.dims):
        names, factors = list(samples), list(latents.attrs.get("patch", ()))
        if not factors:
            raise ConfigError(
                "Expected latents with the attribute 'patch', the samples of one, for labels of samples. Got none: "
                "chunks of the store are no multiples of 2^levels, or the attribute was lost."
            )
    else:
        raise ConfigError(f"Expected labels with dimensions {tuple(patches)} or {tuple(samples)}. Got {labels.dims}.")
    unknown = [d for d in labels.dims if d not in (*names, *batch)]
    if unknown:
        raise ConfigError(f"Expected labels with dimensions among {(*batch, *names)}. Got {labels.dims}.")
    sizes = [labels.sizes[d] for d in names]
    most = [latents.sizes[d] * f for d, f in zip(patches, factors, strict=True)]
    least = [m - chunk * f + 1 for m, chunk, f in zip(most, chunks, factors, strict=True)]  # the last chunk is padded
    if names == list(patches):
        least = most
    if any(not low <= n <= high for low, n, high in zip(least, sizes, most, strict=True)):
        raise ConfigError(f"Expected labels of extent {least} to {most}, like the latents. Got {sizes}.")
    full = labels.expand_dims({d: latents.sizes[d] for d in batch if d not in labels.dims}).transpose(*batch, *names)
    return (*(1 for _ in batch), *factors), full
