"""Names, numbers and units as a page shows them."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["Scale", "composite", "coordinate", "number", "plain", "positions", "settings"]

LONGEST = 160
SPECTRAL = ("band", "wave", "spectr", "bnd", "channel")


def plain(value: Any, longest: int = LONGEST) -> str:
    """A text from a stranger: no control characters, nothing that turns the direction of text, not too long."""
    text = "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in str(value))
    return text if len(text) <= longest else f"{text[: longest - 1]}\u2026"


def number(value: Any, digits: int = 5) -> str:
    """A number with a few digits."""
    if isinstance(value, str):
        return plain(value)
    value = np.asarray(value)[()]
    if isinstance(value, np.integer | np.bool_):
        return str(int(value))
    if isinstance(value, np.floating):
        if not math.isfinite(value):
            return {"nan": "\u2013", "inf": "\u221e", "-inf": "\u2212\u221e"}[str(float(value))]
        return f"{float(value):.{digits}g}".replace("-", "\u2212")
    return plain(value)


class Scale:
    """From stored values to those that users see."""

    def __init__(self, template: xr.DataArray) -> None:
        attrs = template.attrs
        self.factor = self._one(attrs.get("scale_factor"), 1.0) or 1.0
        self.offset = self._one(attrs.get("add_offset"), 0.0)
        self.unit = plain(attrs["units"], 40) if isinstance(attrs.get("units"), str) else ""
        self.packed = (self.factor, self.offset) != (1.0, 0.0)

    @staticmethod
    def _one(value: Any, other: float) -> float:
        try:
            found = float(np.ravel(value)[0]) if value is not None else other
        except (TypeError, ValueError, IndexError):
            return other
        return found if math.isfinite(found) else other

    def value(self, stored: Any) -> Any:
        """Stored values, unpacked."""
        return np.asarray(stored, np.float64) * self.factor + self.offset if self.packed else stored

    def error(self, stored: float) -> float:
        """A difference of stored values, unpacked."""
        return stored * abs(self.factor)


def positions(template: xr.DataArray, axis: int) -> tuple[np.ndarray[Any, Any], str]:
    """Where the samples of an axis are, and what to call it: its coordinate, else wavelengths, else indices."""
    dim, size = template.dims[axis], template.shape[axis]
    names = [name for name, c in template.coords.items() if c.dims == (dim,) and c.dtype.kind in "iufM"]
    names.sort(key=lambda name: ("wave" not in str(name).lower(), name != dim))
    for name in names:
        values = template.coords[name].values
        if values.dtype.kind == "M" or np.isfinite(values).all():
            unit = template.coords[name].attrs.get("units")
            return values, plain(name, 40) + (f" ({plain(unit, 20)})" if isinstance(unit, str) else "")
    return np.arange(size), plain(dim, 40)


def coordinate(template: xr.DataArray, index: tuple[int, ...]) -> str:
    """Coordinates of a value."""
    found = []
    for axis, i in enumerate(index):
        dim = template.dims[axis]
        if dim in template.coords:
            value = template.coords[dim].values[i]
            shown = np.datetime_as_string(value, "s") if value.dtype.kind == "M" else number(value, 8)
            found.append(f"{plain(dim, 40)} {shown}")
    return ", ".join(found)


def composite(template: xr.DataArray, channel: int | None) -> tuple[int, ...]:
    """Which channels a picture shows: red, green and blue where that is known or likely, else the middle one."""
    if channel is None:
        return (0,)
    count = template.shape[channel]
    values, name = positions(template, channel)
    if "wave" in name.lower() and count >= 3 and values.dtype.kind in "iuf":
        nm = values * (1000.0 if np.nanmax(values) < 100 else 1.0)
        return tuple(int(np.abs(nm - wanted).argmin()) for wanted in (650, 550, 460))
    if count >= 3 and any(part in str(template.dims[channel]).lower() for part in SPECTRAL):
        if count <= 12:
            return (0, 1, 2) if count == 3 else (2, 1, 0)
        return tuple(int(part * count) for part in (0.15, 0.1, 0.05))
    return (count // 2,)


def settings(value: Any) -> list[tuple[str, str, bool]]:
    """Keys and values of a mapping for a table; whether a value is a block of JSON."""
    found = []
    for key, item in value.items() if isinstance(value, dict) else [("value", value)]:
        if key == "model" and isinstance(item, dict):
            item = item.get("id", "inline")
        if isinstance(item, list | tuple) and all(isinstance(one, str | int | float) for one in item):
            item = ", ".join(map(str, item))
        if isinstance(item, dict) or (isinstance(item, list) and len(str(item)) > 80):
            text = json.dumps(item, indent=2, ensure_ascii=False, default=str)
            lines = [plain(line, 400) for line in text.splitlines()[:200]]
            found.append((plain(key, 60), "\n".join(lines), True))
        else:
            found.append((plain(key, 60), plain(item if not isinstance(item, bool) else str(item).lower(), 400), False))
    return found
