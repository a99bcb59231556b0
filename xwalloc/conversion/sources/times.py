"""Times of several files in the units of the first, exactly."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xwalloc.errors import ConfigError

__all__ = ["in_units_of"]

_MICROSECONDS = {
    **dict.fromkeys(("microsecond", "microseconds", "microsec", "microsecs"), 1),
    **dict.fromkeys(("millisecond", "milliseconds", "millisec", "millisecs", "msec", "msecs", "ms"), 10**3),
    **dict.fromkeys(("second", "seconds", "sec", "secs", "s"), 10**6),
    **dict.fromkeys(("minute", "minutes", "min", "mins"), 60 * 10**6),
    **dict.fromkeys(("hour", "hours", "hr", "hrs", "h"), 3600 * 10**6),
    **dict.fromkeys(("day", "days", "d"), 86400 * 10**6),
}


def in_units_of(first: str, variable: xr.Variable, units: str, calendar: str, what: str) -> NDArray[Any]:
    """Values of a variable in ``units`` ("days since ..."), in the units `first`.

    Parameters
    ----------
    first, units
        Units to go to, and those of the variable.
    variable
        Times, as they are stored; what equals its ``_FillValue``, and NaN, is left as it is.
    calendar
        Calendar of both.
    what
        What messages call it.

    Raises
    ------
    ConfigError
        If there are times that the dtype cannot hold in the other units, to the microsecond.
    """
    if units == first:
        return np.asarray(variable.values)
    there, here = _parsed(first, calendar), _parsed(units, calendar)
    if there is None or here is None:
        raise ConfigError(
            f"Expected {what} in the units of the first source, {first!r}, or in others that can be converted exactly "
            f"(days, hours, minutes, seconds and less, since a date). Got {units!r}."
        )
    values = variable.values
    fill = variable.attrs.get("_FillValue")
    shift = int((here[1] - there[1]).total_seconds()) * 10**6 + (here[1] - there[1]).microseconds
    converted = values.copy()
    for at, value in np.ndenumerate(values):
        if value == fill or value != value:
            continue
        exact = (Fraction(value.item()) * here[0] + shift) / there[0]
        rounded = values.dtype.type(float(exact)) if values.dtype.kind == "f" else _integer(exact, values.dtype)
        if rounded is None or abs(Fraction(rounded.item()) - exact) * there[0] >= 1:
            raise ConfigError(
                f"Time {value} of {what}, in {units!r}, is no {values.dtype} in the units of the first source, "
                f"{first!r}. Put the source with the finest units first, or store times as float64."
            )
        converted[at] = rounded
    return converted


def _integer(exact: Fraction, dtype: np.dtype[Any]) -> Any:
    info = np.iinfo(dtype)
    fits = exact.denominator == 1 and info.min <= exact <= info.max
    return dtype.type(int(exact)) if fits else None


def _parsed(units: str, calendar: str) -> tuple[int, Any] | None:
    """Length of a unit in microseconds, and the date that it counts from."""
    import cftime

    unit, _, date = units.partition(" since ")
    length = _MICROSECONDS.get(unit.strip().lower())
    if length is None or not date:
        return None
    try:
        return length, cftime.num2date(0, f"seconds since {date}", calendar)
    except ValueError:
        return None
