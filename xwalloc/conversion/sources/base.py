"""What a conversion reads from: arrays as they are stored, undecoded, wherever they lie."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

__all__ = ["Region", "Source", "placeholder"]

Region = tuple[slice, ...]
"""Part of an array: one slice with start and stop for each axis."""


class Source(ABC):
    """Somewhere that arrays come from. Small and picklable: workers open it again by themselves.

    Attributes
    ----------
    name
        What messages call it: a path or a URL.
    named
        Whether whoever gave it pointed at its variables: integers of a raster are compressed without being named.
    in_memory
        Whether samples are in the memory of the process that made it: they are read there, and it is not sent about.
    cache
        Bytes that reading keeps in a process beyond what is asked for.
    """

    name: str
    named: bool = False
    cache: int = 0
    in_memory: bool = False

    @abstractmethod
    def template(self) -> xr.Dataset:
        """Dimensions, dtypes, attributes and coordinates, as they are stored: nothing is unpacked or masked.

        What CF says of values (``_FillValue``, ``scale_factor`` ...) is in ``attrs``. ``encoding`` holds at most
        ``coordinates``, the names of what xarray has taken out of ``attrs``.
        Coordinates, and variables that are neither numbers nor bool, have their values; all other data variables are a
        `placeholder`.

        Raises
        ------
        ConfigError
            If the source cannot be read; the message says why.
        """

    @abstractmethod
    def read(self, variable: Hashable, region: Region) -> NDArray[Any]:
        """Part of a data variable, as it is stored. Called from any thread of any worker.

        Raises
        ------
        Exception
            Whatever the library that reads raises; `OSError` where it may be worth to try again.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells this source from others, and from itself before a change; of JSON types."""

    def rounding(self, variable: Hashable) -> float:
        """How far values move before `read` returns them, as stored: half a unit where they are packed on the way."""
        return 0.0

    def blocks(self, variable: Hashable) -> tuple[int, ...] | None:
        """Shape of the pieces in which a variable is stored; None where it can be read in any."""
        return None


def placeholder(shape: tuple[int, ...], dtype: np.dtype[Any] | str) -> NDArray[Any]:
    """Zeros of a shape and dtype that take no memory; they cannot be written to."""
    return np.broadcast_to(np.zeros((), dtype), shape)
