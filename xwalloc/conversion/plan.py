"""What a conversion will do: arrays, units of work, and the memory that they take.

The unit of work is what one task writes whole, a shard or else a chunk: it has one writer.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from xarray.conventions import decode_cf_variable

from xwalloc.codec.config import CodecConfig
from xwalloc.conversion.shares import Share, shares_of
from xwalloc.conversion.sources.base import Region, Source, placeholder
from xwalloc.conversion.sources.find import Granule
from xwalloc.errors import ConfigError
from xwalloc.models.model import Model, ModelReference
from xwalloc.types import cached_property
from xwalloc.xarray.grid import Grid
from xwalloc.xarray.plan import Plan as VariablePlan
from xwalloc.xarray.plan import Request, parse_quality, plan_each

__all__ = ["ArrayPlan", "Plan", "UnitId", "make_plan", "with_shards"]

logger = logging.getLogger(__name__)

LARGEST_CHUNK = 8 << 20
"""Bytes of chunks of variables that xwalloc does not encode."""

LONGEST_NAME = 180
"""Bytes of the name of a variable; files are called after it, with more behind it, and 255 is their limit."""

RESERVED = {"_xwalloc", "zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"}
"""Names that something else has in a group."""

UnitId = tuple[int, tuple[int, ...]]
"""Number of an array, and place in the grid of its units."""


@dataclass(frozen=True, kw_only=True)
class ArrayPlan:
    """One array that units are written of.

    Parameters
    ----------
    granule
        Number of the granule that it comes from.
    group, variable
        Its place in the store.
    dims, shape, dtype
        As stored.
    grid
        Its chunks and shards.
    config
        Configuration of our codec; None where another one stores it exactly.
    """

    granule: int
    group: str
    variable: Hashable
    dims: tuple[Hashable, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    grid: Grid
    config: CodecConfig | None

    @property
    def path(self) -> str:
        """Path of the array in the store."""
        return f"{self.group}/{self.variable}" if self.group else str(self.variable)

    @property
    def nbytes(self) -> int:
        """Bytes of all samples."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def units(self) -> tuple[int, ...]:
        """Number of units along every axis."""
        return tuple(-(-n // size) for n, size in zip(self.shape, self.grid.unit, strict=True))

    def places(self) -> Iterator[tuple[int, ...]]:
        """Places in the grid of units."""
        return itertools.product(*map(range, self.units))

    def region(self, place: tuple[int, ...]) -> Region:
        """Samples of a unit."""
        return tuple(
            slice(p * size, min((p + 1) * size, n))
            for p, size, n in zip(place, self.grid.unit, self.shape, strict=True)
        )

    def unit_name(self, place: tuple[int, ...]) -> str:
        """Name of a unit in the manifest."""
        return ".".join([self.path, *map(str, place)])

    @property
    def unit_nbytes(self) -> int:
        """Bytes of samples of a whole unit."""
        return math.prod(self.grid.unit) * self.dtype.itemsize

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of samples of a chunk."""
        return math.prod(self.grid.chunks) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A conversion, planned; nothing is written yet.

    Parameters
    ----------
    granules
        What is read.
    templates
        Of each granule, its dataset with placeholders for values (`Source.template`).
    arrays
        What is written, unit by unit.
    model
        The model that chunks share.
    zarr_format
        2 or 3.
    settings
        What the caller asked for, in JSON types.
    """

    granules: tuple[Granule, ...]
    templates: tuple[xr.Dataset, ...]
    arrays: tuple[ArrayPlan, ...]
    model: Model | None
    zarr_format: int
    settings: dict[str, Any]

    def unit_ids(self) -> Iterator[UnitId]:
        """All units, array by array."""
        for number, array in enumerate(self.arrays):
            for place in array.places():
                yield number, place

    @property
    def count(self) -> int:
        """Number of units."""
        return sum(math.prod(array.units) for array in self.arrays)

    @property
    def nbytes(self) -> int:
        """Bytes of all samples."""
        return sum(array.nbytes for array in self.arrays)

    def without(self, granules: Collection[int]) -> Plan:
        """The plan without some granules, by their numbers."""
        kept = [number for number in range(len(self.granules)) if number not in granules]
        arrays = [
            replace(array, granule=kept.index(array.granule)) for array in self.arrays if array.granule not in granules
        ]
        return replace(
            self,
            granules=tuple(self.granules[number] for number in kept),
            templates=tuple(self.templates[number] for number in kept),
            arrays=tuple(arrays),
        )

    @cached_property
    def description(self) -> dict[str, Any]:
        """What the store will hold, from where: of JSON types. Equal plans write equal stores."""
        arrays = {}
        for array in self.arrays:
            arrays[array.path] = {
                "dtype": str(array.dtype), "shape": array.shape, "chunks": array.grid.chunks,
                "shards": array.grid.shards, "codec": None if array.config is None else array.config.to_json(),
            }  # fmt: skip
        sources = {granule.path: granule.source.identity() for granule in self.granules}
        found = {"settings": self.settings, "zarr_format": self.zarr_format, "arrays": arrays, "sources": sources}
        return dict(json.loads(json.dumps(found, sort_keys=True, default=str)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the description."""
        return hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()


def make_plan(granules: tuple[Granule, ...], request: Request, settings: dict[str, Any]) -> Plan:
    """Plan the conversion of granules.

    Raises
    ------
    ConfigError
        If something is not possible; the message names the source and says what to do.
    """
    templates, arrays = [granule.source.template() for granule in granules], []
    for granule, template in zip(granules, templates, strict=True):
        check_names(template, granule.source.name)
    shares = shares_of(granules, [as_seen(template) for template in templates], request)
    for number, (granule, template) in enumerate(zip(granules, templates, strict=True)):
        try:
            planned = plan_granule(template, granule.source, shares[number])
        except ConfigError as error:
            raise type(error)(f"{error} (source {granule.source.name})") from None
        for name, variable in template.data_vars.items():
            if variable.dtype.kind not in "biufc":
                continue
            found = planned.get(name)
            arrays.append(
                ArrayPlan(
                    granule=number,
                    group=granule.path,
                    variable=name,
                    dims=variable.dims,
                    shape=variable.shape,
                    dtype=variable.dtype,
                    grid=plain_grid(variable) if found is None else found.grid,
                    config=None if found is None else found.config,
                )
            )
    say_packed(templates, arrays)
    return Plan(
        granules=granules, templates=tuple(templates), arrays=tuple(arrays), model=request.model,
        zarr_format=request.zarr_format, settings=settings,
    )  # fmt: skip


def say_packed(templates: list[xr.Dataset], arrays: list[ArrayPlan]) -> None:
    """Say which bounds are other numbers as stored: one meant in stored units can be larger than all values."""
    found = set()
    for array in arrays:
        bound = None if array.config is None else array.config.max_error
        if bound and (scale := scale_of(templates[array.granule][array.variable])) != 1:
            found.add((str(array.variable), bound * scale, scale, bound))
    for name, seen, scale, bound in sorted(found):
        logger.warning("%s has scale_factor %.6g: the bound %.6g is %.6g as stored.", name, scale, seen, bound)


def check_names(template: xr.Dataset, source: str) -> None:
    """Refuse variables whose names are no names of arrays, or too long for files."""
    for name in template.variables:
        fits = isinstance(name, str) and len(name.encode()) <= LONGEST_NAME and not {"/", "\\", "\0"} & set(name)
        if not fits or not str(name).strip(".") or str(name).startswith("__") or name in RESERVED:
            raise ConfigError(
                f"Expected names of variables to be texts of at most {LONGEST_NAME} bytes without '/' and '\\', and "
                f"none that Zarr uses itself. Got the name {name!r:.80} in {source}. Rename it: "
                "xarray.open_dataset(...).rename(...) can be given as a source."
            )


def plan_granule(template: xr.Dataset, source: Source, share: Share) -> dict[Hashable, VariablePlan]:
    """Grid and codec of the variables of a source that are compressed.

    Bounds are in the units that users see. What is packed is compressed as it is packed, so that no rounding of packing
    counts towards them.
    """
    qualities = {}
    for name, quality in share.qualities.items():
        if "max_error" in quality or quality.get("lossless"):
            bound = quality.get("max_error", 0.0) / scale_of(template[name]) - source.rounding(name)
            quality = parse_quality(max_error=max(0.0, bound))
        qualities[name] = quality
    return plan_each(template, qualities, share.request)


def as_seen(template: xr.Dataset) -> xr.Dataset:
    """A template with the dtypes that users see when CF packing is undone."""
    found = {}
    for name, variable in template.data_vars.items():
        sample = xr.Variable(variable.dims, np.zeros((1,) * variable.ndim, variable.dtype), variable.attrs)
        seen = decode_cf_variable(name, sample, decode_times=False)
        found[name] = xr.Variable(variable.dims, placeholder(variable.shape, seen.dtype), seen.attrs, variable.encoding)
    return template.assign(found)


def scale_of(variable: xr.DataArray) -> float:
    """How much of the units that users see is 1 as stored."""
    scale = float(np.ravel(variable.attrs.get("scale_factor", 1.0))[0])
    if not math.isfinite(scale) or scale == 0:
        raise ConfigError(f"Expected scale_factor of variable {variable.name!r} to be finite and not 0. Got {scale}.")
    return abs(scale)


def plain_grid(variable: xr.DataArray) -> Grid:
    """Chunks of a variable that another codec stores: the last axes whole."""
    size = list(variable.shape)
    for axis in range(len(size)):
        rest = math.prod(size[axis + 1 :]) * variable.dtype.itemsize
        size[axis] = max(1, min(size[axis], LARGEST_CHUNK // max(1, rest)))
    return Grid(chunks=tuple(max(1, n) for n in size))


def with_shards(plan: Plan, room: int, before: Mapping[str, Any] | None) -> Plan:
    """The plan with shards of as many chunks as there is room for; those of an earlier run stay as they were.

    Parameters
    ----------
    room
        Bytes of samples of a shard.
    before
        What the manifest says of the earlier run, if there was one.

    Raises
    ------
    ConfigError
        If the model is too large to be inline: it cannot be found from inside shards.
    """
    if plan.zarr_format == 2:
        raise ConfigError("Expected no shards with zarr_format 2, which has none. Leave shards out or use 3.")
    if plan.model is not None and ModelReference.of(plan.model).weights is None:
        raise ConfigError("Expected no shards with a model that lies beside the arrays. Leave shards out.")
    known = (before or {}).get("description", {}).get("arrays", {})
    arrays = []
    for array in plan.arrays:
        said = known.get(array.path, {}).get("shards")
        shards = shards_of(array, room) if said is None else tuple(said)
        arrays.append(replace(array, grid=replace(array.grid, shards=shards)))
    return replace(plan, arrays=tuple(arrays))


def shards_of(array: ArrayPlan, room: int) -> tuple[int, ...]:
    """Whole chunks, more and more along the axis that has the fewest of them in a shard, the last ones first."""
    chunks = array.grid.chunks
    counts = [1] * len(chunks)
    most = [-(-n // size) for n, size in zip(array.shape, chunks, strict=True)]
    while True:
        nbytes = math.prod(counts) * array.chunk_nbytes
        fits = [a for a, n in enumerate(counts) if n < most[a] and nbytes // n * min(2 * n, most[a]) <= room]
        if not fits:
            return tuple(n * size for n, size in zip(counts, chunks, strict=True))
        axis = min(reversed(fits), key=lambda a: counts[a])
        counts[axis] = min(2 * counts[axis], most[axis])
