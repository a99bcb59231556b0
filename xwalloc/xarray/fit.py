"""`xwalloc.fit`: a model of a whole array from a sample of its blocks, read lazily."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.conventions import encode_cf_variable

from xwalloc.bitstream.frame import DTYPES, AxisRole
from xwalloc.codec.config import CodecConfig, as_number
from xwalloc.codec.layout import Layout
from xwalloc.errors import ConfigError
from xwalloc.fitting.linear import Goal, fit_blocks
from xwalloc.models import library
from xwalloc.models.model import Model
from xwalloc.models.spec import Tree
from xwalloc.xarray.dims import Roles, known, resolve_roles
from xwalloc.xarray.stored import as_stored, find_nodata, in_packed_units

__all__ = ["Source", "fit", "fit_sources"]

logger = logging.getLogger("xwalloc")

SIDES = {1: 4096, 2: 64, 3: 16}
"""Side of a block along every signal axis, by their number."""

MOST_BLOCKS, MOST_BYTES = 32, 1 << 27
"""So many blocks are read at most, and so many bytes."""


def fit(
    obj: xr.DataArray | xr.Dataset,
    *,
    max_error: float | Mapping[Any, float] | None = None,
    snr: float | None = None,
    bits: float | None = None,
    ratio: float | None = None,
    latents: int | None = None,
    channel_dim: Hashable | None = None,
    signal_dims: Hashable | Sequence[Hashable] | None = None,
    nodata: float | None = None,
    levels: int = 4,
    tree: Tree = "dyadic",
) -> Model:
    """Fit a linear model to an array, in closed form.

    Blocks that are spread over the array are read in one pass (with Dask's current scheduler, where the array is one of
    Dask), never all of it. Exactly one quality target is given; units are those of `obj`.

    Parameters
    ----------
    obj
        A variable, or a dataset of one.
    max_error
        Largest absolute error: one value, or a mapping from labels of `channel_dim` to one value each.
    snr
        Signal-to-noise ratio in dB over the sample, 10 log10(variance / mse).
    bits
        Bits per sample.
    ratio
        Raw by stored bytes.
    latents
        Dimension reduction: latents that are kept of each patch of 2^levels samples along every signal axis, those of
        most energy.
    channel_dim, signal_dims
        As for `xwalloc.encoding`.
    nodata
        Value that stands for missing data, as it is stored; by default ``_FillValue`` or ``missing_value``.
    levels, tree
        Depth of the wavelet transform, 0 to 8; which subbands a level splits, "dyadic" or "packet".

    Returns
    -------
    Model
        For `model=` of `xwalloc.encoding` and ``.walloc.to_zarr``. Its quality target is a bound where `max_error` is
        given; otherwise a step of the quantiser, the same for all chunks: their latents are comparable then.

    Raises
    ------
    ConfigError
        If something is not possible; the message says what to do.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> field = np.add.outer(np.arange(64.0), np.arange(64.0))
    >>> scene = xr.DataArray(np.stack([field, 2 * field, field + 5]), dims=("band", "y", "x"), name="scene")
    >>> model = fit(scene, max_error=0.5)
    >>> model.kind, model.target
    ('linear', {'max_error': 0.5})
    """
    source = Source.of(obj, channel_dim=channel_dim, signal_dims=signal_dims, nodata=nodata)
    targets = {"max_error": max_error, "snr": snr, "bits": bits, "ratio": ratio, "latents": latents}
    return fit_sources([source], targets, levels, tree)


@dataclass(frozen=True, kw_only=True)
class Source:
    """An array to make a model of.

    Parameters
    ----------
    variable
        The array as the user has it.
    stored
        The same as xarray stores it.
    roles
        What its axes are.
    nodata
        Value that stands for missing data, as it is stored.
    """

    variable: xr.DataArray
    stored: xr.Variable
    roles: Roles
    nodata: float | None

    @classmethod
    def of(
        cls,
        obj: xr.DataArray | xr.Dataset,
        *,
        channel_dim: Hashable | None,
        signal_dims: Hashable | Sequence[Hashable] | None,
        nodata: float | None,
    ) -> Source:
        """From arguments of `fit`.

        Raises
        ------
        ConfigError
            If no model can be made of it.
        """
        variable = as_variable(obj)
        if channel_dim is not None:
            known("channel_dim", f"a dimension of {variable.name!r}", channel_dim, variable.dims)
        one = isinstance(signal_dims, str) or not isinstance(signal_dims, Sequence | None)
        dims: Any = (signal_dims,) if one else signal_dims
        for dim in dims or ():
            known("signal_dims", f"dimensions of {variable.name!r}", dim, variable.dims)
        stored = as_stored(variable)
        if stored.dtype.newbyteorder("=") not in DTYPES:
            raise ConfigError(
                f"Expected a variable stored as {', '.join(t.name for t in DTYPES)}. Got {stored.dtype}. Cast it first."
            )
        if not variable.size:
            raise ConfigError(f"Expected an array with samples. Got one of shape {variable.shape}.")
        roles = resolve_roles(variable, channel_dim, dims)
        return cls(variable=variable, stored=stored, roles=roles, nodata=find_nodata(variable.name, stored, nodata))

    @property
    def labels(self) -> list[str]:
        """Labels of the channels."""
        axis = self.roles.channel
        return [] if axis is None else [str(label) for label in self.variable[self.variable.dims[axis]].values]

    def part(self, dim: Hashable, start: int, stop: int | None) -> Source:
        """A region of the array."""
        return replace(self, variable=self.variable.isel({dim: slice(start, stop)}))

    @property
    def extent(self) -> list[int]:
        """Samples along every signal axis."""
        return [self.variable.shape[axis] for axis in self.roles.signal]

    def blocks(self, sides: Sequence[int], most: int) -> list[NDArray[Any]]:
        """At most so many blocks (batch, channel, z, y, x) as they are stored, spread over the array."""
        return [canonical(block, self.roles) for block in sample(self.variable, self.roles, sides, most)]

    @property
    def about(self) -> dict[str, Any]:
        """What a description says of it."""
        dims, channel = self.variable.dims, self.roles.channel
        return {
            **({} if self.nodata is None else {"nodata": float(self.nodata)}),
            "dtype": self.stored.dtype.newbyteorder("=").name,
            "channel_dim": None if channel is None else str(dims[channel]),
            "signal_dims": [str(dims[axis]) for axis in self.roles.signal],
        }


def fit_sources(sources: Sequence[Source], targets: Mapping[str, Any], levels: int, tree: Tree) -> Model:
    """Fit a model to arrays of the same kind; arguments are those of `fit`."""
    source, *_ = sources
    roles = source.roles
    config = CodecConfig(channel_axis=roles.channel, signal_axes=roles.signal, step=1.0, levels=levels, tree=tree)
    goal = goal_of(source.variable, source.stored, roles, **targets)
    dimensions = len(roles.signal)
    sides, most = [SIDES[dimensions]] * dimensions, max(1, MOST_BLOCKS // len(sources))
    blocks = [block for each in sources for block in each.blocks(sides, most)]
    return library.add(
        fit_blocks(
            blocks, goal, dimensions=dimensions, nodata=source.nodata, levels=config.levels, tree=config.tree,
            about=source.about if goal.scales is None else {**source.about, "channel_labels": source.labels},
        )
    )  # fmt: skip


def as_variable(obj: Any) -> xr.DataArray:
    """The one variable that is meant."""
    if isinstance(obj, xr.DataArray):
        return obj
    if isinstance(obj, xr.Dataset) and len(obj.data_vars) == 1:
        return next(iter(obj.data_vars.values()))
    got = f"a Dataset of {list(obj.data_vars)}" if isinstance(obj, xr.Dataset) else type(obj).__name__
    raise ConfigError(f"Expected a DataArray, or a Dataset of one variable. Got {got}. Fit every variable by itself.")


def goal_of(variable: xr.DataArray, stored: xr.Variable, roles: Roles, **targets: Any) -> Goal:
    """The quality target in units of the stored samples."""
    given = {name: value for name, value in targets.items() if value is not None}
    if len(given) != 1:
        raise ConfigError(
            f"Expected exactly one of {', '.join(targets)}. Got {' and '.join(given) or 'none'}. max_error is the "
            "largest error that any value may have, and the usual choice."
        )
    ((name, value),) = given.items()
    scales = None
    if isinstance(value, Mapping):
        bounds = by_channel(variable, roles, value)
        value = float(bounds.min())
        scales = bounds / value
    number = as_number(value)
    if name == "latents" and number is not None and number != round(number):
        raise ConfigError(f"Expected latents to be a number of latents. Got {value!r}.")
    if number is None or not (math.isfinite(number) and number > 0):
        raise ConfigError(f"Expected {name} to be a finite number above 0. Got {value!r}.")
    if name == "max_error":
        packed = in_packed_units(variable, stored, {"max_error": float(number)})
        if "max_error" not in packed:
            raise ConfigError(
                f"Expected a max_error that packing leaves room for. Got {number:g}, which is below the rounding of "
                f"scale_factor. Lossless chunks need no model: leave it out, or drop the packing."
            )
        return Goal(quality="max_error", value=packed["max_error"], scales=scales)
    return Goal(quality=name, value=float(number))  # type: ignore[arg-type]


def by_channel(variable: xr.DataArray, roles: Roles, bounds: Mapping[Any, float]) -> NDArray[np.float64]:
    """Bound of every channel, from a mapping by its label."""
    if roles.channel is None:
        raise ConfigError(f"Expected one max_error, since there is no channel dimension. Got {dict(bounds)!r}.")
    dim = variable.dims[roles.channel]
    labels = [label.item() if hasattr(label, "item") else label for label in variable[dim].values]
    for label in bounds:
        known("max_error", f"labels of {dim!r}", label, labels)
    if missing := [label for label in labels if label not in bounds]:
        raise ConfigError(
            f"Expected a max_error for every label of {dim!r}. Got none for {len(missing)} of them: "
            f"{missing[:5]!r:.200}. Name them all."
        )
    found = np.array([as_number(bounds[label]) or math.nan for label in labels], np.float64)
    if not (np.isfinite(found).all() and (found > 0).all()):
        raise ConfigError(f"Expected every max_error to be a finite number above 0. Got {dict(bounds)!r:.200}.")
    return found


def sample(variable: xr.DataArray, roles: Roles, sides: Sequence[int], most: int) -> list[NDArray[Any]]:
    """At most so many blocks as they are stored, spread over the signal and batch axes, with all channels."""
    size = dict.fromkeys(range(variable.ndim), 1)
    size |= {axis: min(side, variable.shape[axis]) for axis, side in zip(roles.signal, sides, strict=True)}
    if roles.channel is not None:
        size[roles.channel] = variable.shape[roles.channel]
    counts = [variable.shape[axis] // size[axis] for axis in range(variable.ndim)]
    nbytes = math.prod(size.values()) * variable.dtype.itemsize
    total = math.prod(counts)
    number = max(1, min(total, most, MOST_BYTES // nbytes))
    # A stride that shares no factor with the number of blocks visits rows and columns alike.
    stride = next(k for k in itertools.count(max(1, round(total * 0.6180339887))) if math.gcd(k, total) == 1)
    chosen = sorted(i * stride % total for i in range(number))
    logger.debug("Reading %d of %d blocks of %r.", number, total, variable.name)
    slack = [n - count * size[axis] for axis, (n, count) in enumerate(zip(variable.shape, counts, strict=True))]
    parts = {}
    for place in chosen:
        index = np.unravel_index(place, counts)
        starts = [int(i) * size[axis] + slack[axis] // 2 for axis, i in enumerate(index)]
        box = {dim: slice(starts[axis], starts[axis] + size[axis]) for axis, dim in enumerate(variable.dims)}
        parts[str(place)] = variable.isel(box).variable
    loaded = xr.Dataset(parts).load()  # one pass, whoever computes
    return [as_stored_values(loaded[name], variable.name) for name in parts]


def as_stored_values(part: xr.DataArray, name: Hashable) -> NDArray[Any]:
    """Samples as xarray stores them, CF packing included."""
    encoding = {key: value for key, value in part.encoding.items() if key != "chunks"}
    plain = xr.Variable(part.dims, part.values, part.attrs, encoding)
    values: NDArray[Any] = encode_cf_variable(plain, name=name).values
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def canonical(block: NDArray[Any], roles: Roles) -> NDArray[Any]:
    """A block as (batch, channel, z, y, x)."""
    found = [AxisRole.BATCH] * block.ndim
    for axis in roles.signal:
        found[axis] = AxisRole.SIGNAL
    if roles.channel is not None:
        found[roles.channel] = AxisRole.CHANNEL
    return np.ascontiguousarray(Layout(block.shape, tuple(found)).arrange(block))
