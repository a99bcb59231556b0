"""The refinement network: integer corrections of latents from the symbols around them.

    symbols, magnitude codes --> small integers --> 3^d convolutions, ReLU --> 1x1 --> (M, S) per coefficient
    correction = clip(sign(symbol) * M + S, -127, 127)        in 1/256 of a quantum
    latent     = symbol * quantum + point + floor((correction * quantum + 128) / 256)

M moves a coefficient within its cell away from or towards 0, for which signs do not matter; S knows directions, and is
what can move a coefficient whose symbol is 0. A network without training has zeros in its last layer: it is the linear
decoder. No correction exceeds half a quantum, so that a latent stays in its cell or near it.

There are no statistics over a group, no attention and no floats: a correction depends on the symbols within
`receptive_field` patches, beyond the border of a chunk there are zeros, and the arithmetic (arithmetic.py) is exact. So
corrections are the same bits in every library, on every device and in every batch.

A plane of a component is corrected if the component has a nonzero magnitude code in the view at hand (views.py): others
hold only zeros, and nothing is spent on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array
from numpy.typing import NDArray

from xwalloc.errors import ConfigError, FormatError
from xwalloc.models.neural import arithmetic as a
from xwalloc.models.neural.architecture import Architecture
from xwalloc.models.neural.features import inputs, spectral_codes
from xwalloc.models.neural.views import View, views
from xwalloc.models.patches import NOWHERE
from xwalloc.transform.tree import Plan
from xwalloc.types import Parallel, cached_property, in_turn

__all__ = ["CORRECTION_BITS", "Network", "refine"]

CORRECTION_BITS = 8
"""Corrections count in 2^-8 of a quantum."""

MOST_SHIFT = 23
"""Largest shift of a layer."""

PLACES, DEVICE_PLACES = 1 << 15, 1 << 20
"""Places of a grid, times components, that are worked on at once on a CPU, on other devices."""

VERSION = 1

Piece = tuple[int, int, int]
"""A batch item and a range of its components."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A refinement network: what corrects latents, see the module's docstring.

    Parameters
    ----------
    architecture
        Its shape.
    layers
        One per entry of `Architecture.shapes`, in their order.
    codes : (width, code) int8
        Weights of the magnitude codes, added to the sums of the first layer.

    Raises
    ------
    FormatError
        If weights do not suit the architecture, or sums could be inexact.
    """

    architecture: Architecture
    layers: tuple[a.Layer, ...]
    codes: NDArray[np.int8]

    def __post_init__(self) -> None:
        shapes = self.architecture.shapes()
        if len(self.layers) != len(shapes):
            raise FormatError(f"Expected {len(shapes)} layers of a network. Got {len(self.layers)}.")
        for layer, (name, shape) in zip(self.layers, shapes.items(), strict=True):
            _expect(name + ".weight", layer.weight, np.int8, shape)
            _expect(name + ".bias", layer.bias, np.int32, shape[:1])
            _expect(name + ".shift", layer.shift, np.uint8, shape[:1])
        _expect("codes.weight", self.codes, np.int8, (self.architecture.widths[0], self.architecture.codes))
        for layer in self.layers:
            weight = layer.weight.reshape(len(layer.weight), -1)
            weight = np.concatenate([weight, self.codes], axis=1) if layer is self.layers[0] else weight
            if layer.shift.max() > MOST_SHIFT or a.bound_of(weight, layer.bias, layer.shift) >= a.EXACT_LIMIT:
                raise FormatError("The weights of the network leave the range of exact arithmetic.")

    @classmethod
    def untrained(cls, architecture: Architecture) -> Network:
        """A network of zeros, which corrects nothing."""
        layers = tuple(
            a.Layer(weight=np.zeros(s, np.int8), bias=np.zeros(s[0], np.int32), shift=np.zeros(s[0], np.uint8))
            for s in architecture.shapes().values()
        )
        codes = np.zeros((architecture.widths[0], architecture.codes), np.int8)
        return cls(architecture=architecture, layers=layers, codes=codes)

    def description(self) -> dict[str, Any]:
        """What `from_tensors` needs beside the tensors; JSON."""
        return {"version": VERSION, **asdict(self.architecture), "widths": list(self.architecture.widths)}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Weights by name."""
        found: dict[str, NDArray[Any]] = {}
        for name, layer in zip(self.architecture.shapes(), self.layers, strict=True):
            found |= {name + ".weight": layer.weight, name + ".bias": layer.bias, name + ".shift": layer.shift}
        return {**found, "codes.weight": self.codes}

    @classmethod
    def from_tensors(cls, description: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Network:
        """Inverse of `description` and `tensors`.

        Raises
        ------
        FormatError
            If they are not those of a network.
        """
        names = {"version", "kind", "tree", "dimensions", "levels", "rank", "widths"}
        given: object = description
        if not isinstance(given, Mapping) or set(given) != names or given["version"] != VERSION:
            raise FormatError(f"Expected a description of a network with {sorted(names)}, version {VERSION}.")
        fields = {name: description[name] for name in names - {"version"}}
        if not isinstance(fields["widths"], list):
            raise FormatError("Expected a list of the widths of a network.")
        try:
            architecture = Architecture(**{**fields, "widths": tuple(fields["widths"])})
        except (ConfigError, TypeError) as error:
            raise FormatError(f"The description of the network is impossible: {error}") from None
        shapes = architecture.shapes()
        parts = ("weight", "bias", "shift")
        expected = {f"{name}.{part}" for name in shapes for part in parts} | {"codes.weight"}
        if set(tensors) != expected:
            raise FormatError(f"Expected tensors {sorted(expected)}. Got {sorted(map(str, tensors))}.")
        layers = tuple(a.Layer(**{part: tensors[f"{name}.{part}"] for part in parts}) for name in shapes)
        return cls(architecture=architecture, layers=layers, codes=tensors["codes.weight"])

    @property
    def receptive_field(self) -> int:
        """Extent, in patches along every signal axis, of what a correction may depend on."""
        return 2 * self.architecture.reach + 1

    def views(self, plan: Plan) -> tuple[View, ...]:
        """What of a plan is corrected: nothing of one whose axes are split in another way."""
        kind = self.architecture
        return views(plan, kind.dimensions, kind.levels) if plan.tree == kind.tree else ()

    def correct(self, symbols: Any, plan: Plan, codes: NDArray[np.int64], parallel: Parallel = in_turn) -> Any:
        """Corrections of dequantised latents, in 2^-8 of a quantum.

        Parameters
        ----------
        symbols
            Shape (batch, rank, *plan.shape), int32, Mallat layout, of NumPy or another array-API library.
        plan
            Geometry; axes before the network's signal axes have extent 1.
        codes
            Shape (rank, subband) or (batch, rank, subband), int: magnitude codes of the symbols, of all batch items or
            of each (`bitstream.contexts`), subbands as in `plan`.
        parallel
            Runs a function over items, perhaps on several threads.

        Returns
        -------
        Shape of `symbols`, int8, of the same library, Mallat layout; no magnitude above 127. See `refine`.

        Raises
        ------
        ConfigError
            If the shapes do not suit the plan or a network of a fixed band set.
        """
        kind, xp = self.architecture, array_namespace(symbols)
        batch, rank = symbols.shape[:2]
        if tuple(symbols.shape[2:]) != plan.shape or codes.shape[-2:] != (rank, len(plan.subbands)):
            raise ConfigError(
                f"Expected symbols of (batch, rank, {plan.shape}) and codes of (rank, {len(plan.subbands)}). "
                f"Got {tuple(symbols.shape)} and {codes.shape}."
            )
        if kind.rank not in (0, rank):
            raise ConfigError(f"Expected {kind.rank} components for this network. Got {rank}.")
        corrections = xp.zeros(symbols.shape, dtype=xp.int8, device=device(symbols))
        flat = xp.reshape(symbols, (batch, rank, -1))
        codes, on_cpu = np.broadcast_to(codes, (batch, *codes.shape[-2:])), is_numpy_array(symbols)
        jobs = [
            (view, rows, pieces)
            for view in self.views(plan)
            for rows in self._slabs(view, on_cpu)
            for pieces in _together(
                [(i, *block) for i in range(batch) for block in self._blocks(view, codes[i], on_cpu)],
                1 if on_cpu else max(1, DEVICE_PLACES // math.prod(n + 1 for n in view.grid)),
            )
        ]

        def work(job: tuple[View, slice, list[Piece]]) -> None:
            view, rows, pieces = job
            found, seen = self._corrected(flat, view, codes, pieces, rows)
            start = 0
            for item, first, last in pieces:
                count = last - first if kind.kind == "shared" else 1
                part = found[:, start : start + count, ...]
                _put(corrections[item, first:last, ...], part, view, seen, rows, plan.shape)
                start += count

        parallel(work, jobs)
        return corrections

    def refined(
        self,
        latents: Any,
        symbols: Any,
        plan: Plan,
        codes: NDArray[np.int64],
        quantum: int,
        parallel: Parallel = in_turn,
        correct: Callable[[NDArray[np.int32], NDArray[np.int64]], NDArray[np.int8]] | None = None,
    ) -> None:
        """Correct dequantised latents in place.

        Parameters
        ----------
        latents : (batch, rank, *plan.shape) float64
            What the linear decoder makes of the symbols, in units; of NumPy or another array-API library.
        symbols, plan, codes, parallel
            As for `correct`; components that a network of a fixed band set has beyond these are taken for zeros.
        quantum
            Units per step.
        correct
            What makes corrections of symbols and codes in the place of `correct`, to the same bits.
        """
        rank = symbols.shape[1]
        if (beyond := self.architecture.rank - rank) > 0:
            xp = array_namespace(symbols)
            zeros = xp.zeros((len(symbols), beyond, *plan.shape), dtype=symbols.dtype, device=device(symbols))
            symbols = xp.concat([symbols, zeros], axis=1)
            codes = np.pad(codes, [(0, beyond), (0, 0)])
        corrections = correct(symbols, codes) if correct else self.correct(symbols, plan, codes, parallel)

        def work(k: int) -> None:
            latents[:, k] = refine(latents[:, k], corrections[:, k], quantum)

        parallel(work, range(rank))

    def _blocks(self, view: View, codes: NDArray[np.int64], on_cpu: bool) -> list[tuple[int, int]]:
        """Ranges of components that are worked on at once."""
        own = codes[:, list(view.subbands[-self.architecture.shape.own_subbands :])]
        there = own.any(axis=1)
        if self.architecture.kind == "fixed":
            return [(0, len(codes))] if there.any() else []
        most = max(1, (PLACES if on_cpu else DEVICE_PLACES) // math.prod(n + 1 for n in view.grid))
        edges = np.flatnonzero(np.diff(there.astype(np.int8), prepend=0, append=0))
        return [
            (start, min(start + most, int(last)))
            for first, last in edges.reshape(-1, 2)
            for start in range(int(first), int(last), most)
        ]

    def _slabs(self, view: View, on_cpu: bool) -> list[slice]:
        """Ranges of rows (places along the first axis) that are worked on at once."""
        rows, *rest = view.grid
        most = max(2 * self.architecture.reach, (PLACES if on_cpu else DEVICE_PLACES) // math.prod(n + 1 for n in rest))
        return [slice(start, min(start + most, rows)) for start in range(0, rows, most)]

    def working_bytes(self) -> int:
        """Memory, about, that a coefficient takes on a device: planes of the widest layer, and corrections."""
        kind = self.architecture
        return 16 + 8 * max(kind.planes, kind.outputs, *kind.widths) // kind.corrected

    def _corrected(
        self, symbols: Any, view: View, codes: NDArray[np.int64], pieces: Sequence[Piece], rows: slice
    ) -> tuple[Any, slice]:
        """Corrections (own plane, item, row, ...) of rows and some around them, and which rows these are."""
        kind, xp = self.architecture, array_namespace(symbols)
        seen = slice(max(0, rows.start - kind.reach), min(view.grid[0], rows.stop + kind.reach))
        part = replace(view, index=view.index[:, seen])
        shared = kind.kind == "shared"
        parts = [inputs(symbols[i, ...], part, kind.shape.lows, first, last, shared) for i, first, last in pieces]
        planes, signs = (xp.concat(each, axis=1) if len(pieces) > 1 else each[0] for each in zip(*parts, strict=True))
        near = [spectral_codes(codes[i][:, list(view.subbands)], first, last, shared) for i, first, last in pieces]
        spectral = self.codes.astype(np.int64) @ np.concatenate(near, axis=1)
        extra = xp.asarray(spectral.astype(np.float32), device=device(symbols))
        flat = a.pad(xp.astype(planes, xp.float32))
        *hidden, output = self._prepared(flat)
        for layer in hidden:
            flat = a.run(flat, layer, part.grid, 0, extra)
            extra = None
        both = a.unpad(a.run(flat, output, part.grid, -a.LARGEST), part.grid)
        signs = xp.reshape(signs, (max(1, kind.rank), kind.shape.planes, *signs.shape[1:]))
        signs = xp.reshape(signs[:, kind.shape.context :, ...], (kind.corrected, *signs.shape[2:]))
        moved = both[: kind.corrected, ...] * xp.astype(signs, xp.float32) + both[kind.corrected :, ...]
        return xp.astype(xp.clip(moved, -a.LARGEST, a.LARGEST), xp.int8), seen

    def _prepared(self, like: Any) -> list[a.Prepared]:
        key = (array_namespace(like).__name__, str(device(like)))
        if key not in self._cache:
            self._cache[key] = [a.prepare(layer, like) for layer in self.layers]
        return self._cache[key]

    @cached_property
    def _cache(self) -> dict[tuple[str, str], list[a.Prepared]]:
        return {}


def _together(pieces: Sequence[Piece], most: int) -> Iterator[list[Piece]]:
    """Pieces, so many together as have no more than `most` components, or single."""
    found: list[Piece] = []
    count = 0
    for piece in pieces:
        size = piece[2] - piece[1]
        if found and count + size > most:
            yield found
            found, count = [], 0
        found.append(piece)
        count += size
    if found:
        yield found


def _expect(name: str, tensor: Any, dtype: type[np.generic], shape: Sequence[int]) -> None:
    """Check a tensor of weights."""
    if not isinstance(tensor, np.ndarray) or tensor.dtype != dtype or tensor.shape != tuple(shape):
        got = f"{getattr(tensor, 'dtype', type(tensor))} of shape {getattr(tensor, 'shape', None)}"
        raise FormatError(f"Expected {np.dtype(dtype)} of shape {tuple(shape)} as {name} of a network. Got {got}.")


def _put(corrections: Any, found: Any, view: View, seen: slice, rows: slice, shape: Sequence[int]) -> None:
    """Write corrections of some rows (own plane of all components, item, row, ...) where they belong.

    Parameters
    ----------
    corrections : (component, *shape)
        Gets them.
    found
        Those of `seen` rows.
    view
        Where they are.
    seen, rows
        Rows that were computed, and those to be written.
    shape
        Of the coefficients.
    """
    xp, components = array_namespace(found), corrections.shape[0]
    own = view.index[len(view.index) - found.shape[0] * found.shape[1] // components :, seen]
    place = np.full(math.prod(shape), NOWHERE, np.int64)
    there = own != NOWHERE
    place[own[there]] = np.flatnonzero(there)
    place = place.reshape(tuple(shape))
    lead = len(shape) - len(view.grid)
    # (own plane of all components, item, ...) -> (component, own plane * place)
    found = xp.reshape(found, (-1, len(own), *found.shape[1:]))
    found = xp.reshape(xp.moveaxis(found, 2, 1), (components, -1))
    for subband in view.own:
        per_row = (subband.shape[lead] + view.grid[0] - 1) // view.grid[0]
        begin, end = rows.start * per_row, min(rows.stop * per_row, subband.shape[lead])
        part = list(subband.slices)
        start = part[lead].start
        part[lead] = slice(start + begin, start + end)
        index = place[tuple(part)]
        taken = xp.take(found, xp.asarray(index.reshape(-1), device=device(found)), axis=1)
        corrections[(slice(None), *part)] = xp.reshape(taken, (components, *index.shape))


def refine(latents: Any, corrections: Any, quantum: int) -> Any:
    """Dequantised latents with their corrections: latent + floor((correction * quantum + 128) / 256).

    Parameters
    ----------
    latents
        Integer-valued float64, in units, of NumPy or another array-API library.
    corrections
        What `Network.correct` returned, of the same shape and library.
    quantum
        Units per step, below 2^32.

    Returns
    -------
    Integer-valued float64; no latent is moved by more than half a quantum and half a unit.
    """
    xp = array_namespace(latents)
    half, one = float(1 << (CORRECTION_BITS - 1)), float(1 << CORRECTION_BITS)
    moved = xp.floor((xp.astype(corrections, xp.float64) * float(quantum) + half) / one)
    return cast(Any, latents + moved)
