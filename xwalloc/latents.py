"""Latents of a store, to learn from: integers on a grid of patches, read lazily; no decoder runs.

Frames are found as `xwalloc info` finds them, and entropy decoded. What a latent means follows from the model: where
all chunks share one and its quality target is a step, latents of all chunks are comparable; where chunks carry their
own models, they are not, and the attribute ``comparable`` says so.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from xwalloc.bitstream.frame import DecodeLimits, Frame, Mode, Section
from xwalloc.codec import transform_mode
from xwalloc.codec.config import CodecConfig
from xwalloc.codec.layout import Layout, unpack_mask
from xwalloc.errors import ConfigError, FormatError
from xwalloc.frames import configuration, watch
from xwalloc.models import adapt, library
from xwalloc.models.latents import as_patches, chosen
from xwalloc.models.model import Model
from xwalloc.models.patches import labels, patch_grid
from xwalloc.models.spec import Grid, padded

__all__ = ["decode_latents", "open_latents"]


def open_latents(store: Any, variable: str, *, dequantised: bool = False, group: str | None = None) -> xr.DataArray:
    """Latents of a variable that xwalloc compressed.

    Parameters
    ----------
    store
        Path, URL or Zarr store.
    variable
        Name of the array.
    dequantised
        Reconstructed latents as float32, in units of the samples, instead of integers.
    group
        Path of the group that holds the variable.

    Returns
    -------
    DataArray
        Dimensions are the batch dimensions of the variable, ``latent``, and for every signal dimension one of its
        patches (``y_patch``). Coordinates say what a latent is (``component``, ``level``, ``orientation``) and where
        the centres of patches are, if the variable has coordinates. Nothing is read before it is used;
        ``.chunk(da.encoding["preferred_chunks"])`` gives an array of Dask.

    Raises
    ------
    ConfigError
        If there is no such variable, or xwalloc does not encode it. Reading raises `FormatError` for damaged chunks and
        for chunks without latents: those in lattice mode, which tight bounds prefer.
    """
    try:
        node = zarr.open_group(store, mode="r", path=group or "")
        array = node[variable]
    except (FileNotFoundError, KeyError) as error:
        raise ConfigError(f"Expected array {variable!r} in {store}. Got none ({error}). Check its name.") from None
    if not isinstance(array, zarr.Array) or watch(array, lambda frame: None) is None:
        raise ConfigError(f"Expected {variable!r} to be an array that xwalloc encodes. Got {array}.")
    consolidated = node.metadata.consolidated_metadata is not None
    dataset = xr.open_zarr(store, group=group, chunks=None, consolidated=consolidated)
    source = LatentArray(array, CodecConfig.from_json(configuration(array)), dequantised)
    return source.labelled(dataset[variable])


def decode_latents(latents: xr.DataArray, model: Model, shape: tuple[int, ...] | None = None) -> xr.DataArray:
    """Samples of latents that `open_latents` returned for a store with a model; the function form of `Model.decode`."""
    decoded: xr.DataArray = model.decode(latents, shape)
    return decoded


class LatentArray(BackendArray):
    """Latents of the chunks of an array, (*batch, latent, *patches), read chunk by chunk."""

    def __init__(self, array: zarr.Array[Any], config: CodecConfig, dequantised: bool) -> None:
        self.array, self.config, self.dequantised = array, config, dequantised
        self.model = None if config.model is None else library.resolve(config.model)
        self.comparable = self.model is not None and config.step is not None
        self.dtype = np.dtype(np.float32 if dequantised else np.int32)
        axes = range(array.ndim)
        self.signal = config.signal_axes
        self.batch = [a for a in axes if a not in self.signal and a != config.channel_axis]
        signal = [array.chunks[a] for a in self.signal]
        z, y, x = [1] * (3 - len(signal)) + signal
        if self.model is not None:
            self.grid = self.model.fitted.grid((z, y, x))
        else:
            self.grid = Grid(
                signal=padded((z, y, x), config.levels, config.tree, config.boundary), dimensions=len(signal),
                levels=config.levels, tree=config.tree, boundary=config.boundary, wavelet=config.wavelet,
            )  # fmt: skip
        channels = 1 if config.channel_axis is None else array.chunks[config.channel_axis]
        self.rank = self.model.fitted.rank if self.model is not None and self.comparable else channels
        if self.comparable and self.model is not None:
            self.kept = chosen(self.model.fitted, self.grid)
        else:
            self.kept = np.ones((self.rank, len(labels(self.grid.plan))), np.bool_)
        self.patches = patch_grid(self.grid.plan)[3 - len(signal) :]
        self.blocks = {a: -(-array.shape[a] // array.chunks[a]) for a in axes}
        if config.channel_axis is not None and self.blocks[config.channel_axis] > 1:
            raise ConfigError("Expected chunks that hold all channels. Got several along the channel axis.")
        patches = [self.blocks[a] * n for a, n in zip(self.signal, self.patches, strict=True)]
        self.shape = (*(array.shape[a] for a in self.batch), int(self.kept.sum()), *patches)
        self.sizes = (*(array.chunks[a] for a in self.batch), self.shape[len(self.batch)], *self.patches)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        result: NDArray[Any] = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self.read
        )
        return result

    def read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        """A selection of slices and integers, from the chunks that it touches."""
        ranges = [
            range(n)[part] if isinstance(part, slice) else range(n)[part : part + 1 or None]
            for part, n in zip(key, self.shape, strict=True)
        ]
        out = np.zeros([len(r) for r in ranges], self.dtype)
        spread = [axis for axis in range(len(self.shape)) if axis != len(self.batch)]
        touched = [sorted({i // self.sizes[axis] for i in ranges[axis]}) for axis in spread]
        for place in np.ndindex(*(len(t) for t in touched)):
            chunk = [touched[i][p] for i, p in enumerate(place)]
            block = self.chunk(chunk)
            inner: list[Any] = []
            outer: list[Any] = []
            for axis, r in enumerate(ranges):
                if axis == len(self.batch):
                    inner.append(np.arange(r.start, r.stop, r.step))
                    outer.append(np.arange(len(r)))
                    continue
                start = chunk[spread.index(axis)] * self.sizes[axis]
                here = [(i - start, k) for k, i in enumerate(r) if start <= i < start + self.sizes[axis]]
                inner.append(np.array([i for i, _ in here], np.int64))
                outer.append(np.array([k for _, k in here], np.int64))
            out[np.ix_(*outer)] = block[np.ix_(*inner)]
        drop = tuple(0 if not isinstance(part, slice) else slice(None) for part in key)
        return out[drop]

    def chunk(self, place: list[int]) -> NDArray[Any]:
        """Latents of one chunk, (*batch, latent, *patches)."""
        frames: list[bytes] = []
        watched = watch(self.array, frames.append)
        start = dict(zip([*self.batch, *self.signal], place, strict=True))
        box = tuple(
            slice(start.get(a, 0) * n, min((start.get(a, 0) + 1) * n, self.array.shape[a]))
            for a, n in enumerate(self.array.chunks)
        )
        if watched is not None:
            watched[box]
        if not frames:  # a chunk that was never written
            return np.zeros(self.sizes, self.dtype)
        try:
            found = self.latents(frames[0])
        except FormatError as error:
            raise type(error)(f"{error} (chunk at {tuple(part.start for part in box)})") from error
        return found.reshape(self.sizes)

    def latents(self, data: bytes) -> NDArray[Any]:
        """Latents (batch, latent, *patches) of a frame."""
        nbytes = math.prod(self.array.chunks) * self.array.dtype.itemsize
        frame = Frame.parse(data, DecodeLimits(max_bytes=nbytes))
        header = frame.header
        if header.shape != tuple(self.array.chunks):
            raise FormatError(f"Expected a chunk of shape {self.array.chunks}. The frame holds one of {header.shape}.")
        layout = Layout(header.shape, header.roles)
        if header.mode != Mode.TRANSFORM:
            if Section.MASK in frame.sections:
                mask, _ = unpack_mask(frame.sections[Section.MASK], layout.canonical, header.dtype.itemsize)
                if mask.all():  # nothing but NaN and nodata
                    return np.zeros(self.sizes, self.dtype)
            raise FormatError(
                f"Expected a chunk in transform mode. Got one in {header.mode.name.lower()} mode, which has no "
                "latents. Write the array with a model that was fitted for snr, bits, ratio or latents."
            )
        models = partial(library.find, reference=self.config.model)
        contents = transform_mode.read(frame.sections, layout.canonical, layout.dimensions, models)
        symbols = contents.symbols()
        if contents.model.grid.plan != self.grid.plan or symbols.shape[1] > self.rank:
            raise FormatError("The frame has another transform than the metadata of its array say.")
        if not self.dequantised:
            return as_patches(symbols, self.grid, self.rank, self.kept)
        unit = contents.finish.unit if contents.finish.fraction is None else 2.0**-contents.finish.fraction
        points = np.array([0, *contents.model.points])[np.minimum(np.abs(symbols), 3)]
        values = (symbols.astype(np.float64) * contents.model.quantum + np.sign(symbols) * points) * unit
        return as_patches(values.astype(np.float32), self.grid, self.rank, self.kept)

    def labelled(self, variable: xr.DataArray) -> xr.DataArray:
        """The latents with dimensions, coordinates and attributes."""
        names = [str(variable.dims[a]) for a in self.signal]
        batch = [str(variable.dims[a]) for a in self.batch]
        dims = (*batch, adapt.LATENT, *adapt.patch_dims(names))
        coords: dict[Any, Any] = {dim: variable.coords[dim] for dim in batch if dim in variable.coords}
        marks = labels(self.grid.plan)
        component, place = np.nonzero(self.kept)
        axes = 3 - len(names)
        coords["component"] = (adapt.LATENT, component)
        coords["level"] = (adapt.LATENT, np.array([label.level for label in marks])[place])
        words = ["".join(map(str, label.orientation[axes:])) for label in marks]
        coords["orientation"] = (adapt.LATENT, np.array(words)[place])
        for name, axis, count in zip(names, self.signal, self.patches, strict=True):
            if name in variable.coords and variable.coords[name].dims == (name,):
                centres = self.centres(variable.coords[name].values, axis, count)
                if centres is not None:
                    coords[f"{name}_patch"] = (f"{name}_patch", centres, variable.coords[name].attrs)
        for key, coordinate in variable.coords.items():
            if coordinate.ndim == 0:  # the CRS among them
                coords[key] = coordinate
        attrs = {"comparable": int(self.comparable), "long_name": f"latents of {variable.name}"}
        attrs["model"] = self.model.id if self.model is not None else "self-fitted"
        lazy = xr.Variable(dims, indexing.LazilyIndexedArray(self), attrs)
        found = xr.DataArray(lazy, coords=coords, name=variable.name)
        found.encoding["preferred_chunks"] = dict(zip(dims, self.sizes, strict=True))
        return found

    def centres(self, values: NDArray[Any], axis: int, count: int) -> NDArray[np.float64] | None:
        """Coordinates of the centres of the patches along an axis; None where coordinates are no numbers."""
        if values.dtype.kind not in "iuf" or len(values) < 2:
            return None
        length, n = self.array.chunks[axis], len(values)
        patch = 1 << self.grid.plan.splits[3 - len(self.signal) + self.signal.index(axis)]
        within = np.arange(count) * patch + (patch - 1) / 2
        index = (np.arange(self.blocks[axis])[:, None] * length + within).reshape(-1)
        # Beyond the ends, the steps of the ends go on.
        inside = np.interp(index, np.arange(n), values)
        after = np.maximum(index - (n - 1), 0) * float(values[-1] - values[-2])
        result: NDArray[np.float64] = inside + after
        return result
