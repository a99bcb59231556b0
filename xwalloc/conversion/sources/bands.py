"""What a raster says of its bands: names, wavelengths, nodata, scale."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from xwalloc.conversion.sources.files import identifier

__all__ = ["band_metadata"]

logger = logging.getLogger("xwalloc")

_UNITS = {
    **dict.fromkeys(("nm", "nanometers", "nanometer", "nanometres", "nanometre"), "nm"),
    **dict.fromkeys(("um", "µm", "micrometers", "micrometer", "micrometres", "micrometre", "microns", "micron"), "um"),
}
# what says something of the values or of the layout, and so may not pass for an attribute of CF
_RESERVED = frozenset(
    "_FillValue missing_value scale_factor add_offset units grid_mapping coordinates dtype calendar bounds band x y "
    "_Unsigned valid_range valid_min valid_max spatial_ref wavelength fwhm wavelength_units band_name".split()
)
# keys of a header of ENVI that GDAL or this module has understood
_ENVI = frozenset(
    "samples lines bands header_offset file_type data_type interleave byte_order map_info projection_info "
    "coordinate_system_string band_names wavelength wavelength_units fwhm bbl data_ignore_value default_bands "
    "reflectance_scale_factor data_gain_values data_offset_values x_start y_start default_stretch".split()
)
Coords = dict[str, Any]


def band_metadata(raster: Any, dtype: np.dtype[Any], name: str) -> tuple[Coords, dict[str, Any]]:
    """Coordinates on the dimension "band", and attributes of the variable.

    Returns
    -------
    coords, attrs
        What differs from band to band is a coordinate (``band_scale``, ``band_nodata`` ... so that xarray does not
        apply it), what is the same for all is an attribute.
    """
    count = raster.count
    coords: Coords = {"band": ("band", np.arange(1, count + 1))}
    attrs: dict[str, Any] = {}
    tags = [raster.tags(band) for band in range(1, count + 1)]
    envi = raster.tags(ns="ENVI")
    descriptions = [text or "" for text in raster.descriptions]
    names = [text.strip() for text in envi.get("band_names", "").strip("{} ").split(",")]
    names = names if len(names) == count and any(names) else descriptions  # GDAL adds wavelengths to those of ENVI
    if any(names):
        coords["band_name"] = ("band", np.array(names, object))
        if count == 1:
            attrs["long_name"] = names[0]
    _spectrum(raster, tags, envi, coords)
    _values(raster, dtype, envi, name, coords, attrs)
    _other(raster, tags, envi, descriptions, coords, attrs)
    return coords, attrs


def _spectrum(raster: Any, tags: list[dict[str, str]], envi: dict[str, str], coords: Coords) -> None:
    """Wavelengths and widths of bands: of their tags, of the header of ENVI, or of GDAL, the most exact first."""
    said = tags[0].get("wavelength_units") or raster.tags().get("wavelength_units") or envi.get("wavelength_units")
    for key, fallback in (("wavelength", "CENTRAL_WAVELENGTH_UM"), ("fwhm", "FWHM_UM")):
        units: str | None = said and _UNITS.get(said.strip().lower(), said.strip())
        values = _numbers([one.get(key) for one in tags])
        if values is None:
            values = _numbers(envi.get(key, "").strip("{} ").split(","))
        if values is None or len(values) != len(tags):
            imagery = [raster.tags(band, ns="IMAGERY") for band in range(1, raster.count + 1)]
            values, units = _numbers([one.get(fallback) for one in imagery]), "um"
        if values is not None:
            coords[key] = ("band", values, {"units": units} if units else {})


def _values(
    raster: Any, dtype: np.dtype[Any], envi: dict[str, str], name: str, coords: Coords, attrs: dict[str, Any]
) -> None:
    """Nodata, scale, offset and units."""
    nodata = [_fitting(value, dtype, name) for value in raster.nodatavals]
    if _same(nodata):
        if nodata[0] is not None:
            attrs["_FillValue"] = nodata[0]
    else:
        coords["band_nodata"] = ("band", np.array([np.nan if value is None else value for value in nodata], float))
        logger.warning("%s: nodata differs from band to band. It is kept as coordinate band_nodata.", name)
    scales, offsets = list(raster.scales), list(raster.offsets)
    reflectance = _numbers([envi.get("reflectance_scale_factor")])
    if set(scales) == {1.0} and set(offsets) == {0.0} and reflectance is not None and reflectance[0]:
        scales = [1 / float(reflectance[0])] * len(scales)
    if _same(scales) and _same(offsets):
        if (scales[0], offsets[0]) != (1.0, 0.0):
            attrs |= {"scale_factor": float(scales[0]), "add_offset": float(offsets[0])}
    else:
        coords |= {"band_scale": ("band", np.array(scales)), "band_offset": ("band", np.array(offsets))}
    units = [text or "" for text in raster.units]
    if _same(units):
        attrs |= {"units": units[0]} if units[0] else {}
    else:
        coords["band_units"] = ("band", np.array(units, object))
    flags = {flag.name for band in raster.mask_flag_enums for flag in band}
    if "per_dataset" in flags and not any(value is not None for value in nodata):
        logger.warning(
            "%s has a mask (or an alpha band) instead of nodata. The mask is not kept, so masked pixels are compressed "
            "as values: set nodata in the file (gdal_translate -a_nodata) if there is a value for it.",
            name,
        )  # fmt: skip


def _other(
    raster: Any, tags: list[dict[str, str]], envi: dict[str, str], descriptions: list[str], coords: Coords,
    attrs: dict[str, Any],
) -> None:  # fmt: skip
    """Tags of the file and of its bands. Statistics are left out: they are those of other values after a loss."""
    whole = {key: value for key, value in raster.tags().items() if not re.fullmatch(r"Band_\d+", key)}
    whole |= {key: value for key, value in envi.items() if key not in _ENVI}
    attrs |= {key: value for key, value in whole.items() if key not in _RESERVED and key not in attrs}
    for key in sorted({key for one in tags for key in one} - _RESERVED):
        texts = [one.get(key, "") for one in tags]
        if key.startswith("STATISTICS_") or texts == descriptions:
            continue
        if _same(texts) and key != "bbl":
            attrs.setdefault(key, texts[0])
            continue
        numbers = _numbers(texts)
        if numbers is not None and key == "bbl":
            numbers = numbers.astype(np.int8)
        coord = identifier(key)
        coords.setdefault(coord, ("band", np.array(texts, object) if numbers is None else numbers))
    if "bbl" in envi and "bbl" not in coords:
        bad = _numbers(envi["bbl"].strip("{} ").split(","))
        if bad is not None and len(bad) == raster.count:
            coords["bbl"] = ("band", bad.astype(np.int8))


def _numbers(texts: Sequence[str | None]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Texts as numbers; None unless each of them is one."""
    try:
        return np.array([float(text or "none") for text in texts], np.float64)
    except ValueError:
        return None


def _same(values: Sequence[Any]) -> bool:
    """Whether all are the same; NaN is the same as NaN."""
    return all(value == values[0] or (value != value and values[0] != values[0]) for value in values)


def _fitting(value: float | None, dtype: np.dtype[Any], name: str) -> Any:
    """Nodata in the dtype of the values; None where it can be none of them."""
    if value is None:
        return None
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        if not (np.isfinite(value) and float(value).is_integer() and info.min <= value <= info.max):
            logger.info("%s: nodata %r is no value of dtype %s; it is left out.", name, value, dtype)
            return None
        return dtype.type(int(value))
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(value)
    return None
