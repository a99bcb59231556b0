"""Latents of a store, to learn from: integers on a grid of patches, read lazily; no decoder runs.

Frames are found as `xwalloc info` finds them, and entropy decoded. What a latent means follows from the model: where
all chunks share one and its quality target is a step, latents of all chunks are comparable; where chunks carry their
own models, they are not, and the attribute ``comparable`` says so.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from xarray.core import indexing

from xwalloc.bitstream.frame import Frame, Mode, Section
from xwalloc.blocks import BlockArray, open_variable
from xwalloc.codec import learned_mode, transform_sections
from xwalloc.codec.layout import Layout, unpack_mask
from xwalloc.codec.transform_sections import Models
from xwalloc.errors import ConfigError, FormatError
from xwalloc.models import adapt, library
from xwalloc.models.latents import as_patches, chosen
from xwalloc.models.model import PUBLISHED, Model
from xwalloc.models.patches import labels, patch_grid
from xwalloc.models.published import BORDER, Published
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
        the centres of patches are, if the variable has coordinates. Attributes say which ``model`` made them, whether
        they are ``comparable`` from chunk to chunk and then their ``step``, and how many samples a ``patch`` has, where
        patches tile the variable without gaps. Latents of a published model have no components and no step; a chunk of
        a series has one before its first patch and one behind its last. Nothing is read before it is used;
        ``.chunk(da.encoding["preferred_chunks"])`` gives an array of Dask.

    Raises
    ------
    ConfigError
        If there is no such variable, or xwalloc does not encode it. Reading raises `FormatError` for damaged chunks and
        for chunks without latents: those in lattice mode, which tight bounds prefer.
    """
    array, opened = open_variable(store, variable, group)
    return LatentArray(array, dequantised).labelled(opened)


def decode_latents(latents: xr.DataArray, model: Model, shape: tuple[int, ...] | None = None) -> xr.DataArray:
    """Samples of latents that `open_latents` returned for a store with a model; the function form of `Model.decode`.

    Chunks are decoded each by itself, as they were encoded: coordinates (``y_chunk``) say which patches belong
    together, and a selection must hold whole chunks.
    """
    decoded: xr.DataArray = model.decode(latents, shape)
    return decoded


class LatentArray(BlockArray):
    """Latents of the chunks of an array, (*batch, latent, *patches), read chunk by chunk."""

    def __init__(self, array: zarr.Array[Any], dequantised: bool) -> None:
        super().__init__(array)
        config, self.dequantised = self.config, dequantised
        self.model = None if config.model is None else library.resolve(config.model)
        self.network = self.model.published if self.model is not None and self.model.kind == PUBLISHED else None
        self.comparable = self.model is not None and config.step is not None
        self.dtype = np.dtype(np.float32 if dequantised else np.int32)
        self.batch = [a for a in range(array.ndim) if a not in self.signal and a != config.channel_axis]
        signal = [array.chunks[a] for a in self.signal]
        z, y, x = [1] * (3 - len(signal)) + signal
        channels = 1 if config.channel_axis is None else array.chunks[config.channel_axis]
        if self.network is not None:
            small = array.dtype.kind in "iu" and array.dtype.itemsize == 1
            self.comparable = self.comparable and (small or self.network.limits is not None)
            self.count, self.patches = self.network.architecture.latent_channels, self.network.latent_signal(signal)
        else:
            if self.model is not None:
                self.grid = self.model.fitted.grid((z, y, x))
            else:
                self.grid = Grid(
                    signal=padded((z, y, x), config.levels, config.tree, config.boundary), dimensions=len(signal),
                    levels=config.levels, tree=config.tree, boundary=config.boundary, wavelet=config.wavelet,
                )  # fmt: skip
            self.rank = self.model.fitted.rank if self.model is not None and self.comparable else channels
            if self.comparable and self.model is not None:
                self.kept = chosen(self.model.fitted, self.grid)
            else:
                self.kept = np.ones((self.rank, len(labels(self.grid.plan))), np.bool_)
            self.count, self.patches = int(self.kept.sum()), patch_grid(self.grid.plan)[3 - len(signal) :]
        if config.channel_axis is not None and self.blocks[config.channel_axis] > 1:
            raise ConfigError("Expected chunks that hold all channels. Got several along the channel axis.")
        patches = [self.blocks[a] * n for a, n in zip(self.signal, self.patches, strict=True)]
        self.shape = (*(array.shape[a] for a in self.batch), self.count, *patches)
        self.sizes = (*(array.chunks[a] for a in self.batch), self.shape[len(self.batch)], *self.patches)

    def block(self, place: tuple[int, ...]) -> NDArray[Any]:
        """Latents of one chunk, (*batch, latent, *patches)."""
        start = dict(
            zip([*self.batch, *self.signal], [*place[: len(self.batch)], *place[len(self.batch) + 1 :]], strict=True)
        )
        return self.of_frame(tuple(start.get(a, 0) for a in range(self.array.ndim))).reshape(self.sizes)

    def decoded(self, data: bytes) -> NDArray[Any]:
        """Latents (batch, latent, *patches) of a frame."""
        frame = self.parsed(data)
        header = frame.header
        layout = Layout(header.shape, header.roles)
        own = Mode.TRANSFORM if self.network is None else Mode.LEARNED
        if header.mode != own:
            if Section.MASK in frame.sections:
                mask, _ = unpack_mask(frame.sections[Section.MASK], layout.canonical, header.dtype.itemsize)
                if mask.all():  # nothing but NaN and nodata
                    return np.zeros(self.sizes, self.dtype)
            remedy = (
                "Write the array with a model that was fitted for snr, bits, ratio or latents, or with a published "
                "one, without a bound."
            )
            if header.mode == Mode.STORED:
                remedy = "Chunks of so few samples are stored as they are: write larger ones."
            raise FormatError(
                f"Expected a chunk in {own.name.lower()} mode. Got one in {header.mode.name.lower()} mode, which has "
                f"no latents{' of the model' if self.network else ''}. {remedy}"
            )
        models = partial(library.find, reference=self.config.model)
        if self.network is not None:
            return self.learned(self.network, frame, layout, models)
        contents = transform_sections.read(frame.sections, layout.canonical, layout.dimensions, models)
        symbols = contents.symbols()
        if contents.model.grid.plan != self.grid.plan or symbols.shape[1] > self.rank:
            raise FormatError("The frame has another transform than the metadata of its array say.")
        if not self.dequantised:
            return as_patches(symbols, self.grid, self.rank, self.kept)
        unit = contents.finish.unit if contents.finish.fraction is None else 2.0**-contents.finish.fraction
        points = np.array([0, *contents.model.points])[np.minimum(np.abs(symbols), 3)]
        values = (symbols.astype(np.float64) * contents.model.quantum + np.sign(symbols) * points) * unit
        return as_patches(values.astype(np.float32), self.grid, self.rank, self.kept)

    def learned(self, network: Published, frame: Frame, layout: Layout, models: Models) -> NDArray[Any]:
        """Latents (batch, latent, *positions) of a frame of a published model."""
        contents = learned_mode.read_latents(frame.sections, layout.canonical, layout.dimensions, models)
        if contents.published.architecture != network.architecture:
            raise FormatError("The frame has another model than the metadata of its array say.")
        if not self.dequantised:
            return contents.latents
        return (network.normal(contents.latents) * contents.scale).astype(np.float32)

    def labelled(self, variable: xr.DataArray) -> xr.DataArray:
        """The latents with dimensions, coordinates and attributes."""
        names = [str(variable.dims[a]) for a in self.signal]
        batch = [str(variable.dims[a]) for a in self.batch]
        dims = (*batch, adapt.LATENT, *adapt.patch_dims(names))
        coords: dict[Any, Any] = {dim: variable.coords[dim] for dim in batch if dim in variable.coords}
        if self.network is None:
            marks = labels(self.grid.plan)
            component, place = np.nonzero(self.kept)
            axes = 3 - len(names)
            coords["component"] = (adapt.LATENT, component)
            coords["level"] = (adapt.LATENT, np.array([label.level for label in marks])[place])
            words = ["".join(map(str, label.orientation[axes:])) for label in marks]
            coords["orientation"] = (adapt.LATENT, np.array(words)[place])
            widths, border = [1 << splits for splits in self.grid.plan.splits[axes:]], 0
        else:  # a series has a latent before its first patch, and one behind the last
            widths, border = [self.network.patch] * len(names), BORDER[len(names)] // 2
        for name, axis, count, width in zip(names, self.signal, self.patches, widths, strict=True):
            chunk = {"samples": self.array.chunks[axis], "extent": self.array.shape[axis]}
            numbers = np.repeat(np.arange(self.blocks[axis]), count)
            coords[adapt.chunk_coordinate(name)] = (f"{name}_patch", numbers, chunk)
            if name in variable.coords and variable.coords[name].dims == (name,):
                first = (width - 1) / 2 - border * width
                centres = self.positions(variable.coords[name].values, axis, count, width, first)
                if centres is not None:
                    coords[f"{name}_patch"] = (f"{name}_patch", centres, variable.coords[name].attrs)
        for key, coordinate in variable.coords.items():
            if coordinate.ndim == 0:  # the CRS among them
                coords[key] = coordinate
        attrs = {"comparable": int(self.comparable), "long_name": f"latents of {variable.name}"}
        attrs["model"] = self.model.id if self.model is not None else "self-fitted"
        if self.comparable and self.network is None:
            attrs["step"] = self.config.step
        chunks = [self.array.chunks[a] for a in self.signal]
        if not border and all(
            self.blocks[a] == 1 or n % w == 0 for a, n, w in zip(self.signal, chunks, widths, strict=True)
        ):
            attrs["patch"] = widths
        lazy = xr.Variable(dims, indexing.LazilyIndexedArray(self), attrs)
        found = xr.DataArray(lazy, coords=coords, name=variable.name)
        found.encoding["preferred_chunks"] = dict(zip(dims, self.sizes, strict=True))
        return found
