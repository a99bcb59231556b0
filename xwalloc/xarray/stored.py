"""Variables as xarray stores them: packing, nodata, and bounds in stored units."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable
from typing import Any

import numpy as np
import xarray as xr
from xarray.conventions import encode_cf_variable

from xwalloc.codec.config import CodecConfig, as_number
from xwalloc.errors import ConfigError

__all__ = ["as_stored", "find_nodata", "in_packed_units"]

logger = logging.getLogger("xwalloc")


def as_stored(variable: xr.DataArray) -> xr.Variable:
    """One sample of `variable` as xarray stores it: its dtype and its attributes, those of CF packing included."""
    if variable.dtype.kind not in "iuf":
        return variable.variable
    sample = np.zeros((1,) * variable.ndim, variable.dtype)
    encoding = {key: value for key, value in variable.encoding.items() if key != "chunks"}
    return encode_cf_variable(xr.Variable(variable.dims, sample, variable.attrs, encoding), name=variable.name)


def find_nodata(name: Hashable, stored: xr.Variable, wanted: float | None) -> float | None:
    """`nodata` in stored units: what the caller says, else the fill value that CF attributes declare."""
    declared: list[Any] = []
    for key in ("_FillValue", "missing_value"):
        for value in np.ravel(stored.attrs.get(key, ())):
            if as_number(value) is not None and np.isfinite(value):
                try:
                    declared.append(stored_value(value, stored.dtype))
                except ConfigError:
                    logger.info("The %s %r of variable %r does not fit dtype %s.", key, value, name, stored.dtype)
    values = {value.item() for value in declared if value is not None}
    if wanted is not None:
        value = stored_value(wanted, stored.dtype)
        values |= set() if value is None else {value.item()}
    if len(values) > 1:
        raise ConfigError(
            f"Expected one nodata value for variable {name!r}, in stored units. Got {sorted(values)} from nodata, "
            "_FillValue and missing_value together. Make them agree: what is declared missing must survive."
        )
    return values.pop() if values else None


def stored_value(value: Any, dtype: np.dtype[Any]) -> np.generic | None:
    """`value` as nodata of a dtype; None for NaN and infinities, which need none."""
    return CodecConfig(signal_axes=(0,), lossless=True, nodata=value).nodata_as(dtype)


def in_packed_units(variable: xr.DataArray, stored: xr.Variable, quality: dict[str, Any]) -> dict[str, Any]:
    """The quality target in the units of the stored values.

    A bound of e becomes e / abs(scale_factor). Where packing rounds to integers, half a unit is subtracted for it, so
    that what is read lies within e of what was in memory; a bound below that is lossless on the packed integers.
    """
    if "max_error" not in quality:
        return quality
    scale = float(np.ravel(variable.encoding.get("scale_factor", 1.0))[0])
    if not math.isfinite(scale) or scale == 0:
        raise ConfigError(f"Expected scale_factor of variable {variable.name!r} to be finite and not 0. Got {scale}.")
    bound = quality["max_error"] / abs(scale)
    if stored.dtype.kind in "iu" and variable.dtype.kind == "f":
        bound -= 0.5
        if bound <= 0:
            logger.warning(
                "Variable %r is packed in steps of %g before xwalloc sees it: the packed integers are kept exactly, "
                "but values that are not multiples of that step move by up to half of it, which max_error %g does "
                "not cover. Drop scale_factor and dtype from its encoding, and the bound holds for what is in memory.",
                variable.name, abs(scale), quality["max_error"],
            )  # fmt: skip
    return {"max_error": bound} if bound > 0 else {"lossless": True}
