"""Whether granules belong together, and what is common to them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xwalloc.errors import ConfigError

__all__ = ["FILLS", "MEANING", "check_alike", "common", "is_number", "same"]

MEANING = (
    "_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "units", "calendar", "flag_values",
    "flag_masks", "crs_wkt", "GeoTransform", "grid_mapping",
)  # fmt: skip
"""Attributes without which values mean something else."""

FILLS = ("_FillValue", "missing_value")
"""Of these, what one granule declares holds for those that declare none."""

_WORDS = {"crs_wkt": "coordinate reference system", "GeoTransform": "grid (GeoTransform)"}


def check_alike(first: xr.Dataset, other: xr.Dataset, dim: str, names: tuple[str, str]) -> None:
    """Refuse a granule that differs from the first in more than what `dim` tells apart.

    Coordinates along `dim`, and scalar ones, may differ.

    Raises
    ------
    ConfigError
        Which says which granule differs, and in what.
    """

    def refuse(what: str, got: Any, wanted: Any) -> None:
        raise ConfigError(
            f"Expected sources along {dim!r} to differ in nothing else. {names[1]} has {what} {got}, "
            f"{names[0]} has {wanted}. Convert only what belongs together, or each source by itself, without a "
            "dimension to put them along."
        )

    for what, ours, theirs in (
        ("the variables", first.data_vars, other.data_vars),
        ("the coordinates", first.coords, other.coords),
    ):
        if set(ours) != set(theirs):
            refuse(what, _listed(theirs), _listed(ours))
    for name, variable in first.variables.items():
        found = other.variables[name]
        if found.dims != variable.dims:
            refuse(f"dimensions of {name!r}", found.dims, variable.dims)
        if found.dtype != variable.dtype and not {found.dtype.kind, variable.dtype.kind} <= set("OSU"):
            refuse(f"dtype of {name!r}", found.dtype, variable.dtype)
        apart = [size for axis, size in zip(found.dims, found.shape, strict=True) if axis != dim]
        wanted = [size for axis, size in zip(variable.dims, variable.shape, strict=True) if axis != dim]
        if apart != wanted:
            refuse(f"shape of {name!r}", found.shape, variable.shape)
        times = " since " in str(variable.attrs.get("units")) and (dim in variable.dims or not variable.ndim)
        for key in MEANING:
            if key == "units" and times and not (name in first.data_vars and is_number(variable)):
                continue
            if key in FILLS and (key in found.attrs) != (key in variable.attrs):
                continue
            if not same(found.attrs.get(key), variable.attrs.get(key)):
                what = f"another {_WORDS[key]}," if key in _WORDS else f"{key} of {name!r},"
                refuse(what, _short(found.attrs.get(key)), _short(variable.attrs.get(key)))
        may_differ = dim in variable.dims or not variable.ndim or (name in first.data_vars and is_number(variable))
        if not may_differ and not same(*_where_known(found.values, variable.values)):
            refuse(f"other values of {name!r},", _short(found.values), _short(variable.values))


def common(kept: Mapping[Any, Any], attrs: Mapping[Any, Any]) -> dict[Any, Any]:
    """What is the same in two sets of attributes."""
    return {key: value for key, value in kept.items() if key in attrs and same(attrs[key], value)}


def same(one: Any, other: Any) -> bool:
    """Whether values or arrays are equal; NaN is equal to NaN."""
    if (one is None) != (other is None):
        return False
    if isinstance(one, list | dict) or isinstance(other, list | dict):
        return bool(one == other)
    first, second = np.asarray(one), np.asarray(other)
    floats = first.dtype.kind in "fc" and second.dtype.kind in "fc"
    return bool(np.array_equal(first, second, equal_nan=floats))


def _where_known(one: NDArray[Any], other: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of texts those that both have: bands without a name may be any."""
    if one.dtype.kind not in "OSU" or other.dtype.kind not in "OSU":
        return one, other
    known = (one != "") & (other != "")
    return one[known], other[known]


def is_number(variable: xr.Variable) -> bool:
    """Whether it is read part by part; other variables have their values in the template."""
    return variable.dtype.kind in "biufc"


def _listed(names: Mapping[Hashable, Any]) -> str:
    return ", ".join(sorted(map(str, names))) or "none"


def _short(value: Any) -> str:
    text = str(value).replace("\n", " ")
    return text if len(text) < 200 else f"{text[:197]}..."
