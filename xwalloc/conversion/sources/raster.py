"""Rasters as sources: whatever GDAL reads."""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xwalloc.conversion.sources.bands import band_metadata
from xwalloc.conversion.sources.base import Region, Source, placeholder
from xwalloc.conversion.sources.files import Files, filesystem, head, is_url, listed, stamp
from xwalloc.conversion.sources.grid import grid_metadata
from xwalloc.conversion.sources.handles import Handles
from xwalloc.errors import ConfigError

__all__ = ["ENVI_SUFFIXES", "VARIABLE", "RasterSource", "envi_data", "envi_header"]

VARIABLE = "band_data"
"""Name of the one variable of a raster."""

ENVI_SUFFIXES = ("", ".raw", ".img", ".dat", ".bil", ".bip", ".bsq", ".bin", ".cube", ".rfl", ".envi", ".sli")
"""Suffixes of data files beside the header of ENVI, in lower case."""

_CACHE = 64  # MB of blocks that GDAL keeps in a process, so that memory can be planned
_PER_THREAD = threading.local()


class RasterSource(Source):
    """A raster: one variable with dimensions band, y and x, its values as they are stored.

    Parameters
    ----------
    url
        Path, URL, or name of a sub-dataset as GDAL writes it. Of a pair of ENVI either file.
    """

    named = True
    cache = _CACHE << 20

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.name = os.fspath(url)
        self._found: str | None = None

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """The raster, open in this thread: GDAL wants one per thread, and keeps those on a disk for the next read.

        What lies elsewhere is closed again: rasterio reads Python's files through a registry of the context that they
        were opened in, which Dask changes with every task, and crashes where a thread ends with one still open.
        """
        data = self._data()
        if is_url(data):
            with _open(data) as raster:
                yield raster
        else:
            handles: Handles[Any] | None = getattr(_PER_THREAD, "handles", None)
            if handles is None:
                handles = _PER_THREAD.handles = Handles(8, lambda raster: raster.close())
            changed = os.stat(data).st_mtime_ns if os.path.exists(data) else None
            yield handles.get((data, changed), lambda: _open(data))

    def check(self) -> None:
        """Open it.

        Raises
        ------
        ConfigError
            If that fails; the message says why.
        """
        with self._checked():
            pass

    @contextmanager
    def _checked(self) -> Iterator[Any]:
        try:
            with self.opened() as raster:
                if raster.count == 0:
                    inside = ", ".join(raster.subdatasets)
                    raise ConfigError(f"{self.name} has no bands of its own. Give one of its sub-datasets: {inside}.")
                yield raster
        except OSError as error:
            raise ConfigError(f"{self.name} cannot be read: {error}") from error

    def template(self) -> xr.Dataset:
        """Bands, grid, CRS, nodata, scale and wavelengths, as rioxarray would find them in a store."""
        with self._checked() as raster:
            dtype, shape = _dtype(raster), (raster.count, *raster.shape)
            bands, attrs = band_metadata(raster, dtype, self.name)
            grid = grid_metadata(raster, self.name)
        attrs = {**attrs, "grid_mapping": "spatial_ref"} if "spatial_ref" in grid.coords else attrs
        data = (("band", "y", "x"), placeholder(shape, dtype), attrs)
        return xr.Dataset({VARIABLE: data}, {**bands, **grid.coords}, grid.attrs)

    def read(self, variable: Hashable, region: Region) -> NDArray[Any]:
        """Part of the raster."""
        import rasterio
        from rasterio.windows import Window

        bands, rows, columns = region
        shape = tuple(part.stop - part.start for part in region)
        window = Window(columns.start, rows.start, shape[2], shape[1])
        indexes = list(range(bands.start + 1, bands.stop + 1))
        with rasterio.Env(GDAL_CACHEMAX=_CACHE), self.opened() as raster:
            dtype = _dtype(raster)
            if 0 in shape:
                return np.empty(shape, dtype)
            return np.asarray(raster.read(indexes, window=window, out_dtype=dtype))

    def identity(self) -> dict[str, Any]:
        """Path, size and time of change; of ENVI those of the header as well, of sub-datasets the name."""
        if re.match(r"[A-Z0-9_]{2,}:(?!//)", self.name):
            return {"path": self.name}
        data = self._data()
        facts = stamp(data)
        header = envi_header(data)
        return facts if header is None else {**facts, "header": stamp(header)}

    def blocks(self, variable: Hashable) -> tuple[int, ...] | None:
        """Blocks of GDAL, with all bands where these lie side by side."""
        with self.opened() as raster:
            rows, columns = (max(sizes) for sizes in zip(*raster.block_shapes, strict=True))
            layout = raster.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE", "BAND")
            return (1 if layout == "BAND" else raster.count), rows, columns

    def _data(self) -> str:
        """The file that GDAL opens, looked for once."""
        if self._found is None:
            self._found = envi_data(self.name) if self.name.lower().endswith(".hdr") else self.name
        return self._found


def envi_data(header: str) -> str:
    """The data file beside a header of ENVI.

    Raises
    ------
    ConfigError
        If it is none, or there is no data file.
    """
    if not head(header, 4) == b"ENVI":
        raise ConfigError(
            f"Expected a header of ENVI, whose first word is ENVI. Got {header}: give the data file instead."
        )
    whole = header[: -len(".hdr")]
    folder = header[: -len(header.replace("\\", "/").rsplit("/", 1)[-1])]
    beside = {path.rstrip("/"): path for path in listed(folder or ".")}
    names = {_name(path): path for path in beside}
    for suffix in ENVI_SUFFIXES:
        for candidate in (_name(whole) + suffix, _name(whole) + suffix.upper()):
            if candidate in names:
                return names[candidate]
    raise ConfigError(
        f"Expected the data of {header} beside it, called {_name(whole)} with one of the suffixes "
        f"{', '.join(filter(None, ENVI_SUFFIXES))} or none. There is none: put it there, or give the data file."
    )


def _name(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def envi_header(data: str) -> str | None:
    """The header of ENVI beside a data file on a disk, if there is one."""
    for header in (Path(data).with_suffix(".hdr"), Path(f"{data}.hdr")):
        if not is_url(data) and header.is_file() and str(header) != data:
            return str(header)
    return None


def _open(path: str) -> Any:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    # for the whole process, as undoing it again would race with other threads; templates log what is missing
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    with rasterio.Env(GDAL_CACHEMAX=_CACHE, GDAL_DISABLE_READDIR_ON_OPEN=is_url(path)):
        if not is_url(path):
            return rasterio.open(path)
        # through fsspec, as all other sources; GDAL's own way over the network stops all Python while it opens a file
        files, inside = filesystem(path)
        return rasterio.open(inside, opener=Files(files))


def _dtype(raster: Any) -> np.dtype[Any]:
    """The dtype that holds the values of all bands."""
    names = {"complex_int16": "complex64"}
    return np.result_type(*{np.dtype(names.get(name, name)) for name in raster.dtypes})
