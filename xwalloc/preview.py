"""A coarse image of a variable, from the low-pass latents of its chunks: no full synthesis, no residual layer."""

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
from xwalloc.codec import transform_sections
from xwalloc.codec.config import as_number
from xwalloc.codec.decode import decode_frame
from xwalloc.codec.layout import Layout, unpack_mask
from xwalloc.errors import BudgetError, ConfigError, FormatError
from xwalloc.models import library
from xwalloc.models.linear import dequantised
from xwalloc.models.model import PUBLISHED
from xwalloc.types import in_turn

__all__ = ["open_preview"]

GAIN_BITS = 0.5
"""A level of the wavelet multiplies smooth signals by the square root of 2 along each axis."""


def open_preview(store: Any, variable: str, level: int = 3, *, group: str | None = None) -> xr.DataArray:
    """A coarse image of a variable that xwalloc compressed.

    Parameters
    ----------
    store
        Path, URL or Zarr store.
    variable
        Name of the array.
    level
        Cells have 2^level samples along every signal axis; 1 to the levels of the wavelet transform.
    group
        Path of the group that holds the variable.

    Returns
    -------
    DataArray
        float32, in units of the variable, with its dimensions; signal axes are shorter. A cell is a mean, about, of
        what lies around every 2^level-th sample of a chunk, whose coordinate it has; it is NaN where most of that is
        missing. No bound holds. Nothing is read before it is used.
        Chunks in lattice mode are decoded and averaged, which saves nothing.

    Raises
    ------
    ConfigError
        If there is no such variable, xwalloc does not encode it, or the level is not possible.
    """
    array, opened = open_variable(store, variable, group)
    return PreviewArray(array, level, opened).labelled(opened)


class PreviewArray(BlockArray):
    """Means of cells of the chunks of an array, about."""

    def __init__(self, array: zarr.Array[Any], level: int, opened: xr.DataArray) -> None:
        super().__init__(array)
        model = None if self.config.model is None else library.resolve(self.config.model)
        if model is not None and model.kind == PUBLISHED:
            raise ConfigError(
                "Expected an array of a linear model, whose low-pass latents are a coarse image. Got one of a "
                "published WaLLoC model, which mixes subbands. Decode it and use .coarsen(...).mean()."
            )
        levels = self.config.levels if model is None else model.levels
        number = as_number(level)
        if not isinstance(number, int) or not 1 <= number <= levels:
            raise ConfigError(
                f"Expected level to be an integer from 1 to {levels}, the levels of the transform. Got {level!r}."
            )
        self.level = number
        self.dtype = np.dtype(np.float32)
        cell = 1 << number
        odd = [array.chunks[a] for a in self.signal if array.chunks[a] % cell and self.blocks[a] > 1]
        if odd:
            raise ConfigError(f"Expected chunks of multiples of {cell} samples. Got {odd}. Choose a lower level.")
        ceil = {a: -(-array.chunks[a] // cell) for a in self.signal}
        self.sizes = tuple(ceil.get(a, n) for a, n in enumerate(array.chunks))
        self.shape = tuple(-(-n // cell) if a in self.signal else n for a, n in enumerate(array.shape))
        self.scale = float(np.ravel(opened.encoding.get("scale_factor", 1.0))[0])
        self.offset = float(np.ravel(opened.encoding.get("add_offset", 0.0))[0])

    def missing(self) -> NDArray[Any]:
        """NaN, for a chunk that was never written."""
        return np.full(self.sizes, np.nan, np.float32)

    def block(self, place: tuple[int, ...]) -> NDArray[Any]:
        """The cells of a chunk."""
        return self.of_frame(place)

    def decoded(self, data: bytes) -> NDArray[Any]:
        """Cells of a frame, as stored axes have them, in units of the variable."""
        frame = self.parsed(data)
        layout = Layout(frame.header.shape, frame.header.roles)
        if frame.header.mode == Mode.TRANSFORM:
            cells = self.low_pass(frame, layout)
        else:
            cells = self.averaged(data, frame, layout)
        shape = [self.sizes[a] for a in layout.order]
        moved = cells.reshape(shape).transpose(np.argsort(layout.order))
        with np.errstate(over="ignore"):
            return (moved * self.scale + self.offset).astype(np.float32)

    def low_pass(self, frame: Frame, layout: Layout) -> NDArray[np.float64]:
        """Cells (batch, channel, z, y, x) from the coarse latents of a frame."""
        models = partial(library.find, reference=self.config.model)
        contents = transform_sections.read(frame.sections, layout.canonical, layout.dimensions, models)
        model = contents.model
        splits = [min(self.level, n) for n in model.grid.plan.splits]
        z, y, x = (-(-n // (1 << s)) for n, s in zip(model.grid.signal, splits, strict=True))
        grid = model.grid.cropped((z, y, x)).with_levels(max(0, model.grid.levels - self.level))
        symbols = np.ascontiguousarray(contents.symbols()[:, :, :z, :y, :x])
        try:
            latents = grid.inverse(dequantised(model, symbols), model.filter_shift, in_turn)
        except BudgetError as error:
            raise FormatError(f"The symbols of the frame are impossible: {error}") from None
        basis = np.ldexp(model.matrix, -model.shift)
        flat = latents.reshape(*latents.shape[:2], -1) * 2.0 ** (-GAIN_BITS * sum(splits))
        units = basis @ flat + model.mean_units[:, None]
        finish = contents.finish
        unit = finish.unit if finish.fraction is None else 2.0**-finish.fraction
        scales = np.ones((layout.canonical[1], 1)) if finish.scales is None else finish.scales[:, None]
        cells = (units * unit * scales).reshape(*layout.canonical[:2], z, y, x)
        if Section.MASK in frame.sections:
            mask, _ = unpack_mask(
                frame.sections[Section.MASK], layout.canonical, frame.header.dtype.newbyteorder("=").itemsize
            )
            known = self.means((mask == 0).astype(np.float64), layout)
            cells = cells[tuple(slice(0, n) for n in known.shape)]
            cells[known < 0.5] = np.nan
        small = [-(-n // (1 << self.level)) if n > 1 else 1 for n in layout.canonical[2:]]
        return fitted_to(cells, small)

    def averaged(self, data: bytes, frame: Frame, layout: Layout) -> NDArray[np.float64]:
        """Cells (batch, channel, z, y, x) of a frame that has no latents: it is decoded."""
        samples = layout.arrange(decode_frame(data, model=self.config.model)).astype(np.float64)
        known = np.isfinite(samples)
        if frame.header.nodata is not None:
            plain = frame.header.dtype.newbyteorder("=")
            known &= samples != float(np.array(frame.header.nodata, f"u{plain.itemsize}").view(plain))
        share = self.means(known.astype(np.float64), layout)
        with np.errstate(invalid="ignore", divide="ignore"):
            cells = self.means(np.where(known, samples, 0.0), layout) / share
        cells[share < 0.5] = np.nan
        return cells

    def means(self, samples: NDArray[np.float64], layout: Layout) -> NDArray[np.float64]:
        """Means of samples (batch, channel, z, y, x) around every 2^level-th one: the cells that the wavelet has."""
        for axis in range(5 - layout.dimensions, 5):
            n, cell = samples.shape[axis], 1 << self.level
            starts = np.maximum(np.arange(0, n, cell) - cell // 2, 0)
            counts = np.diff([*starts, n])
            sums = np.add.reduceat(samples, starts, axis=axis)
            samples = sums / counts.reshape([-1 if a == axis else 1 for a in range(5)])
        return samples

    def labelled(self, opened: xr.DataArray) -> xr.DataArray:
        """The cells with dimensions, coordinates and attributes."""
        coords: dict[Any, Any] = {}
        signal = [opened.dims[a] for a in self.signal]
        for name, coordinate in opened.coords.items():
            if name in signal and coordinate.dims == (name,):
                axis = opened.dims.index(name)
                found = self.positions(coordinate.values, axis, self.sizes[axis], 1 << self.level, 0)
                if found is not None:
                    coords[name] = (name, found[: self.shape[axis]], coordinate.attrs)
            elif not set(coordinate.dims) & set(signal):
                coords[name] = coordinate
        attrs = {key: value for key, value in opened.attrs.items() if not key.startswith("valid_")}
        lazy = xr.Variable(opened.dims, indexing.LazilyIndexedArray(self), attrs)
        preview = xr.DataArray(lazy, coords=coords, name=opened.name)
        preview.encoding["preferred_chunks"] = dict(zip(opened.dims, self.sizes, strict=True))
        return preview


def fitted_to(cells: NDArray[np.float64], signal: list[int]) -> NDArray[np.float64]:
    """Cells cut to an extent, or, on axes that were split less often, averaged to it."""
    for axis, count in enumerate(signal, start=2):
        n = cells.shape[axis]
        if n > count:
            times = -(-n // count)
            starts = np.arange(0, n, times)[:count]
            cells = np.add.reduceat(cells, starts, axis=axis)
            sizes = np.diff([*starts, n])
            cells = cells / sizes.reshape([-1 if a == axis else 1 for a in range(5)])
    return cells
