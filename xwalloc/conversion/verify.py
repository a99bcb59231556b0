# mypy: disable-error-code="no-untyped-call"
"""`xwalloc.verify`: a store compared with its sources, unit by unit."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xwalloc.codec.bound import misses
from xwalloc.codec.config import CodecConfig
from xwalloc.conversion import store as objects
from xwalloc.conversion.pairs import Pair, Side, left_out, sides
from xwalloc.conversion.sources.agree import FILLS, MEANING
from xwalloc.conversion.sources.base import Region
from xwalloc.conversion.sources.opened import release
from xwalloc.errors import ConfigError, XwallocError
from xwalloc.models import library
from xwalloc.settings import settings, thread_count

__all__ = ["Difference", "Verification", "verify"]

SNR_SLACK = 0.5
"""dB by which a chunk may be below the target."""

LEAST_FOR_SNR = 1024
"""Finite samples from which on a signal-to-noise ratio is promised."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Where a store is not what it promises.

    Parameters
    ----------
    path
        Of the array in the store.
    region
        Samples of it, as ``(start, stop)`` along every axis; None where all of it is meant.
    reason
        What is wrong there.
    """

    path: str
    reason: str
    region: tuple[tuple[int, int], ...] | None = None

    def __str__(self) -> str:
        where = "" if self.region is None else f"[{', '.join(f'{a}:{b}' for a, b in self.region)}]"
        return f"{self.path}{where}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a comparison found.

    Parameters
    ----------
    units, checked
        Units of storage, and how many were compared.
    nbytes
        Bytes of samples that were compared.
    max_error
        Largest error of finite valid samples by path, as stored.
    differences
        What is not as promised.
    missing
        Sources that the store was completed without, with the reason, as its record says.
    """

    units: int
    checked: int
    nbytes: int
    max_error: dict[str, float]
    differences: tuple[Difference, ...]
    missing: dict[str, str]

    @property
    def ok(self) -> bool:
        """Whether all that was compared is as promised."""
        return not self.differences


def verify(
    source: Any,
    store: Any,
    *,
    sample: int | None = None,
    storage_options: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Compare a store that `convert` wrote with its sources.

    Decoding happens on CPUs, whatever device encoded. Compared are bounds, positions and bits of NaN, infinities and
    nodata, all values of arrays that other codecs store, and coordinates.

    Parameters
    ----------
    source, store, storage_options
        As for `convert`.
    sample
        Units of every array to compare, chosen at random but the same each time; None: all.
    progress
        Is told how many units of how many are compared.

    Raises
    ------
    ConfigError
        If the store is not whole, or the sources are not its own.
    """
    if sample is not None and sample < 1:
        raise ConfigError(f"Expected sample to be 1 or more. Got {sample}.")
    target = objects.open_store(store, storage_options)
    opened = sides(source, target)
    differences = [found for one in opened for found in compare_metadata(one)]
    todo: list[tuple[Pair, Region]] = []
    units = 0
    for pair in (pair for one in opened for pair in one.pairs):
        if pair.array.shape != pair.template.shape:
            continue  # compare_metadata says so
        regions = list(pair.regions())
        units += len(regions)
        if sample is not None and sample < len(regions):
            regions = random.Random(pair.path).sample(regions, sample)
        todo += [(pair, region) for region in regions]
    largest: dict[str, float] = {}
    nbytes = 0

    def work(item: tuple[Pair, Region]) -> tuple[int, float, list[Difference]]:
        return compare(*item)

    try:
        with settings.set({"device": "cpu"}), ThreadPoolExecutor(thread_count()) as pool:
            for number, (count, error, found) in enumerate(pool.map(work, todo), 1):
                path = todo[number - 1][0].path
                nbytes += count
                largest[path] = max(largest.get(path, 0.0), error)
                differences += found
                if progress is not None:
                    progress(number, len(todo))
    finally:
        release()
    return Verification(
        units=units, checked=len(todo), nbytes=nbytes, max_error=largest, differences=tuple(differences),
        missing=left_out(target),
    )  # fmt: skip


def compare(pair: Pair, region: Region) -> tuple[int, float, list[Difference]]:
    """Bytes compared, largest error, and what is wrong in a unit."""
    place = tuple((part.start, part.stop) for part in region)
    try:
        original, decoded = pair.read(region)
    except (XwallocError, OSError, ValueError, KeyError) as failed:
        return 0, 0.0, [Difference(path=pair.path, region=place, reason=f"{type(failed).__name__}: {failed}")]
    error, reasons = judge(pair, original, decoded)
    return original.nbytes, error, [Difference(path=pair.path, region=place, reason=reason) for reason in reasons]


def judge(pair: Pair, original: NDArray[Any], decoded: NDArray[Any]) -> tuple[float, list[str]]:
    """Largest error of finite valid samples, and what is wrong."""
    if pair.configuration is None:
        same = bits(original) == bits(decoded)
        return 0.0, [] if same.all() else [f"{np.count_nonzero(~same)} samples differ of an array that is kept exactly"]
    config = CodecConfig.from_json(pair.configuration)
    special = ~np.isfinite(original) if original.dtype.kind == "f" else np.zeros(original.shape, bool)
    strange = ~np.isfinite(decoded) if decoded.dtype.kind == "f" else np.zeros(original.shape, bool)
    nodata = config.nodata_as(original.dtype.newbyteorder("="))
    if nodata is not None:
        special |= original == nodata
        strange |= decoded == nodata
    reasons = []
    wrong = (special | strange) & ~((bits(original) == bits(decoded)) & special)
    if wrong.any():
        reasons.append(f"{np.count_nonzero(wrong)} samples differ where NaN, infinities or nodata are")
    valid = ~(special | strange)
    a, b = original[valid], decoded[valid]
    error = float(np.max(np.abs(a.astype("f8") - b.astype("f8")), initial=0.0))
    if config.lossless or config.max_error is not None:
        reasons += list(beyond(pair, config, original, decoded, valid, error))
    elif config.snr is not None and a.size >= LEAST_FOR_SNR and pair.array.shards is None:
        noise = float(np.mean((a.astype("f8") - b.astype("f8")) ** 2))
        snr = math.inf if noise == 0 else 10 * math.log10(max(float(np.var(a.astype("f8"))), 1e-300) / noise)
        if snr < config.snr - SNR_SLACK:
            reasons.append(f"signal-to-noise ratio {snr:.2f} dB, {config.snr:g} dB promised")
    return error, reasons


def beyond(
    pair: Pair,
    config: CodecConfig,
    original: NDArray[Any],
    decoded: NDArray[Any],
    valid: NDArray[np.bool_],
    error: float,
) -> Iterator[str]:
    """What is beyond the bound, compared exactly."""
    bound = config.max_error or 0.0
    channel = config.channel_axis
    limits = np.full(1 if channel is None else original.shape[channel], bound)
    model = None if config.model is None else library.resolve(config.model)
    if model is not None and model.kind == "linear" and model.scaled:
        limits = bound * model.fitted.scales
    rows = (1, -1) if channel is None else (original.shape[channel], -1)
    native = original.dtype.newbyteorder("=")

    def by_channel(samples: NDArray[Any]) -> NDArray[Any]:
        moved = samples if channel is None else np.moveaxis(samples, channel, 0)
        return np.ascontiguousarray(moved).reshape(rows)

    a, b, mask = by_channel(original.astype(native)), by_channel(decoded.astype(native)), by_channel(valid)
    if config.lossless or not bound:
        missed = (a != b) & mask
    else:
        missed = np.zeros(a.shape, bool)
        work = np.float32 if a.dtype == np.float16 else a.dtype
        misses(np.where(mask, a, 0).astype(work), np.where(mask, b, 0).astype(work), limits, missed)
    if missed.any():
        yield f"{np.count_nonzero(missed)} samples beyond the bound of {bound:g}: largest error {error:g}"


def bits(values: NDArray[Any]) -> NDArray[Any]:
    """Samples as unsigned integers, so that NaN equals itself."""
    native = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    return native.view(f"u{native.dtype.itemsize}") if native.dtype.kind == "f" else native


def compare_metadata(side: Side) -> Iterator[Difference]:
    """What differs in variables, shapes, dtypes and coordinates."""
    where = f"{side.group}/" if side.group else ""
    for name in side.absent:
        yield Difference(path=where + name, reason="is not in the store")
    for pair in side.pairs:
        if pair.array.shape != pair.template.shape or pair.array.dtype.newbyteorder(
            "="
        ) != pair.template.dtype.newbyteorder("="):
            reason = (
                f"is {pair.array.dtype} {pair.array.shape} in the store and {pair.template.dtype} "
                f"{pair.template.shape} in the source"
            )
            yield Difference(path=pair.path, reason=reason)
    try:
        stored = xr.open_zarr(
            side.stored.store, group=side.group or None, chunks=None, decode_cf=False,
            consolidated=has_consolidated(side),
        )  # fmt: skip
    except ValueError as error:
        yield Difference(path=side.group or "/", reason=f"xarray cannot open it: {error}")
        return
    others = [n for n, v in side.template.data_vars.items() if v.dtype.kind not in "biufc"]
    for name in [*side.template.coords, *others]:
        original = side.template[name].variable
        if name not in stored.variables:
            yield Difference(path=f"{where}{name}", reason="is not in the store")
            continue
        there = stored[name].variable
        coded = xr.conventions.encode_cf_variable(original, name=name)
        if there.shape != coded.shape or not same_values(np.asarray(coded.values), np.asarray(there.values)):
            yield Difference(path=f"{where}{name}", reason="coordinate differs from the source")
        yield from compare_meaning(f"{where}{name}", coded.attrs, there.attrs, but=FILLS)
    for pair in side.pairs:
        yield from compare_meaning(pair.path, pair.template.attrs, stored[pair.variable].attrs)


def compare_meaning(
    path: str, original: Mapping[Any, Any], stored: Mapping[Any, Any], but: Sequence[str] = ()
) -> Iterator[Difference]:
    """What differs in attributes without which values mean something else."""
    for key in MEANING:
        a, b = original.get(key), stored.get(key)
        if key not in but and not (a is b is None) and (a is None or b is None or not same_values(*as_arrays(a, b))):
            yield Difference(path=path, reason=f"{key} is {b} in the store and {a} in the source")


def as_arrays(original: Any, stored: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Attributes as arrays; JSON knows one kind of float, so that the stored one may be of another width."""
    a, b = np.asarray(original), np.asarray(stored)
    return a, b.astype(a.dtype) if a.dtype.kind == b.dtype.kind == "f" else b


def has_consolidated(side: Side) -> bool:
    """Whether the metadata of a group are consolidated."""
    return side.stored.metadata.consolidated_metadata is not None


def same_values(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two arrays hold the same, NaN included."""
    if a.dtype.kind in "iufcb" and b.dtype.kind in "iufcb":
        return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f"))
    return [str(value) for value in a.ravel().tolist()] == [str(value) for value in b.ravel().tolist()]
