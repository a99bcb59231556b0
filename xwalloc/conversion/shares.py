"""Which settings of a conversion concern which of its granules: names and dimensions are looked for in all of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import xarray as xr

from xwalloc.conversion.sources.find import Granule
from xwalloc.errors import ConfigError
from xwalloc.xarray.dims import known
from xwalloc.xarray.plan import Request, Suited, parse_quality, suited

__all__ = ["Share", "shares_of"]

logger = logging.getLogger("xwalloc")

T = TypeVar("T")
Array = tuple[int, Hashable]
"""Number of a granule, and name of a variable in it."""

MOST_PATHS = 24
"""Arrays whose paths a message lists; of more it lists the names."""

MOST_KEPT = 3
"""Arrays that a warning names."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What concerns one granule.

    Parameters
    ----------
    qualities
        Quality targets of the variables that are compressed; none where all of it is kept exactly.
    request
        The request, with nodata values by the names that variables have in the granule.
    """

    qualities: dict[Hashable, dict[str, Any]]
    request: Request


def shares_of(granules: Sequence[Granule], datasets: Sequence[xr.Dataset], request: Request) -> list[Share]:
    """Settings of every granule.

    Names in mappings are paths: a variable is meant by every end of its path, and by all of it after a slash. Where
    several names mean one variable, the longest counts.

    Parameters
    ----------
    granules, datasets
        What is converted, with the dtypes that users see.
    request
        What is wanted of all of them together.

    Raises
    ------
    ConfigError
        If a name or a dimension is in none of them, or nothing would be compressed.
    """
    request.check()
    request.check_dims(dict.fromkeys(dim for dataset in datasets for dim in dataset.sizes))
    paths = {
        (number, name): f"{granule.path}/{name}" if granule.path else str(name)
        for number, (granule, dataset) in enumerate(zip(granules, datasets, strict=True))
        for name in dataset.data_vars
    }
    if request.mappings:
        qualities = by_name(paths, request)
    else:
        quality = request.quality
        qualities = dict.fromkeys(fitting(granules, datasets, paths, request), quality)
    say_kept(granules, datasets, qualities)
    shares = [Share(qualities={}, request=request) for _ in granules]
    for (number, name), quality in qualities.items():
        shares[number].qualities[name] = quality
    if not isinstance(request.nodata, Mapping):
        return shares
    compressed = {array: paths[array] for array in qualities}
    nodata: list[dict[Hashable, float]] = [{} for _ in granules]
    for (number, name), (_, value) in meant(
        "nodata", "variables that are compressed", request.nodata, compressed
    ).items():
        nodata[number][name] = value
    return [replace(one, request=replace(request, nodata=x)) for one, x in zip(shares, nodata, strict=True)]


def by_name(paths: Mapping[Array, str], request: Request) -> dict[Array, dict[str, Any]]:
    """Quality targets of the arrays that mappings name."""
    chosen: dict[Array, tuple[str, dict[str, Any]]] = {}
    for key, mapping in request.mappings.items():
        qualities = {name: parse_quality(**{key: value}) for name, value in mapping.items()}
        for array, (name, quality) in meant(key, "data variables", qualities, paths).items():
            before = chosen.get(array, ("", {}))[0]
            if before and before.count("/") == name.count("/"):
                raise ConfigError(f"Expected one of max_error and snr for variable {name!r}. Got both.")
            if not before or name.count("/") > before.count("/"):
                chosen[array] = (name, quality)
    return {array: chosen[array][1] for array in paths if array in chosen}


def meant(
    parameter: str, what: str, mapping: Mapping[Hashable, T], paths: Mapping[Array, str]
) -> dict[Array, tuple[str, T]]:
    """Names and values of a mapping by the arrays that they mean.

    Raises
    ------
    ConfigError
        If a name means none.
    """
    found: dict[Array, tuple[str, T]] = {}
    unused = set(mapping)
    for array, path in paths.items():
        for name in ends(path):
            if name in mapping:
                unused.discard(name)
                found.setdefault(array, (name, mapping[name]))
    for unknown in (name for name in mapping if name in unused):
        listed = list(paths.values()) if len(paths) <= MOST_PATHS else dict.fromkeys(name for _, name in paths)
        known(parameter, what, unknown, listed, {end for path in paths.values() for end in ends(path)})
    return found


def ends(path: str) -> Iterator[str]:
    """Names that mean the array of a path, the longest first.

    Examples
    --------
    >>> list(ends("scene/location/lon"))
    ['/scene/location/lon', 'scene/location/lon', 'location/lon', 'lon']
    """
    yield f"/{path}"
    parts = path.split("/")
    for first in range(len(parts)):
        yield "/".join(parts[first:])


def fitting(
    granules: Sequence[Granule], datasets: Sequence[xr.Dataset], paths: Mapping[Array, str], request: Request
) -> list[Array]:
    """Arrays that a quality target for all of them applies to.

    Where the roles of dimensions cannot be guessed of any variable in a granule, those are left out only if they are
    smaller than what is compressed: nobody means to keep most of the data exactly.
    """
    found = {
        number: suited(dataset, request, named=granule.source.named and request.channel_dim is None)
        for number, (granule, dataset) in enumerate(zip(granules, datasets, strict=True))
    }
    sizes = {(number, name): nbytes(datasets[number][name]) for number, name in paths}
    certain = [(number, name) for number, one in found.items() for name in one.certain]
    largest = max((sizes[array] for array in certain or paths), default=0)
    asked = {(n, name) for n, one in found.items() if not one.certain for name in one.unsure}

    def reasons(of: Callable[[Suited], dict[Hashable, str]]) -> dict[Hashable, str]:
        every = {(n, name): reason for n, one in found.items() for name, reason in of(one).items()}
        return {paths[array]: every[array] for array in sorted(every, key=lambda array: -sizes[array])}

    together = Suited(
        certain=tuple(paths[array] for array in certain),
        unsure=reasons(lambda one: one.unsure),
        unsuited=reasons(lambda one: one.unsuited),
        encodable=any(one.encodable for one in found.values()),
    )
    taken = set(together.take({paths[array] for array in asked if sizes[array] >= largest}))
    return [array for array, path in paths.items() if path in taken]


def say_kept(granules: Sequence[Granule], datasets: Sequence[xr.Dataset], qualities: Mapping[Array, Any]) -> None:
    """Say of which granules nothing is compressed though they hold arrays as large as any that is."""
    largest = max((nbytes(datasets[number][name]) for number, name in qualities), default=0)
    compressed = {number for number, _ in qualities}
    kept = [
        f"{name!r} of {granules[number].source.name}"
        for number, dataset in enumerate(datasets)
        if number not in compressed
        for name, variable in dataset.data_vars.items()
        if (variable.dtype.kind == "f" or granules[number].source.named) and nbytes(variable) >= largest
    ]
    if kept:
        more = f" and {len(kept) - MOST_KEPT} more" if len(kept) > MOST_KEPT else ""
        logger.warning(
            "Stored exactly by another codec, since the settings do not name it or its dimensions: %s%s.",
            ", ".join(kept[:MOST_KEPT]), more,
        )  # fmt: skip


def nbytes(variable: xr.DataArray) -> int:
    """Bytes of all samples."""
    return math.prod(variable.shape) * variable.dtype.itemsize
