"""What the dimensions of a variable are to the codec, from their names and CF attributes."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import xarray as xr

from xwalloc.errors import ConfigError

__all__ = ["Roles", "guess_kind", "known", "resolve_roles"]

Kind = Literal["channel", "t", "z", "y", "x"]

NAMES: dict[Kind, frozenset[str]] = {
    "channel": frozenset(
        "band bands wavelength wavelengths wavenumber wvl wl lambda channel channels chan component components comp "
        "electrode electrodes lead leads sensor sensors spectral spectral_band spectral_bands spectral_channel "
        "bandpass frequency frequencies freq wave wavenumbers polarization polarisation feature features variable "
        "variables axis".split()
    ),
    "t": frozenset("time times t sample samples date valid_time forecast_time".split()),
    "z": frozenset(
        "z lev level levels depth height altitude alt plev pressure isobaricinhpa bottom_top lv_isbl slice".split()
    ),
    "y": frozenset(
        "y lat latitude northing northings row rows line lines yc nlat rlat south_north nav_lat ycoord azimuth "
        "downtrack down_track alongtrack along_track along-track scanline number_of_lines".split()
    ),
    "x": frozenset(
        "x lon longitude easting eastings col cols column columns pixel xc nlon rlon west_east nav_lon xcoord "
        "long crosstrack cross_track cross-track acrosstrack across_track across-track ground_pixel "
        "pixels_per_line".split()
    ),
}
STANDARD_NAMES: dict[str, Kind] = {
    "radiation_wavelength": "channel",
    "radiation_frequency": "channel",
    "sensor_band_central_radiation_wavelength": "channel",
    "sensor_band_central_radiation_wavenumber": "channel",
    "sensor_band_identifier": "channel",
    "time": "t",
    "height": "z",
    "depth": "z",
    "altitude": "z",
    "air_pressure": "z",
    "latitude": "y",
    "grid_latitude": "y",
    "projection_y_coordinate": "y",
    "longitude": "x",
    "grid_longitude": "x",
    "projection_x_coordinate": "x",
}
UNITS: dict[str, Kind] = {
    **dict.fromkeys(("degrees_north", "degree_north", "degree_n", "degrees_n", "degreen", "degreesn"), "y"),
    **dict.fromkeys(("degrees_east", "degree_east", "degree_e", "degrees_e", "degreee", "degreese"), "x"),
    **dict.fromkeys(
        ("nm", "nanometer", "nanometers", "um", "micrometer", "micrometers", "µm", "μm", "cm-1", "angstrom"), "channel"
    ),
    **dict.fromkeys(("hpa", "millibar", "mbar"), "z"),
}
AXES: dict[str, Kind] = {"T": "t", "Z": "z", "Y": "y", "X": "x"}


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Axes of a variable by what they are to the codec.

    Parameters
    ----------
    channel
        Axis that the linear encoder mixes, or None.
    signal
        Axes that the wavelet runs over, ascending.
    series
        The channels are steps of time: chunks need not hold them all.
    """

    channel: int | None
    signal: tuple[int, ...]
    series: bool = False


def guess_kind(dim: Hashable, coordinate: xr.DataArray | None) -> Kind | None:
    """What a dimension measures: CF attributes of its coordinate first, then its name."""
    if coordinate is not None:
        attrs = coordinate.attrs
        kind = (
            AXES.get(str(attrs.get("axis", attrs.get("cartesian_axis", ""))).upper())
            or STANDARD_NAMES.get(str(attrs.get("standard_name", "")).lower())
            or UNITS.get(str(attrs.get("units", "")).lower())
        )
        if kind:
            return kind
        if str(attrs.get("positive", "")).lower() in ("up", "down"):
            return "z"
        if coordinate.dtype.kind == "M" or " since " in str(attrs.get("units", "")):
            return "t"
    name = str(dim).lower()
    return next((kind for kind, names in NAMES.items() if name in names), None)


def resolve_roles(
    variable: xr.DataArray, channel_dim: Hashable | None, signal_dims: Sequence[Hashable] | None
) -> Roles:
    """Roles of the axes of `variable`, guessed where they are not given.

    Parameters
    ----------
    variable
        The variable, with its coordinates.
    channel_dim
        Name of the channel dimension; None: guess. A name that the variable does not have means one channel.
    signal_dims
        Names of the signal dimensions; None: guess. Those that the variable does not have are passed over.

    Raises
    ------
    ConfigError
        If no signal dimension is found, where the message shows what was guessed, or one is named twice.
    """
    if signal_dims is not None and len(set(signal_dims)) < len(signal_dims):
        raise ConfigError(f"Expected signal_dims to name each dimension once. Got {tuple(signal_dims)}.")
    kinds = guess_kinds(variable)
    channel = resolve_channel(variable, channel_dim, signal_dims)
    series = False
    if signal_dims is not None:
        signal = [dim for dim in variable.dims if dim in signal_dims]
    else:
        rest = {dim: kind for dim, kind in kinds.items() if dim != channel}
        plane = [dim for dim in (first(rest, "y"), first(rest, "x")) if dim is not None]
        height, time = first(rest, "z"), first(rest, "t")
        if len(plane) == 2:
            signal = plane if height is None else [height, *plane]
            if channel is None and channel_dim is None and time is not None:
                # maps of one place resemble each other: 4 to 24 % smaller than as a batch or as a volume
                channel, series = time, True
        else:  # profiles, sections and series
            signal = [dim for dim in (time, height, *plane) if dim is not None]
    if not signal or channel in signal:
        seen = ", ".join(f"{dim} ({kind or 'unknown'})" for dim, kind in kinds.items()) or "none"
        raise ConfigError(
            f"Expected to find the signal dimensions of variable {variable.name!r} (those that the wavelet runs over). "
            f"Got dimensions {seen}, channel_dim {channel!r} and signal dimensions {signal}. "
            "Name them: channel_dim='band', signal_dims=('y', 'x'), for example."
        )
    axes = list(variable.dims)
    return Roles(
        channel=None if channel is None else axes.index(channel),
        signal=tuple(sorted(axes.index(dim) for dim in signal)),
        series=series,
    )


def resolve_channel(
    variable: xr.DataArray, channel_dim: Hashable | None, signal_dims: Sequence[Hashable] | None
) -> Hashable | None:
    """Channel dimension of `variable`: the one that is given, if it has that, else the guessed one."""
    if channel_dim is not None:
        return channel_dim if channel_dim in variable.dims else None
    return first(guess_kinds(variable), "channel", without=signal_dims or ())


def guess_kinds(variable: xr.DataArray) -> dict[Hashable, Kind | None]:
    """What every dimension of `variable` measures."""
    return {dim: guess_kind(dim, variable.coords.get(dim)) for dim in variable.dims}


def first(kinds: dict[Hashable, Kind | None], kind: Kind, without: Iterable[Hashable] = ()) -> Hashable | None:
    """First dimension of a kind."""
    return next((dim for dim, k in kinds.items() if k == kind and dim not in set(without)), None)


def known(
    parameter: str, what: str, name: Hashable, names: Iterable[Hashable], others: Iterable[Hashable] = ()
) -> None:
    """Refuse a name that is not among those that there are, with the one (of those, or of others) that was meant."""
    names = list(names)
    if name not in names:
        listed, names = names, [*names, *others]
        close = difflib.get_close_matches(str(name), [str(n) for n in names], 1)
        meant = next((n for n in names if close and str(n) == close[0]), None)
        hint = f" Did you mean {meant!r}, of type {type(meant).__name__}?" if str(meant) == str(name) else ""
        hint = hint or (f" Did you mean {meant!r}?" if close else "")
        raise ConfigError(f"Expected {parameter} to name {what}: {', '.join(map(repr, listed))}. Got {name!r}.{hint}")
