"""Which variables are compressed, and how: quality targets, roles, nodata and chunks by variable."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import xarray as xr

from xwalloc.bitstream.frame import DTYPES
from xwalloc.codec.config import CodecConfig, Profile
from xwalloc.errors import ConfigError
from xwalloc.models import library
from xwalloc.models.model import INLINE_LIMIT, Model, ModelReference
from xwalloc.types import cached_property
from xwalloc.xarray.dims import STANDARD_NAMES, UNITS, Roles, guess_kinds, known, resolve_channel, resolve_roles
from xwalloc.xarray.grid import Grid, choose_grid
from xwalloc.xarray.stored import as_stored, find_nodata, in_packed_units

__all__ = ["PerVariable", "Plan", "Request", "Suited", "parse_quality", "plan", "plan_each", "suited"]

logger = logging.getLogger("xwalloc")

T = TypeVar("T")
PerVariable: TypeAlias = T | Mapping[Hashable, T] | None
PARTS = ("bounds", "climatology", "node_coordinates", "node_count", "part_node_count", "interior_ring")
"""CF attributes that name variables which belong to coordinates or geometries."""
UNMIXED = 4
"""Axes of so many steps or more that nobody knows are probably channels."""
FLAGS = ("flag_values", "flag_masks", "flag_meanings")
LEAST_CHUNK = 2**20
MOST_REASONS = 24
"""Variables that a message lists with the reasons why they are not compressed."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the caller of `xwalloc.encoding` or of the accessor asked for; `xwalloc.encoding` says what it means."""

    max_error: PerVariable[float] = None
    snr: PerVariable[float] = None
    lossless: bool = False
    channel_dim: Hashable | None = None
    signal_dims: Sequence[Hashable] | None = None
    model: Model | None = None
    nodata: PerVariable[float] = None
    chunks: Mapping[Hashable, int] | None = None
    shards: Mapping[Hashable, int] | None = None
    profile: Profile = "default"
    zarr_format: int = 3
    beside: bool = False
    """Whether the model is written beside the arrays, where it is too large to travel in their metadata."""

    @cached_property
    def reference(self) -> ModelReference | None:
        """How arrays name the model: with its weights where it is small."""
        return None if self.model is None else ModelReference.of(self.model)

    @property
    def has_sidecar(self) -> bool:
        """Whether the model is too large to travel in the metadata."""
        return self.reference is not None and self.reference.weights is None

    def _check_sidecar(self) -> None:
        """Refuse a model that is too large to be inline where it cannot lie beside the array."""
        if self.zarr_format == 2:
            remedy, where = "Use zarr_format=3", "zarr_format 2 has no other place"
        elif self.shards:
            remedy, where = "Leave shards out", "codecs inside shards are not told where they are"
        elif not self.beside:
            remedy, where = "Use obj.walloc.to_zarr(store, model=model, ...)", "encoding() does not see the store"
        else:
            return
        raise ConfigError(
            f"Expected a model of at most {INLINE_LIMIT} bytes, deflated and in base64, to travel in the metadata of "
            f"the array: {where}. Got a larger one. {remedy}, or use a smaller model."
        )

    @property
    def mappings(self) -> dict[str, Mapping[Hashable, float]]:
        """Quality targets that are mappings by variable, by their name.

        Raises
        ------
        ConfigError
            If there is another target for all variables, or they are empty.
        """
        targets = {"max_error": self.max_error, "snr": self.snr}
        found = {key: value for key, value in targets.items() if isinstance(value, Mapping)}
        if not found:
            return {}
        if self.lossless is not False or any(v is not None for k, v in targets.items() if k not in found):
            raise ConfigError(
                "Expected max_error and snr to be either one value for all variables or mappings by variable. "
                f"Got max_error={self.max_error!r}, snr={self.snr!r}, lossless={self.lossless!r}."
            )
        if not any(found.values()):
            raise ConfigError("Expected max_error or snr to name at least one variable. Got an empty mapping.")
        return found

    @property
    def quality(self) -> dict[str, Any]:
        """The quality target for all variables, checked; empty where the model has it."""
        targets = {"max_error": self.max_error, "snr": self.snr}
        wanted = any(value is not None for value in targets.values()) or self.lossless
        return parse_quality(lossless=self.lossless, **targets) if wanted or self.model is None else {}

    def check(self) -> None:
        """Refuse what no dataset admits."""
        if self.model is not None:
            if not isinstance(self.model, Model):
                raise ConfigError(
                    f"Expected model to be None or a Model. Got {self.model!r:.80}. xwalloc.fit and xwalloc.load_model "
                    "return models."
                )
            if self.has_sidecar:
                self._check_sidecar()
        if self.zarr_format not in (2, 3):
            raise ConfigError(f"Expected zarr_format to be 2 or 3. Got {self.zarr_format!r}.")
        if self.shards and self.zarr_format == 2:
            raise ConfigError("Expected no shards with zarr_format 2, which has none. Leave shards out or use 3.")
        for parameter, sizes in (("chunks", self.chunks), ("shards", self.shards)):
            if sizes is not None and not isinstance(sizes, Mapping):
                raise ConfigError(
                    f"Expected {parameter} to map dimensions to sizes, such as {{'y': 256, 'x': 256}}. Got {sizes!r}."
                )

    def check_dims(self, there: Iterable[Hashable]) -> None:
        """Refuse dimensions that are not among those that there are."""
        dims = {
            "channel_dim": [] if self.channel_dim is None else [self.channel_dim],
            "signal_dims": self.signal_dims or [],
            "chunks": self.chunks or {},
            "shards": self.shards or {},
        }
        for parameter, names in dims.items():
            for name in names:
                known(parameter, "dimensions", name, there)


@dataclass(frozen=True, kw_only=True)
class Suited:
    """Variables that a quality target for all of them applies to, or not.

    Parameters
    ----------
    certain
        Names of those that it applies to.
    unsure
        Why the roles of dimensions of others cannot be guessed, by name: they count only where none is certain.
    unsuited
        Why others are stored exactly, by name.
    encodable
        Whether any has a dtype that xwalloc encodes.
    """

    certain: tuple[Hashable, ...]
    unsure: dict[Hashable, str]
    unsuited: dict[Hashable, str]
    encodable: bool

    def take(self, asked: Collection[Hashable] | None = None) -> list[Hashable]:
        """Names of the variables that are compressed; says which others are not, and why.

        Parameters
        ----------
        asked
            Of the unsure ones, those that must not be left out. None: all, if none is certain.

        Raises
        ------
        ConfigError
            If there are none.
        """
        if asked is None:
            asked = () if self.certain else self.unsure
        taken = [*self.certain, *(name for name in self.unsure if name in asked)]
        left = {name: reason for name, reason in self.unsure.items() if name not in asked}
        if not taken:
            reasons = [f"{name!r}: {reason}" for name, reason in {**self.unsuited, **left}.items()]
            if len(reasons) > MOST_REASONS:
                reasons[MOST_REASONS:] = [f"{len(reasons) - MOST_REASONS} more"]
            remedy = "Name the variables that you mean: max_error={'name': bound}."
            if not self.encodable:
                remedy = f"Variables of these dtypes can be compressed: {', '.join(map(str, DTYPES))}."
            raise ConfigError(
                f"Expected at least one variable to compress. Got {'; '.join(reasons) or 'no data variables'}. {remedy}"
            )
        for name, reason in left.items() if not asked else ():  # what is asked for is refused later on
            logger.warning("Variable %r is stored exactly by another codec: %s. Name it to compress it.", name, reason)
        for name, reason in self.unsuited.items():
            logger.info("Variable %r is stored exactly by another codec: %s.", name, reason)
        return taken


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one variable is stored; `rechunk` holds the Dask chunks that it needs first, by dimension."""

    config: CodecConfig
    grid: Grid
    rechunk: dict[Hashable, int]


def plan(dataset: xr.Dataset, request: Request, *, named: bool = False, rechunk: bool = False) -> dict[Hashable, Plan]:
    """Plans of the variables that are compressed.

    Parameters
    ----------
    dataset
        The data.
    request
        What is wanted.
    named
        The dataset holds one variable, which the caller pointed at: it need not be floating.
    rechunk
        Dask chunks may be changed where they do not suit.
    """
    request.check()
    request.check_dims(dataset.sizes)
    qualities = by_variable(dataset, request, named=named)
    if isinstance(request.nodata, Mapping):
        for name in request.nodata:
            known("nodata", "variables that are compressed", name, qualities)
    return plan_each(dataset, qualities, request, rechunk=rechunk)


def plan_each(
    dataset: xr.Dataset, qualities: Mapping[Hashable, dict[str, Any]], request: Request, *, rechunk: bool = False
) -> dict[Hashable, Plan]:
    """Plans of variables by their quality targets, which stand for those of the request."""
    plans = {}
    for name, quality in qualities.items():
        try:
            plans[name] = plan_variable(dataset[name], quality, request, rechunk=rechunk)
        except ConfigError as error:
            if repr(name) in str(error):
                raise
            raise type(error)(f"{error} (variable {name!r})") from None
    return plans


def check_scaled(model: Model, variable: xr.DataArray, roles: Roles, quality: Mapping[str, Any]) -> None:
    """Refuse a bound for all channels, or channels in another order, with a model that has bounds of each."""
    if quality and dict(quality) != model.target:
        raise ConfigError(
            f"Expected no quality target beside a model with a bound for each channel. Got {dict(quality)}. Leave it "
            "out, or fit a model to other bounds."
        )
    meant = model.description.get("channel_labels")
    if meant is None or roles.channel is None or (dim := variable.dims[roles.channel]) not in variable.coords:
        return
    labels = [str(label) for label in variable[dim].values]
    if labels != list(meant):
        raise ConfigError(
            f"Expected the channels of the model, {', '.join(map(str, meant))}, in this order: each has its own bound. "
            f"Got {', '.join(labels)}. Select them so, by .sel({dim}=[...]), or fit a model to this order."
        )


def plan_variable(variable: xr.DataArray, quality: dict[str, Any], request: Request, *, rechunk: bool) -> Plan:
    """Plan of one variable under one quality target, in units that the user sees."""
    stored = as_stored(variable)
    if stored.dtype.newbyteorder("=") not in DTYPES:
        raise ConfigError(
            f"Expected variable {variable.name!r} to be stored as {', '.join(t.name for t in DTYPES)}. "
            f"Got {stored.dtype}. Cast it, or do not name it and it is stored exactly by another codec."
        )
    roles = resolve_roles(variable, request.channel_dim, request.signal_dims)
    wanted = request.nodata.get(variable.name) if isinstance(request.nodata, Mapping) else request.nodata
    nodata = find_nodata(variable.name, stored, wanted)
    if nodata is None and request.model is not None and "nodata" in request.model.description:
        if request.model.description.get("dtype") == stored.dtype.newbyteorder("=").name:
            nodata = request.model.description["nodata"]
    config = CodecConfig(
        channel_axis=roles.channel,
        signal_axes=roles.signal,
        nodata=nodata,
        profile=request.profile,
        model=request.reference,
        **(request.model.target if request.model and not quality else in_packed_units(variable, stored, quality)),
    )
    if request.model is not None:
        library.add(request.model)
        if request.model.scaled:
            check_scaled(request.model, variable, roles, quality)

    def choose(dask_chunks: tuple[tuple[int, ...], ...] | None) -> Grid:
        def grid_of(chunks: Mapping[Hashable, int] | None) -> Grid:
            return choose_grid(
                variable.name,
                variable.dims,
                variable.shape,
                stored.dtype.itemsize,
                roles,
                multiple=2 ** (config.levels if request.model is None else request.model.levels),
                chunks=chunks,
                shards=request.shards,
                dask_chunks=dask_chunks,
            )

        grid = grid_of(request.chunks)
        if request.model is None or config.misfit(request.model, grid.chunks) is None:
            return grid
        sides = {variable.dims[axis]: request.model.published.side for axis in roles.signal}
        return grid_of({**sides, **(request.chunks or {})})

    unmixed = unmixed_dims(variable, roles, request)
    if unmixed:
        logger.warning(
            "Variable %r has no channel dimension that is known as such. If %r holds bands, electrodes or components, "
            "say channel_dim=%r: it compresses several times better then. If not, name signal_dims.",
            variable.name,
            unmixed[0],
            unmixed[0],
        )
    grid, needed = choose_aligned(choose, variable, roles.channel, stored.dtype.itemsize) if rechunk else (None, {})
    grid = grid or choose(variable.chunks)
    config.check(grid.chunks, stored.dtype)
    if request.model is not None:
        config.check_model(request.model, grid.chunks)
    if roles.channel is not None and not roles.series and grid.chunks[roles.channel] < variable.shape[roles.channel]:
        logger.warning(
            "Variable %r is cut along its channel dimension %r into chunks of %d, which costs compression.",
            variable.name,
            variable.dims[roles.channel],
            grid.chunks[roles.channel],
        )
    return Plan(config=config, grid=grid, rechunk=needed)


def choose_aligned(
    choose: Callable[[tuple[tuple[int, ...], ...] | None], Grid],
    variable: xr.DataArray,
    channel: int | None,
    itemsize: int,
) -> tuple[Grid, dict[Hashable, int]]:
    """Grid that suits the data, and the Dask chunks to make first where those that are there do not suit the grid."""
    free = choose(None)
    if variable.chunks is None:
        return free, {}
    try:
        grid = choose(variable.chunks)
    except ConfigError:
        pass
    else:
        whole = channel is None or grid.chunks[channel] == free.chunks[channel]
        if whole and math.prod(grid.chunks) * itemsize >= min(LEAST_CHUNK, math.prod(free.chunks) * itemsize):
            return grid, {}
    return free, dict(zip(variable.dims, free.unit, strict=True))


def by_variable(dataset: xr.Dataset, request: Request, *, named: bool) -> dict[Hashable, dict[str, Any]]:
    """Quality targets by the variables that are compressed."""
    mappings = request.mappings
    if not mappings:
        quality = request.quality
        return dict.fromkeys(suited(dataset, request, named=named).take(), quality)
    result: dict[Hashable, dict[str, Any]] = {}
    for key, mapping in mappings.items():
        for name, value in mapping.items():
            known(key, "data variables", name, dataset.data_vars)
            if name in result:
                raise ConfigError(f"Expected one of max_error and snr for variable {name!r}. Got both.")
            result[name] = parse_quality(**{key: value})
    return result


def suited(dataset: xr.Dataset, request: Request, *, named: bool) -> Suited:
    """Which variables a quality target for all of them applies to."""
    parts = named_by_others(dataset, PARTS if named else ("coordinates", *PARTS))
    reasons = {
        name: parts.get(name) or reason_against(variable, request, named)
        for name, variable in dataset.data_vars.items()
    }
    doubts = {name: reason_to_ask(dataset[name], request) for name, reason in reasons.items() if reason is None}
    return Suited(
        certain=tuple(name for name, doubt in doubts.items() if doubt is None),
        unsure={name: doubt for name, doubt in doubts.items() if doubt is not None},
        unsuited={name: reason for name, reason in reasons.items() if reason is not None},
        encodable=any(as_stored(v).dtype.newbyteorder("=") in DTYPES for v in dataset.data_vars.values()),
    )


def parse_quality(**targets: Any) -> dict[str, Any]:
    """One checked quality target, 0 as lossless."""
    given = [key for key, value in targets.items() if value is not None and value is not False]
    if len(given) != 1:
        raise ConfigError(
            f"Expected exactly one of max_error, snr and lossless. Got {' and '.join(given) or 'none'}. "
            "max_error is the largest error that any value may have, and the usual choice."
        )
    config = CodecConfig(signal_axes=(0,), **targets)
    return {key: value for key, value in config.to_json().items() if key in ("max_error", "snr", "lossless")}


def reason_against(variable: xr.DataArray, request: Request, named: bool) -> str | None:
    """Why a quality target for all variables does not apply to this one; None where it does."""
    dtype = as_stored(variable).dtype
    flags = [name for name in FLAGS if name in variable.attrs]
    if dtype.newbyteorder("=") not in DTYPES:
        return f"its dtype {dtype} is not one that xwalloc encodes"
    if flags and variable.dtype.kind in "iu":
        return f"it holds flags ({flags[0]})"
    if not named and (attribute := coordinate_attribute(variable)) is not None:
        return f"it is a coordinate ({attribute} {variable.attrs[attribute]!r})"
    if request.channel_dim is not None and request.channel_dim not in variable.dims:
        return f"it has no dimension {request.channel_dim!r}"
    asked = request.lossless or request.max_error == 0 or made_for(request.model, variable)
    if request.channel_dim is None and variable.dtype.kind != "f" and not named and not asked:
        return f"it holds integers ({variable.dtype})"
    if set(variable.dims) <= {resolve_channel(variable, request.channel_dim, request.signal_dims)}:
        return "it has no signal dimension"
    return None


def made_for(model: Model | None, variable: xr.DataArray) -> bool:
    """Whether a model was fitted to a variable like this one: its dtype, dimensions and number of channels."""
    if model is None or model.description.get("dtype") != as_stored(variable).dtype.newbyteorder("=").name:
        return False
    channel, signal = model.description.get("channel_dim"), model.description.get("signal_dims", ())
    there = {*signal, channel} - {None} <= set(variable.dims)
    return there and (channel is None or variable.sizes[channel] == model.channels)


def reason_to_ask(variable: xr.DataArray, request: Request) -> str | None:
    """Why the roles of the dimensions of a variable cannot be guessed; None where they can."""
    try:
        resolve_roles(variable, request.channel_dim, request.signal_dims)
    except ConfigError:
        return f"its signal dimensions cannot be guessed from {variable.dims}"
    return None


def coordinate_attribute(variable: xr.DataArray) -> str | None:
    """Attribute by which CF says that a variable is time, latitude, longitude or a coordinate of a projection."""
    said = {key: str(variable.attrs.get(key, "")).lower() for key in ("standard_name", "units")}
    if STANDARD_NAMES.get(said["standard_name"]) in ("t", "y", "x"):
        return "standard_name"
    return "units" if UNITS.get(said["units"].replace(" ", "_")) in ("y", "x") else None


def named_by_others(dataset: xr.Dataset, keys: Sequence[str]) -> dict[Hashable, str]:
    """Variables that others name in some of their CF attributes, with the reason to leave them exact."""
    found: dict[Hashable, str] = {}
    for name, variable in dataset.variables.items():
        for key in keys:
            named = np.ravel({**variable.encoding, **variable.attrs}.get(key, ""))
            for part in set(" ".join(map(str, named)).split()) - {name}:
                found[part] = f"it is what {name!r} names as its {key}"
    return found


def unmixed_dims(variable: xr.DataArray, roles: Roles, request: Request) -> list[Hashable]:
    """Dimensions that are left over as batch and might be channels, where all was guessed."""
    if roles.channel is not None or request.channel_dim is not None or request.signal_dims is not None:
        return []
    kinds = guess_kinds(variable)
    left = [dim for axis, dim in enumerate(variable.dims) if axis not in roles.signal]
    return [dim for dim in left if kinds[dim] is None and variable.sizes[dim] >= UNMIXED]
