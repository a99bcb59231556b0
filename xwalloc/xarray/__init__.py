"""xarray's way in: an encoding for `Dataset.to_zarr`, and the accessor ``.walloc``.

The default chunks suit the codec, and no task writes part of a chunk: that would encode the rest of it a second time.
For the same reason later writes to a store (``region=``, ``append_dim=``) should cover whole chunks.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import xarray as xr

from xwalloc.codec.config import Profile
from xwalloc.errors import ConfigError
from xwalloc.models.model import Model
from xwalloc.xarray.plan import PerVariable, Plan, Request, plan

__all__ = ["WallocAccessor", "encoding"]

UNNAMED = "__xarray_dataarray_variable__"  # what xarray itself stores a DataArray as that has no usable name

KEPT = frozenset(  # keys of a variable's own encoding that Zarr and CF know; the rest belongs to the file it came from
    "dtype _FillValue missing_value scale_factor add_offset _Unsigned grid_mapping bounds "
    "node_coordinates node_count part_node_count interior_ring cell_measures formula_terms write_empty_chunks "
    "climatology geometry".split()
)


def encoding(
    obj: xr.Dataset | xr.DataArray,
    *,
    max_error: PerVariable[float] = None,
    snr: PerVariable[float] = None,
    lossless: bool = False,
    channel_dim: Hashable | None = None,
    signal_dims: Hashable | Sequence[Hashable] | None = None,
    model: Model | None = None,
    nodata: PerVariable[float] = None,
    chunks: Mapping[Hashable, int] | None = None,
    shards: Mapping[Hashable, int] | None = None,
    profile: Profile = "default",
    zarr_format: int = 3,
) -> dict[Hashable, dict[str, Any]]:
    """Encoding for ``to_zarr(store, zarr_format=..., encoding=...)`` that compresses with xwalloc.

    Exactly one of `max_error`, `snr` and `lossless` is given, or none where a model says it. One value applies to the
    variables that have `channel_dim` where that is given, else to the floating ones; integer flags (attributes
    ``flag_values``, ``flag_masks``, ``flag_meanings``) are taken only where a mapping names them. So are variables that
    CF says are coordinates (``standard_name`` or ``units`` of time, latitude, longitude or a projection; named in
    ``coordinates`` of another), unless `obj` is that variable. Other variables and all coordinates of `obj` are left
    out and stored exactly.

    Parameters
    ----------
    obj
        What will be written. Nothing is computed.
    max_error
        Largest absolute error in the units of `obj`: one value, or a mapping by variable name. Where CF packing
        (``scale_factor``) is on, the rounding of packing counts towards it.
    snr
        Signal-to-noise ratio in dB, 10 log10(variance / mse), of every chunk: one value, or a mapping by variable name.
    lossless
        Every stored value comes back bit for bit.
    channel_dim
        Dimension that the linear encoder mixes (band, electrode ...). None: guessed from names and CF attributes; maps
        without one are mixed along time.
    signal_dims
        The 1 to 3 dimensions that the wavelet runs over. None: guessed likewise. Others are batch dimensions.
    model
        Model that all chunks share, from `xwalloc.fit` or `xwalloc.load_model`; it travels in the metadata of the
        array, up to 512 KiB; ``.walloc.to_zarr`` takes larger ones. Where no quality target is given, it is the
        model's. None: every chunk carries its own model.
    nodata
        Value that stands for missing data, as it is stored: one value, or a mapping by variable name. The default is
        ``_FillValue`` or ``missing_value``. NaN and infinities are always kept.
    chunks, shards
        Sizes by dimension, -1 for the whole axis. Default: chunks of at most 16 MiB with all channels, no shards.
    profile
        "default": stores are smallest. "parallel": a CUDA device can encode them, and decode them fast; CPUs can, too.
    zarr_format
        2 or 3, as it will be given to `to_zarr`.

    Returns
    -------
    dict
        By variable name; what a variable's own ``.encoding`` says about packing and grid mapping is kept.

    Raises
    ------
    ConfigError
        If something is not possible, or dimensions cannot be guessed, or the chunks do not fit the Dask chunks.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> ds = xr.Dataset({"reflectance": (("band", "y", "x"), np.zeros((8, 64, 64), "f4"))})
    >>> found = encoding(ds, max_error=0.002)  # for ds.to_zarr("scene.zarr", encoding=found)
    >>> found["reflectance"]["serializer"], found["reflectance"]["chunks"]
    (Walloc(channel_axis=0, signal_axes=[1, 2], max_error=0.002), (8, 64, 64))
    """
    request = Request(
        max_error=max_error,
        snr=snr,
        lossless=lossless,
        channel_dim=channel_dim,
        signal_dims=as_dims(signal_dims),
        model=model,
        nodata=nodata,
        chunks=chunks,
        shards=shards,
        profile=profile,
        zarr_format=zarr_format,
    )
    dataset = as_dataset(obj)
    plans = plan(dataset, request, named=isinstance(obj, xr.DataArray))
    return {name: as_encoding(dataset[name], item, zarr_format) for name, item in plans.items()}


class WallocAccessor:
    """``.walloc`` on datasets and data arrays."""

    def __init__(self, obj: xr.Dataset | xr.DataArray) -> None:
        self._obj = obj

    def to_zarr(
        self,
        store: Any,
        *,
        max_error: PerVariable[float] = None,
        snr: PerVariable[float] = None,
        lossless: bool = False,
        channel_dim: Hashable | None = None,
        signal_dims: Hashable | Sequence[Hashable] | None = None,
        model: Model | None = None,
        nodata: PerVariable[float] = None,
        chunks: Mapping[Hashable, int] | None = None,
        shards: Mapping[Hashable, int] | None = None,
        profile: Profile = "default",
        zarr_format: int = 3,
        encoding: Mapping[Hashable, Mapping[str, Any]] | None = None,
        **arguments: Any,
    ) -> Any:
        """Write to Zarr, compressed with xwalloc; Dask arrays are rechunked lazily where their chunks do not suit.

        Parameters
        ----------
        store
            As for `xarray.Dataset.to_zarr`.
        max_error, snr, lossless, channel_dim, signal_dims, model, nodata, chunks, shards, profile, zarr_format
            As for `xwalloc.encoding`. A model above 512 KiB is written into the group too, as ``_xwalloc/<sha256>``,
            where readers find it; only with Zarr v3 and without shards.
        encoding
            Encoding of other variables.
        **arguments
            Further arguments of `xarray.Dataset.to_zarr`, such as ``mode`` and ``compute``.

        Returns
        -------
        ZarrStore or dask.delayed.Delayed
            What `xarray.Dataset.to_zarr` returns.

        Raises
        ------
        ConfigError
            If something is not possible; the message says what to do.
        """
        for argument in ("append_dim", "region"):
            if arguments.get(argument) is not None:
                raise ConfigError(
                    f"Expected no {argument}: arrays that exist keep the codec they were created with. Got "
                    f"{arguments[argument]!r}. Write with ds.to_zarr(store, {argument}=...), in whole chunks."
                )
        request = Request(
            max_error=max_error,
            snr=snr,
            lossless=lossless,
            channel_dim=channel_dim,
            signal_dims=as_dims(signal_dims),
            model=model,
            nodata=nodata,
            chunks=chunks,
            shards=shards,
            profile=profile,
            zarr_format=zarr_format,
            beside=True,
        )
        dataset = as_dataset(self._obj)
        plans = plan(dataset, request, named=isinstance(self._obj, xr.DataArray), rechunk=True)
        others = dict(encoding or {})
        if both := sorted(map(str, others.keys() & plans.keys())):
            raise ConfigError(f"Expected encoding to name other variables than those that xwalloc writes. Got {both}.")
        needed = {name: item.rechunk for name, item in plans.items()}
        needed |= {name: regular_chunks(dataset[name]) for name in dataset.variables.keys() - plans.keys()}
        dataset = dataset.assign({name: dataset[name].chunk(sizes) for name, sizes in needed.items() if sizes})
        ours = {name: as_encoding(dataset[name], item, zarr_format) for name, item in plans.items()}
        if request.model is not None and request.has_sidecar:
            arguments["mode"] = put_beside(store, request.model, **arguments)
        return dataset.to_zarr(store, zarr_format=zarr_format, encoding={**others, **ours}, **arguments)


def put_beside(
    store: Any,
    model: Model,
    *,
    mode: Any = None,
    group: str | None = None,
    storage_options: dict[str, Any] | None = None,
    **_: Any,
) -> str:
    """Write a model into the group that will be written, before any chunk of it: workers need it to encode.

    Returns
    -------
    The mode in which the group is to be opened from now on.
    """
    import zarr  # and not when xarray is imported

    from xwalloc.models import sidecar

    if isinstance(store, str | os.PathLike):
        store = os.path.expanduser(os.fspath(store))
    mode = mode or "w-"
    node = zarr.open_group(
        store, mode="a" if mode == "a-" else mode, path=group or "", storage_options=storage_options, zarr_format=3
    )
    sidecar.write(node, model)
    if node.store is not store:
        node.store.close()
    return "a" if mode in ("w", "w-") else str(mode)


def as_encoding(variable: xr.DataArray, item: Plan, zarr_format: int) -> dict[str, Any]:
    """The variable's own encoding with our codec, and nothing behind it."""
    result = {key: value for key, value in variable.encoding.items() if key in KEPT}
    result["chunks"] = item.grid.chunks
    if zarr_format == 2:
        from xwalloc import numcodecs  # the codecs load numba, which reading metadata needs not

        return {**result, "compressors": numcodecs.Walloc(**item.config.to_json()), "filters": None}
    from xwalloc import zarr

    if "fill_value" in variable.encoding:
        result["fill_value"] = variable.encoding["fill_value"]
    if item.grid.shards:
        result["shards"] = item.grid.shards
    return {**result, "serializer": zarr.Walloc(**item.config.to_json()), "compressors": (), "filters": ()}


def regular_chunks(variable: xr.DataArray) -> dict[Hashable, int]:
    """Dask chunks that Zarr can store, where those that are there are irregular; else nothing."""
    parts = variable.chunks or ()
    if all(len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0] for sizes in parts):
        return {}
    return {dim: max(sizes) for dim, sizes in zip(variable.dims, parts, strict=True)}


def as_dataset(obj: xr.Dataset | xr.DataArray) -> xr.Dataset:
    """`obj` as the dataset that its `to_zarr` writes."""
    if isinstance(obj, xr.Dataset):
        return obj
    if not isinstance(obj, xr.DataArray):
        raise ConfigError(f"Expected an xarray Dataset or DataArray. Got {type(obj).__name__}.")
    if obj.name is None or obj.name in obj.coords or obj.name in obj.dims:
        return obj.to_dataset(name=UNNAMED)
    return obj.to_dataset()


def as_dims(dims: Any) -> Sequence[Hashable] | None:
    """Names of dimensions as a sequence, where one name may stand alone."""
    if dims is None or (isinstance(dims, Sequence) and not isinstance(dims, str)):
        return dims
    return (dims,)


xr.register_dataset_accessor("walloc")(WallocAccessor)  # type: ignore[no-untyped-call]
xr.register_dataarray_accessor("walloc")(WallocAccessor)  # type: ignore[no-untyped-call]
