"""Several granules as one source, along a dimension."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xwalloc.conversion.sources.agree import FILLS, check_alike, common, is_number, same
from xwalloc.conversion.sources.base import Region, Source, placeholder
from xwalloc.conversion.sources.files import stem
from xwalloc.conversion.sources.raster import RasterSource
from xwalloc.conversion.sources.times import in_units_of
from xwalloc.errors import ConfigError

__all__ = ["THREADS", "StackSource"]

logger = logging.getLogger("xwalloc")

THREADS = 8
"""How many sources are opened at once to see what is in them."""


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How parts lie in the whole; what workers need of a template.

    Attributes
    ----------
    new
        Whether the dimension is a new one.
    lengths
        Of each source, along the dimension.
    axes
        Of each variable that has the dimension, where it is.
    """

    new: bool
    lengths: tuple[int, ...]
    axes: dict[Hashable, int]


class StackSource(Source):
    """Granules behind each other along a dimension that all of them have, or along a new one, the first.

    Parameters
    ----------
    sources
        At least one. They must have the same variables, dtypes, sizes, coordinates, CRS and grid apart from `dim`.
    dim
        Name of the dimension. A new one gets the granules' scalar coordinate of that name, else the names of the
        files without suffix. Scalar coordinates that differ from granule to granule lie along it too.

    Notes
    -----
    Variables without an existing dimension `dim` are taken from the first source. Attributes that differ, but do not
    change what values mean, are left out.
    """

    def __init__(self, sources: Sequence[Source], dim: str) -> None:
        if not sources:
            raise ConfigError("Expected sources to put behind each other. Got none.")
        self.sources, self.dim = tuple(sources), dim
        self.name = f"{len(self.sources)} sources along {dim!r}, from {self.sources[0].name}"
        self.named = all(source.named for source in self.sources)
        self.cache = max(source.cache for source in self.sources)
        self._made: tuple[xr.Dataset, _Layout] | None = None
        self._known: _Layout | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}

    def template(self) -> xr.Dataset:
        """The first source's, longer; each source is opened once.

        Raises
        ------
        ConfigError
            If a source cannot be read, or differs from the first; the message says which, and in what.
        """
        if self._made is None:
            self._made = self._make()
            self._known = self._made[1]
        return self._made[0].copy(deep=False)

    def read(self, variable: Hashable, region: Region) -> NDArray[Any]:
        """Part of a variable, of those sources only that the region crosses."""
        layout = self._layout()
        if variable not in layout.axes:
            return self.sources[0].read(variable, region)
        axis = layout.axes[variable]
        wanted = region[axis]
        parts = []
        for source, length, end in zip(self.sources, layout.lengths, accumulate(layout.lengths), strict=True):
            low = max(wanted.start - (end - length), 0)
            high = min(wanted.stop - (end - length), length)
            if low >= high and not (wanted.start == wanted.stop and source is self.sources[0]):
                continue
            if layout.new:
                parts.append(source.read(variable, region[1:])[None][: max(high - low, 0)])
            else:
                inside = slice(low, max(high, low))
                parts.append(source.read(variable, (*region[:axis], inside, *region[axis + 1 :])))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)

    def identity(self) -> dict[str, Any]:
        """How many there are, and a hash of what tells them from others."""
        with ThreadPoolExecutor(THREADS) as pool:
            each = list(pool.map(lambda source: source.identity(), self.sources))
        digest = hashlib.sha256(json.dumps(each, sort_keys=True).encode()).hexdigest()
        return {"along": self.dim, "count": len(each), "sources": digest}

    def blocks(self, variable: Hashable) -> tuple[int, ...] | None:
        """Pieces of the first source; along a new dimension one by one."""
        layout, blocks = self._layout(), self.sources[0].blocks(variable)
        return (1, *blocks) if blocks is not None and layout.new and variable in layout.axes else blocks

    def _layout(self) -> _Layout:
        if self._known is None:
            self.template()
        if self._known is None:  # pragma: no cover (the template has set it)
            raise RuntimeError("A template without a layout.")
        return self._known

    def _make(self) -> tuple[xr.Dataset, _Layout]:
        first, names = self.sources[0].template(), [source.name for source in self.sources]
        new = self.dim not in first.dims
        kept = [name for name, variable in first.variables.items() if self._varies(first, name, variable, new)]
        attrs = {name: dict(variable.attrs) for name, variable in first.variables.items()}
        whole = dict(first.attrs)

        def facts(index: int) -> tuple[int, dict[Hashable, xr.Variable], dict[Hashable, Any], dict[Any, Any]]:
            other = first if index == 0 else self.sources[index].template()
            check_alike(first, other, self.dim, (names[0], names[index]))
            length = 1 if new else other.sizes[self.dim]
            return (
                length, {name: other.variables[name] for name in kept},
                {name: variable.attrs for name, variable in other.variables.items()}, other.attrs,
            )  # fmt: skip

        lengths, along = [], []
        fills: dict[tuple[Hashable, str], Any] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            for length, values, told, told_of_all in pool.map(facts, range(len(names))):
                lengths.append(length)
                along.append(values)
                attrs = {name: common(old, told[name]) for name, old in attrs.items()}
                whole = common(whole, told_of_all)
                self._fill(fills, told)
        for (name, key), value in fills.items():
            if key not in attrs[name]:
                logger.warning(
                    "%s: %s %s of %r is declared by some sources only, and taken for all.", self.name, key, value, name
                )
            attrs[name][key] = value
        joined = self._joined(first, along, new)
        found: dict[Hashable, xr.Variable] = {}
        axes: dict[Hashable, int] = {}
        for name, variable in first.variables.items():
            ours = {**attrs[name], **{key: variable.attrs[key] for key in ("units",) if key in variable.attrs}}
            if name in joined:
                found[name] = xr.Variable(joined[name].dims, joined[name].values, ours)
            elif name in first.coords or not is_number(variable):
                found[name] = xr.Variable(variable.dims, variable.values, ours)
            elif new or self.dim in variable.dims:
                dims = (self.dim, *variable.dims) if new else variable.dims
                axes[name] = dims.index(self.dim)
                shape = [sum(lengths) if dim == self.dim else first.sizes[dim] for dim in dims]
                found[name] = xr.Variable(dims, placeholder(tuple(shape), variable.dtype), ours)
            else:
                found[name] = xr.Variable(variable.dims, placeholder(variable.shape, variable.dtype), ours)
                if len(names) > 1:
                    logger.warning(
                        "%s: variable %r has no dimension %r; it is that of the first source, and the others' are "
                        "not compared with it.", self.name, name, self.dim,
                    )  # fmt: skip
        coords = set(first.coords)
        if new and found and self.dim not in found:
            found[self.dim] = xr.Variable((self.dim,), np.array([stem(name) for name in names], object))
            coords.add(self.dim)
        if self.dim == "band" and not new and all(isinstance(source, RasterSource) for source in self.sources):
            found["band"] = xr.Variable(("band",), np.arange(1, sum(lengths) + 1))
        template = xr.Dataset(found, attrs=whole).set_coords(coords)
        return template, _Layout(new=new, lengths=tuple(lengths), axes=axes)

    def _fill(self, fills: dict[tuple[Hashable, str], Any], told: dict[Hashable, Any]) -> None:
        """Note which fill values a granule declares."""
        for name, attrs in told.items():
            for key in FILLS:
                value = attrs.get(key)
                if value is not None and not same(fills.setdefault((name, key), value), value):
                    raise ConfigError(
                        f"Expected one {key} of {name!r} in sources along {self.dim!r}. Got {value} and "
                        f"{fills[name, key]}. Convert those apart that have another one."
                    )

    def _varies(self, first: xr.Dataset, name: Hashable, variable: xr.Variable, new: bool) -> bool:
        """Whether its values are in templates, and may differ from granule to granule."""
        if name in first.data_vars and is_number(variable):
            return False
        return not variable.ndim if new else self.dim in variable.dims or not variable.ndim

    def _joined(
        self, first: xr.Dataset, along: list[dict[Hashable, xr.Variable]], new: bool
    ) -> dict[Hashable, xr.Variable]:
        """Coordinates and texts along the dimension, times in the units of the first source."""
        joined = {}
        for name in along[0]:
            parts = [values[name] for values in along]
            dims = parts[0].dims
            units = [_units(first.variables, name, values) for values in along]
            calendar = str(parts[0].attrs.get("calendar", "standard"))
            if " since " in units[0]:
                arrays = [
                    in_units_of(units[0], part, unit, calendar, f"{name!r} of {source.name}")
                    for part, unit, source in zip(parts, units, self.sources, strict=True)
                ]
            else:
                arrays = [np.asarray(part.values) for part in parts]
            if dims:
                joined[name] = xr.Variable(dims, np.concatenate(arrays, dims.index(self.dim)))
            elif new and (name == self.dim or not all(same(array, arrays[0]) for array in arrays)):
                joined[name] = xr.Variable((self.dim,), np.stack(arrays))
            elif not all(same(array, arrays[0]) for array in arrays):
                odd = next(i for i, array in enumerate(arrays) if not same(array, arrays[0]))
                raise ConfigError(
                    f"Expected scalar coordinate {name!r} to be the same in sources along {self.dim!r}, which all of "
                    f"them have. Got {arrays[0]} in {self.sources[0].name}, {arrays[odd]} in {self.sources[odd].name}."
                )
        return joined


def _units(first: Any, name: Hashable, values: dict[Hashable, xr.Variable]) -> str:
    """Units of a coordinate; bounds have those of what they bound (CF conventions 1.12, section 7.1)."""
    own = values[name].attrs.get("units")
    if own is not None:
        return str(own)
    for parent, variable in first.items():
        if name in (variable.attrs.get("bounds"), variable.attrs.get("climatology")) and parent in values:
            return str(values[parent].attrs.get("units", ""))
    return ""
