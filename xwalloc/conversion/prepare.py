"""The store of a conversion before its first unit is written, and after its last."""

from __future__ import annotations

import warnings
from typing import Any

import dask.array
import zarr
from zarr.abc.store import Store
from zarr.storage import MemoryStore

from xwalloc.conversion import store as objects
from xwalloc.conversion.manifest import is_metadata
from xwalloc.conversion.plan import ArrayPlan, Plan
from xwalloc.errors import ConfigError
from xwalloc.models import sidecar
from xwalloc.models.model import PREFIX, ModelReference
from xwalloc.version import __version__

__all__ = ["array_metadata", "bytes_beside", "finish_groups", "is_finished", "layout", "put_arrays"]

ATTRIBUTE = "xwalloc"
"""Attribute of the root group that says where a store comes from."""


def layout(plan: Plan, created: str, missing: dict[str, str]) -> dict[str, bytes]:
    """Objects of the store but for units: metadata, coordinates, and a model that lies beside the arrays.

    Parameters
    ----------
    plan
        The conversion.
    created
        When it was begun, ISO 8601.
    missing
        Sources that were left out, with the reason.
    """
    memory = MemoryStore()
    root: zarr.Group = zarr.create_group(memory, zarr_format=plan.zarr_format)  # type: ignore[arg-type]
    for number, (granule, template) in enumerate(zip(plan.granules, plan.templates, strict=True)):
        arrays = [array for array in plan.arrays if array.granule == number]
        dataset = template.assign(
            {a.variable: (a.dims, dask.array.zeros(a.shape, chunks=a.shape, dtype=a.dtype)) for a in arrays}
        )
        encoding: dict[Any, dict[str, Any]] = {a.variable: encoding_of(a, plan.zarr_format) for a in arrays}
        for name, variable in template.variables.items():
            dataset[name].attrs = variable.attrs
            if "_FillValue" not in variable.attrs:  # xarray would declare NaN
                encoding.setdefault(name, {})["_FillValue"] = None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="zarr")  # of names of dtypes that Zarr v3 does not know
            try:
                dataset.to_zarr(
                    memory, group=granule.path or None, mode="a", compute=False, consolidated=False, encoding=encoding,
                    zarr_format=plan.zarr_format,
                )  # fmt: skip
            except (ValueError, TypeError, NotImplementedError) as error:
                raise ConfigError(
                    f"Expected what Zarr {plan.zarr_format} can hold. Got {granule.source.name}: {error}. Leave out or "
                    "change what is named, or give the source as a dataset of xarray without it."
                ) from error
    if plan.model is not None and ModelReference.of(plan.model).weights is None:
        sidecar.write(root, plan.model)
    root = zarr.open_group(memory, mode="r+")  # with the attributes that it has now
    root.attrs[ATTRIBUTE] = provenance(plan, created, missing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata are no part of Zarr v3 yet
        for path in sorted({granule.path for granule in plan.granules} - {""}):
            zarr.consolidate_metadata(memory, path=path, zarr_format=plan.zarr_format)  # type: ignore[arg-type]
        zarr.consolidate_metadata(memory, zarr_format=plan.zarr_format)  # type: ignore[arg-type]
    return {key: objects.get(memory, key) or b"" for key in objects.keys(memory, "")}


def encoding_of(array: ArrayPlan, zarr_format: int) -> dict[str, Any]:
    """Encoding of xarray for an array."""
    result: dict[str, Any] = {"chunks": array.grid.chunks}
    if array.grid.shards:
        result["shards"] = array.grid.shards
    if array.config is None:
        return result
    if zarr_format == 2:
        from xwalloc import numcodecs

        return {**result, "compressors": numcodecs.Walloc(**array.config.to_json()), "filters": None}
    from xwalloc import zarr as v3

    return {**result, "serializer": v3.Walloc(**array.config.to_json()), "compressors": (), "filters": ()}


def provenance(plan: Plan, created: str, missing: dict[str, str]) -> dict[str, Any]:
    """What the attribute of the root group says."""
    bounds = {
        array.path: {k: v for k, v in array.config.to_json().items() if k in ("max_error", "snr", "lossless")}
        for array in plan.arrays
        if array.config is not None
    }
    found: dict[str, Any] = {
        "version": __version__,
        "created": created,
        "sources": {granule.path: granule.source.name for granule in plan.granules},
        "settings": plan.settings,
        "as_stored": bounds,
    }
    return {**found, "missing": missing} if missing else found


ORDER = (".zattrs", ".zarray", ".zgroup", "zarr.json", ".zmetadata")
"""Names of metadata in the order in which they are written: what makes an array or a group comes after attributes."""


def array_metadata(plan: Plan, made: dict[str, bytes]) -> tuple[Any, ...]:
    """What Zarr knows of each array that units are written of, from what `layout` made."""
    memory = MemoryStore()
    for key in filter(is_metadata, made):
        objects.put(memory, key, made[key])
    return tuple(zarr.open_array(memory, path=array.path, mode="r").metadata for array in plan.arrays)


def bytes_beside(plan: Plan, made: dict[str, bytes]) -> int:
    """Bytes of metadata and model that belong to the arrays that units are written of."""
    arrays = {array.path for array in plan.arrays}
    model = None if plan.model is None else f"{sidecar.FOLDER}/{plan.model.id.removeprefix(PREFIX)}"
    folders = {key: key.rpartition("/")[0] for key in made}
    return sum(
        len(made[key])
        for key, folder in folders.items()
        if (is_metadata(key) and folder in arrays) or (model is not None and f"{key}/".startswith(f"{model}/"))
    )


def held_back(key: str, nodes: set[str]) -> bool:
    """Whether an object makes one of some nodes of the store what readers can open, or lists the store."""
    folder, _, name = key.rpartition("/")
    return is_metadata(key) and (folder in nodes or name == ".zmetadata")


def groups_of(plan: Plan) -> set[str]:
    """Groups that hold granules, and those around them."""
    found = {""}
    for granule in plan.granules:
        parts = granule.path.split("/")
        found |= {"/".join(parts[:n]) for n in range(1, len(parts) + 1)}
    return found


def put_arrays(store: Store, plan: Plan, made: dict[str, bytes], *, at_once: bool) -> None:
    """Write all that must be there before units are: coordinates and models.

    Metadata of groups, and of arrays that units are written of, come last (`finish_groups`): what lacks units cannot
    be opened, neither the store nor an array by its own path.

    Parameters
    ----------
    at_once
        Whether readers see nothing before they see all, as with Icechunk, which wants arrays before their samples.
    """
    held = groups_of(plan) | (set() if at_once else {array.path for array in plan.arrays})
    for key in sorted(made, key=is_metadata, reverse=at_once):
        if not held_back(key, held):
            objects.put(store, key, made[key])


def finish_groups(store: Store, plan: Plan, made: dict[str, bytes], whole: set[str], *, root: bool) -> None:
    """Make arrays and groups what readers can open, the innermost first and the root last.

    Parameters
    ----------
    whole
        Groups of granules whose units are all written. The root, and groups around others, come only if all are.
    root
        Whether the root may come.
    """
    groups = groups_of(plan)
    arrays = {array.path for array in plan.arrays if plan.granules[array.granule].path in whole}
    complete = root and whole >= {granule.path for granule in plan.granules}
    done = arrays | (groups if complete else whole - {""})
    held = [key for key in made if held_back(key, groups | arrays) and key.rpartition("/")[0] in done]
    for key in sorted(held, key=lambda key: (-key.count("/") if "/" in key else 1, ORDER.index(key.split("/")[-1]))):
        objects.put(store, key, made[key])


def is_finished(store: Store, made: dict[str, bytes]) -> bool:
    """Whether the root group is there, as it was made: sources that were missing may have come since."""
    return all(objects.get(store, key) == made[key] for key in made if "/" not in key)
