"""`Model.encode` and `Model.decode` for arrays of NumPy, torch and xarray."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from array_api_compat import is_torch_array

from xwalloc.errors import ConfigError
from xwalloc.models import latents as core
from xwalloc.models.model import PUBLISHED
from xwalloc.models.published import BORDER

if TYPE_CHECKING:
    from xwalloc.models.model import Model

__all__ = ["LATENT", "chunk_coordinate", "decode", "encode", "patch_dims"]

LATENT = "latent"


def patch_dims(signal_dims: Sequence[Any]) -> list[str]:
    """Names of the axes of the grid of patches."""
    return [f"{dim}_patch" for dim in signal_dims]


def chunk_coordinate(dim: Any) -> str:
    """Name of the coordinate that says which chunk of a store a patch lies in.

    Its attributes are the samples of a chunk, and the extent of the array along the axis.
    """
    return f"{dim}_chunk"


def encode(model: Model, array: Any) -> Any:
    """`Model.encode`."""
    if hasattr(array, "data_vars"):
        raise ConfigError(f"Expected an array. Got a Dataset of {list(array.data_vars)}. Name one of its variables.")
    if hasattr(array, "dims"):
        return _encode_named(model, array)
    d, one = model.dimensions, model.channels == 1
    plain = _numpy(array)
    if one and (plain.ndim == d or (plain.ndim > d and plain.shape[-d - 1] != 1)):
        plain = np.expand_dims(plain, -d - 1)
    if plain.ndim <= d:
        raise ConfigError(f"Expected samples of shape (..., {model.channels}, and {d} signal axes). Got {plain.shape}.")
    lead = plain.shape[: -d - 1]
    canonical = plain.reshape(math.prod(lead), plain.shape[-d - 1], *(1,) * (3 - d), *plain.shape[-d:])
    if model.kind == PUBLISHED:
        found = model.published.latents_of(plain.reshape(-1, *plain.shape[-d - 1 :]))
    else:
        found = core.encode(model.fitted, np.ascontiguousarray(canonical), core.step_of(model.fitted, model.target))
    return _like(found.reshape(*lead, found.shape[1], *found.shape[-d:]), array)


def decode(model: Model, latents: Any, shape: Sequence[int] | None) -> Any:
    """`Model.decode`."""
    if hasattr(latents, "dims"):
        return _decode_named(model, latents, shape)
    d = model.dimensions
    plain = _numpy(latents)
    if plain.ndim <= d:
        raise ConfigError(f"Expected latents of shape (..., latent, and {d} patch axes). Got {plain.shape}.")
    if not np.isfinite(plain).all():
        raise ConfigError("Expected finite latents. Got NaN or infinities: fill them first, with 0 for the mean.")
    lead, extent = plain.shape[: -d - 1], plain.shape[-d:]
    border = BORDER[d] if model.kind == PUBLISHED else 0
    signal = tuple((n - border) << model.levels for n in extent) if shape is None else tuple(shape)
    if len(signal) != d:
        raise ConfigError(f"Expected shape to be the extent of {d} signal axes. Got {signal}.")
    absent = (1,) * (3 - d)
    canonical = plain.reshape(math.prod(lead), plain.shape[-d - 1], *absent, *extent)
    if model.kind == PUBLISHED:
        found = model.published.samples_of(plain.reshape(-1, *plain.shape[-d - 1 :]), signal)
    else:
        step = core.step_of(model.fitted, model.target)
        found = core.decode(model.fitted, canonical, step, (*absent, *signal))
    return _like(found.reshape(*lead, found.shape[1], *signal), latents)


def _encode_named(model: Model, array: Any) -> Any:
    import xarray as xr

    channel, signal = _dims(model, array)
    before = [dim for dim in array.dims if dim not in (channel, *signal)]
    ordered = array.transpose(*before, *([channel] if channel in array.dims else []), *signal)
    found = encode(model, ordered.values)
    attrs: dict[str, Any] = {}
    if model.kind == PUBLISHED:
        if not BORDER[len(signal)]:  # else the first latent lies before the first patch
            attrs["patch"] = [model.published.patch] * len(signal)
    else:
        z, y, x = (1,) * (3 - len(signal)) + ordered.shape[-len(signal) :]
        attrs["extent"] = list(ordered.shape[-len(signal) :])
        attrs["patch"] = [1 << splits for splits in model.fitted.grid((z, y, x)).plan.splits[-len(signal) :]]
        attrs["step"] = core.step_of(model.fitted, model.target)
    return xr.DataArray(
        found, dims=(*before, LATENT, *patch_dims(signal)), name=array.name, attrs=attrs,
        coords={dim: array.coords[dim] for dim in before if dim in array.coords},
    )  # fmt: skip


def _decode_named(model: Model, latents: Any, shape: Sequence[int] | None) -> Any:
    import xarray as xr

    signal = list(model.description.get("signal_dims", ()))
    if model.kind == PUBLISHED:  # was made without names of dimensions
        signal = [str(dim).removesuffix("_patch") for dim in latents.dims if str(dim).endswith("_patch")]
    channel = model.description.get("channel_dim") or "channel"
    wanted = (LATENT, *patch_dims(signal))
    if not set(wanted) <= set(latents.dims):
        raise ConfigError(f"Expected latents with dimensions {wanted}. Got {latents.dims}.")
    before = [dim for dim in latents.dims if dim not in wanted]
    ordered = latents.transpose(*before, *wanted)
    if shape is None and all(chunk_coordinate(dim) in latents.coords for dim in signal):
        found = _decode_chunks(model, ordered, signal)
    else:
        found = decode(model, ordered.values, _extent(latents, signal) if shape is None else shape)
    coords = {dim: latents.coords[dim] for dim in before if dim in latents.coords}
    dims = [*before, channel, *signal]
    if model.kind != PUBLISHED and model.description.get("channel_dim") is None:
        found, dims = found.squeeze(-len(signal) - 1), [*before, *signal]
    return xr.DataArray(found, dims=dims, coords=coords, name=latents.name)


def _decode_chunks(model: Model, latents: Any, signal: Sequence[Any]) -> Any:
    """Samples of latents of a store, whose chunks were encoded each by itself: (..., channel, *signal)."""
    marks = [latents.coords[chunk_coordinate(dim)] for dim in signal]
    sizes = [int(mark.attrs["samples"]) for mark in marks]
    runs = []  # along every axis: samples of a chunk, and its patches
    for mark, size in zip(marks, sizes, strict=True):
        edges = [0, *(np.flatnonzero(np.diff(mark.values)) + 1), mark.size]
        lengths = [min(size, int(mark.attrs["extent"]) - int(mark.values[start]) * size) for start in edges[:-1]]
        patches = [slice(start, stop) for start, stop in itertools.pairwise(edges)]
        runs.append(list(zip(lengths, patches, strict=True)))
    values = latents.values

    def block(place: tuple[tuple[int, slice], ...]) -> Any:
        if len(place) < len(runs):
            return [block((*place, run)) for run in runs[len(place)]]
        try:
            found = decode(model, values[(..., *(patches for _, patches in place))], sizes)
        except ConfigError as error:
            names = ", ".join(map(chunk_coordinate, signal))
            raise ConfigError(f"{error} Select whole chunks of the store: see the coordinates {names}.") from None
        return found[(..., *(slice(n) for n, _ in place))]

    return np.block(block(()))


def _extent(latents: Any, signal: Sequence[Any]) -> tuple[int, ...] | None:
    """Samples along the signal axes of what `encode` made of an array; None where that is not said."""
    extent, widths = latents.attrs.get("extent"), latents.attrs.get("patch")
    if extent is None or widths is None:
        return None
    there = [latents.sizes[dim] for dim in patch_dims(signal)]
    whole = there == [-(-n // width) for n, width in zip(extent, widths, strict=True)]
    return tuple(extent) if whole else tuple(n * width for n, width in zip(there, widths, strict=True))


def _dims(model: Model, array: Any) -> tuple[Any, list[Any]]:
    if model.kind == PUBLISHED:
        d = model.dimensions
        has_channel = array.ndim > d and (model.channels > 1 or array.shape[-d - 1] == 1)
        return (array.dims[-d - 1] if has_channel else None), list(array.dims[-d:])
    channel, signal = model.description.get("channel_dim"), list(model.description.get("signal_dims", ()))
    missing = [dim for dim in (*([channel] if channel else []), *signal) if dim not in array.dims]
    if missing or not signal:
        raise ConfigError(
            f"Expected an array with the dimensions that the model was fitted to, {channel} and {signal}. "
            f"Got {array.dims}. Rename them."
        )
    return channel, signal


def _numpy(array: Any) -> Any:
    if not is_torch_array(array):
        return np.asarray(array)
    there = array.detach().cpu()
    try:
        return there.numpy()
    except TypeError:  # bfloat16
        return there.float().numpy()


def _like(found: Any, given: Any) -> Any:
    """As a tensor on the device of what was given, where that was one."""
    if not is_torch_array(given):
        return found
    from array_api_compat import array_namespace

    return array_namespace(given).asarray(np.ascontiguousarray(found), device=given.device)
