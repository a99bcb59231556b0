"""Which chunks and shards a variable is stored in.

Writing part of a chunk decodes and encodes it again, and errors add up. So a unit of writing (a shard, else a chunk)
never straddles two chunks of Dask.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from xwalloc.codec.config import as_number
from xwalloc.errors import ConfigError
from xwalloc.xarray.dims import Roles

__all__ = ["Grid", "choose_grid"]

LARGEST = 16 * 2**20
TARGET = 8 * 2**20
SMALLEST = 2**16
LEAST_SIDE = 32
LONGEST_SERIES = 256


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Chunk and shard shape of a stored array; `unit` is what one task must write whole."""

    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None

    @property
    def unit(self) -> tuple[int, ...]:
        """Shape of a unit of writing."""
        return self.shards or self.chunks


def choose_grid(
    name: Hashable,
    dims: tuple[Hashable, ...],
    shape: tuple[int, ...],
    itemsize: int,
    roles: Roles,
    *,
    multiple: int,
    chunks: Mapping[Hashable, int] | None = None,
    shards: Mapping[Hashable, int] | None = None,
    dask_chunks: tuple[tuple[int, ...], ...] | None = None,
) -> Grid:
    """Chunks of at most 16 MiB that hold the whole channel axis, as square along the signal axes as can be.

    Parameters
    ----------
    name, dims, shape, itemsize
        The variable, as it is stored.
    roles
        What its axes are.
    multiple
        Signal axes are cut at multiples of this, 2^levels.
    chunks, shards
        Sizes by dimension that are wanted; -1 is the whole axis.
    dask_chunks
        Sizes of the Dask chunks along every axis; units of writing divide them. None where there are none.

    Raises
    ------
    ConfigError
        If sizes are not possible, or do not fit the Dask chunks.
    """
    wanted = sizes_by_axis("chunks", chunks, dims, shape)
    sharded = sizes_by_axis("shards", shards, dims, shape) if shards else {}
    divisors: dict[int, int] = {}  # what the size of a chunk must divide
    for axis, parts in enumerate(dask_chunks or ()):
        if len(parts) > 1:
            common = math.gcd(*parts[:-1]) or 1
            unit = sharded.get(axis, wanted.get(axis, common))
            if common % unit:
                raise ConfigError(
                    f"Expected {'shards' if axis in sharded else 'chunks'} of variable {name!r} along {dims[axis]!r} "
                    f"to divide its Dask chunks {parts}. Got {unit}. Parts of a chunk must not be written one by one: "
                    f"rechunk first with ds.chunk({{{dims[axis]!r}: {unit}}}), or use ds.walloc.to_zarr, which does."
                )
            divisors[axis] = unit
    for axis, unit in sharded.items():
        whole = dask_chunks is None or len(dask_chunks[axis]) == 1
        if unit < shape[axis] or not whole:
            divisors[axis] = unit
        if axis in wanted and unit < shape[axis] and unit % wanted[axis]:
            raise ConfigError(
                f"Expected shards of variable {name!r} along {dims[axis]!r} to be a multiple of its chunks, "
                f"{wanted[axis]}. Got {unit}."
            )
    size = list(shape)
    for axis, n in wanted.items():
        size[axis] = n
    for axis, n in divisors.items():
        size[axis] = min(size[axis], n)
    if roles.channel is not None and roles.series and roles.channel not in wanted:
        size[roles.channel] = fit(size[roles.channel], LONGEST_SERIES, divisors.get(roles.channel), 1)
    free = [axis for axis in range(len(shape)) if axis not in wanted and axis != roles.channel]
    batch = [axis for axis in free if axis not in roles.signal]
    if math.prod(size) * itemsize > LARGEST:
        limits = [size[axis] for axis in batch]
        for axis in batch:
            size[axis] = 1
        cut_signal(size, itemsize, [axis for axis in free if axis in roles.signal], divisors, multiple)
        for axis, limit in reversed(list(zip(batch, limits, strict=True))):
            room = TARGET // max(1, math.prod(size) * itemsize)
            size[axis] = fit(limit, max(1, room), divisors.get(axis), 1)
    check_volume(name, dims, size, shape, itemsize, dask_chunks)
    result = tuple(max(1, n) for n in size)
    if not shards:
        return Grid(chunks=result)
    units = (sharded.get(axis, n) for axis, n in enumerate(result))
    return Grid(chunks=result, shards=tuple(-(-unit // n) * n for unit, n in zip(units, result, strict=True)))


def sizes_by_axis(
    what: str, sizes: Mapping[Hashable, int] | None, dims: tuple[Hashable, ...], shape: tuple[int, ...]
) -> dict[int, int]:
    """Wanted sizes by axis, at most the length of the axis."""
    result = {}
    for dim, value in (sizes or {}).items():
        n = as_number(value)
        if not isinstance(n, int) or (n < 1 and n != -1):
            raise ConfigError(f"Expected {what} to map dimensions to positive integers or -1. Got {dim!r}: {value!r}.")
        if dim in dims:
            length = shape[dims.index(dim)]
            result[dims.index(dim)] = max(1, length if n == -1 else min(n, length))
    return result


def cut_signal(size: list[int], itemsize: int, axes: list[int], divisors: dict[int, int], multiple: int) -> None:
    """Cut signal axes to equal sides until a chunk is no larger than the target."""
    if math.prod(size) * itemsize <= LARGEST:
        return
    others = math.prod(n for axis, n in enumerate(size) if axis not in axes) * itemsize
    for done, axis in enumerate(sorted(axes, key=lambda a: size[a])):  # short axes leave their room to long ones
        side = (TARGET / max(1, others)) ** (1 / (len(axes) - done))
        size[axis] = fit(size[axis], max(LEAST_SIDE, int(side)), divisors.get(axis), multiple)
        others *= max(1, size[axis])


def fit(length: int, most: int, divides: int | None, multiple: int) -> int:
    """A chunk size of about `most` or less: a divisor of `divides`, else parts of nearly equal size of an axis."""
    if length <= most:
        return length
    if divides is not None:
        small = [n for n in range(1, math.isqrt(divides) + 1) if divides % n == 0]
        options = sorted(n for n in {*small, *(divides // n for n in small)} if n <= most)
        aligned = [n for n in options if n % multiple == 0 and 2 * n > options[-1]]
        return max(aligned or options)
    even = -(-length // -(-length // most))
    return min(length, -(-even // multiple) * multiple)


def check_volume(
    name: Hashable,
    dims: tuple[Hashable, ...],
    size: list[int],
    shape: tuple[int, ...],
    itemsize: int,
    dask_chunks: tuple[tuple[int, ...], ...] | None,
) -> None:
    """Refuse crumbs that only irregular Dask chunks would need."""
    irregular = [
        axis for axis, parts in enumerate(dask_chunks or ()) if len(parts) > 1 and math.gcd(*parts[:-1]) < max(parts)
    ]
    if irregular and math.prod(size) * itemsize < min(SMALLEST, math.prod(shape) * itemsize):
        raise ConfigError(
            f"Expected regular Dask chunks for variable {name!r}. Got {[dask_chunks[a] for a in irregular]} along "  # type: ignore[index]
            f"{[dims[a] for a in irregular]}, which only chunks of {tuple(size)} divide. Rechunk first with "
            "ds.chunk({dimension: size}), or use ds.walloc.to_zarr, which does."
        )
