"""Train the entropy coder's weights and frequency tables on the benchmark scenes.

Writes ``weights-1.json`` and ``tables-1.bin`` of ``xwalloc/bitstream``, which are part of the format: a released
version never changes them. The coder's own kernel computes the features (with one weight set at a time), so that
training sees exactly what coding sees.

    python -m benchmarks.train_tables [--without SCENE ...] [--output FOLDER]
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import netcdf_file
from scipy.optimize import minimize

from benchmarks.scenes import Scene, data_root, load_scenes
from xwalloc.bitstream import planes as coder
from xwalloc.bitstream import rans
from xwalloc.bitstream import scan as scanner
from xwalloc.bitstream.contexts import (
    CLASSES,
    DIRECT_CLASSES,
    FEATURES,
    FLAG_FEATURES,
    MAGNITUDES,
    ONE,
    Kind,
    Role,
    class_of,
    direct_classes,
    first_class,
    lattice_weights,
)
from xwalloc.bitstream.contexts import weights as shipped_weights
from xwalloc.bitstream.tables import TOKENS, Tables, from_counts, shipped
from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig
from xwalloc.models import lattice
from xwalloc.models.lattice_rows import FEATURES as LATTICE_FEATURES
from xwalloc.models.lattice_sequential import FEATURES as SEQUENTIAL_FEATURES
from xwalloc.models.lattice_weights import WEIGHTS

IN_ROW = ("mean", "w", "ww")
"""What makes a serial chain of a row (scan.py): left out where other rows know nearly as much."""

CAUSAL = ("mean", "w", "ww", "n", "diagonal", "nn", "u")
FLAG_CAUSAL = ("mean", "w", "n", "ne")
SOURCE = {Kind.LATENT_PARALLEL: Kind.LATENT, Kind.RESIDUAL_PARALLEL: Kind.RESIDUAL}
"""Kinds that are trained on the symbols of others."""

PER_CALL = 40_000
PRIOR = 24.0
LEAST = 20_000
Call = tuple[NDArray[Any], NDArray[Any], Kind, int, NDArray[Any]]
LatticeCall = tuple[Any, int, Any]
"""A plan, the number of a box, and what its analysis found."""


def record(without: list[str]) -> tuple[list[Call], list[LatticeCall]]:
    """What the encoder codes for every scene and bound: the arguments of `planes.encode`, and boxes in lattice mode."""
    encode, encode_segments, packed = coder.encode, coder.encode_segments, lattice.Plan.classified
    calls: list[Call] = []
    boxes: list[LatticeCall] = []

    def note(buffer: Any, planes: Any, kind: Kind, dimensions: int, mask: Any = coder.NO_MASK) -> None:
        calls.append((buffer.copy(), planes.copy(), kind, dimensions, mask.copy()))

    def spy(*args: Any) -> bytes:
        note(*args)
        return encode(*args)

    def spy_segments(buffer: Any, parts: Any, kind: Kind, dimensions: int, mask: Any, *rest: Any, **more: Any) -> bytes:
        shared, holes = buffer.copy(), mask.copy()
        calls.extend((shared, planes.copy(), kind, dimensions, holes) for planes in parts)
        return encode_segments(buffer, parts, kind, dimensions, mask, *rest, **more)

    def spy_lattice(plan: Any, index: int, found: Any, weights: Any = None, lookups: Any = None) -> Any:
        if weights is None:
            boxes.append((plan, index, found))
        return packed(plan, index, found, weights, lookups)

    coder.encode, coder.encode_segments = spy, spy_segments  # type: ignore[assignment]
    lattice.Plan.classified = spy_lattice  # type: ignore[method-assign]
    try:
        for scene in [*load_scenes(data_root()), *volumes()]:
            if scene.name in without:
                continue
            for quality in [{"max_error": bound} for bound in scene.bounds] + [{"lossless": True}]:
                axes: dict[str, Any] = {"channel_axis": scene.channel_axis, "signal_axes": tuple(scene.signal_axes)}
                ChunkCodec(CodecConfig(**axes, **quality, nodata=scene.nodata)).encode(scene.array)
    finally:
        coder.encode, coder.encode_segments = encode, encode_segments
        lattice.Plan.classified = packed  # type: ignore[method-assign]
    return calls, boxes


def volumes() -> Iterator[Scene]:
    """Three signal axes: monthly winds over (time, latitude, longitude)."""
    root = data_root()
    if root is None:
        return
    with netcdf_file(root / "gridded" / "monthly_navy_winds.cdf", mmap=False) as file:
        for name in ("UWND", "VWND"):
            array = np.ascontiguousarray(file.variables[name].data, np.float32)[None]
            yield Scene(
                name=f"winds-{name}",
                kind="timeseries",
                array=array,
                channel_axis=0,
                signal_axes=(1, 2, 3),
                bounds=(0.05, 0.2, 1.0),
                nodata=-99.9,
            )


def scan(call: Call, symbols: NDArray[np.int64], flags: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
    """Values, roles and expectations of a call under given weights ((2, features) each)."""
    buffer, planes, _, _, mask = call
    room = coder.symbols_at_most(planes)
    values, contexts, expected = np.empty(room, buffer.dtype), np.empty(room, np.uint16), np.empty(room, np.int64)
    table_of = np.arange(len(Role) * CLASSES, dtype=np.uint16).reshape(len(Role), CLASSES)
    t = shipped()
    count, _ = scanner.scan(
        buffer, planes, mask, symbols, flags, True, False, MAGNITUDES, table_of, table_of[:, direct_classes()], False,
        0, values, contexts, expected,
        t.symbols, t.spans, np.empty(0, np.uint16), np.empty(0, np.int64), *scanner.scratch(planes, False),
    )  # fmt: skip
    return values[:count], contexts[:count] // CLASSES, expected[:count]


def features(call: Call, rng: np.random.Generator) -> Iterator[tuple[tuple[Any, ...], NDArray[Any], NDArray[Any]]]:
    """((kind, dimensions, next?, flag?), magnitudes, features) of a sample of a call's symbols."""
    buffer, planes, kind, dimensions, mask = call
    for following in (False, True):
        some = planes[(planes["previous"] >= 0) == following]
        if not coder.symbols_at_most(some):
            continue
        part = (buffer, some, kind, dimensions, mask)
        columns, roles, values, pick = [], None, None, None
        for f in range(len(FEATURES)):
            symbols = np.zeros((2, len(FEATURES)), np.int64)
            symbols[:, f] = ONE
            flags = np.zeros((2, len(FLAG_FEATURES)), np.int64)
            if f < len(FLAG_FEATURES):
                flags[:, f] = ONE
            values, roles, expected = scan(part, symbols, flags)
            if pick is None:
                pick = rng.permutation(len(values))[:PER_CALL]
            columns.append(expected[pick] / ONE)
        table = np.stack(columns, axis=1)
        magnitudes, role = np.abs(values[pick].astype(np.float64)), roles[pick]
        is_flag = role == Role.FLAG
        yield (kind, dimensions, following, False), magnitudes[~is_flag], table[~is_flag]
        yield (kind, dimensions, following, True), magnitudes[is_flag], table[is_flag][:, : len(FLAG_FEATURES)]


def classified(call: LatticeCall, weights: tuple[NDArray[np.int64], NDArray[np.int64]]) -> tuple[NDArray[Any], ...]:
    """Symbols, roles and expectations of a box under given weights."""
    plan, index, found = call
    symbols, classes, expected = plan.classified(index, found, weights)
    return symbols, classes // CLASSES, expected


def lattice_features(
    call: LatticeCall, rng: np.random.Generator
) -> Iterator[tuple[tuple[int, int, bool], NDArray[Any], NDArray[Any]]]:
    """((dimensions, class, next?), magnitudes, features) of a sample of the symbols of a box.

    The class after the last one stands for channels that are visited sample by sample.
    """
    d = call[0].geometry.dimensions
    classes = (1 << d) - 1

    def one_hot(feature: int, interpolated: Any = ONE, sequential: Any = ONE) -> NDArray[np.int64]:
        levels = len(call[0].parameters.weights) // classes
        weights = (
            np.zeros((levels * classes, 2, len(LATTICE_FEATURES)), np.int64),
            np.zeros((2, len(SEQUENTIAL_FEATURES)), np.int64),
        )
        for array, value in zip(weights, (interpolated, sequential), strict=True):
            if feature < array.shape[-1]:
                array[..., feature] = value
        return np.asarray(classified(call, weights)[2])

    symbols, _, _ = classified(call, call[0].weights)
    if not len(symbols):
        return
    base = one_hot(0, 16 * ONE, 16 * ONE)
    ranks = np.tile(1 + np.arange(classes), len(call[0].parameters.weights) // classes)[:, None]
    rank = np.rint(one_hot(0, 16 * ONE * ranks, 16 * ONE * (1 + classes)) / np.maximum(base, 1)).astype(int) - 1
    double = np.array([1, 2])
    following = one_hot(0, 16 * ONE * double, 16 * ONE * double) > base * 3 // 2
    table = np.stack([one_hot(f) / ONE for f in range(len(SEQUENTIAL_FEATURES))], axis=1)
    for k in range(classes + 1):
        count = len(LATTICE_FEATURES) if k < classes else len(SEQUENTIAL_FEATURES)
        for which in (False, True):
            at = np.flatnonzero((rank == k) & (following == which))
            at = rng.permutation(at)[:PER_CALL]
            if len(at):
                yield (d, k, which), np.abs(symbols[at].astype(np.float64)), table[at][:, :count]


def train_lattice(boxes: list[LatticeCall], rng: np.random.Generator) -> dict[str, list[int]]:
    """Weights of lattice mode."""
    stacks: dict[tuple[int, int, bool], list[tuple[NDArray[Any], NDArray[Any]]]] = defaultdict(list)
    for call in boxes:
        for key, magnitudes, table in lattice_features(call, rng):
            stacks[key].append((magnitudes, table))
    found: dict[str, list[int]] = {}
    for d in (1, 2, 3):
        classes = (1 << d) - 1
        for k in range(classes + 1):
            names = LATTICE_FEATURES if k < classes else SEQUENTIAL_FEATURES
            for following in (False, True):
                name = f"{d}d-{k if k < classes else 'sequential'}-{'next' if following else 'first'}"
                stack = stacks.get((d, k, following)) or stacks[d, k, not following]
                if sum(len(m) for m, _ in stack) < LEAST:
                    shipped_lattice = lattice_weights(d)
                    found[name] = (shipped_lattice[1] if k == classes else shipped_lattice[0][k])[
                        int(following)
                    ].tolist()
                    continue
                magnitudes = np.concatenate([m for m, _ in stack])
                table = np.concatenate([t for _, t in stack])
                allowed = table.any(axis=0)
                if not following:
                    allowed[np.isin(names, ("previous", "ring"))] = False
                found[name] = fit_weights(magnitudes, table, allowed).tolist()
                print("lattice", name, len(magnitudes), dict(zip(names, found[name], strict=True)))
    return found


def chosen_lattice(weights: dict[str, list[int]], d: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`lattice_weights` of weights that are not shipped yet."""
    whiches = ("first", "next")
    interpolated = [[weights[f"{d}d-{k}-{which}"] for which in whiches] for k in range((1 << d) - 1)]
    return np.array(interpolated), np.array([weights[f"{d}d-sequential-{which}"] for which in whiches])


def fit_weights(
    magnitudes: NDArray[np.float64], table: NDArray[np.float64], allowed: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Non-negative weights that minimise the code length of a geometric distribution with the expected mean."""
    keep = np.flatnonzero(allowed)
    table = np.minimum(table[:, keep], 1e7)
    magnitudes = np.minimum(magnitudes, 1e7)
    floor = 0.25 / ONE

    def cost(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        mean = table @ weights + floor
        # -log2 of a geometric distribution on magnitudes with this mean.
        value = magnitudes * np.log(mean / (1 + mean)) - np.log1p(mean)
        slope = magnitudes / (mean * (1 + mean)) - 1 / (1 + mean)
        return -float(value.mean()), -(table.T @ slope) / len(magnitudes)

    start = np.full(len(keep), 1.0 / len(keep))
    found = minimize(cost, start, jac=True, bounds=[(0, 16)] * len(keep), method="L-BFGS-B", options={"maxiter": 200})
    weights = np.zeros(len(allowed), np.int64)
    weights[keep] = np.rint(found.x * ONE)
    return weights


def train(without: list[str]) -> tuple[dict[str, dict[str, list[int]]], Tables]:
    rng = np.random.default_rng(0)
    calls, boxes = record(without)
    stacks: dict[tuple[Any, ...], list[tuple[NDArray[Any], NDArray[Any]]]] = defaultdict(list)
    for call in calls:
        for key, magnitudes, table in features(call, rng):
            if len(magnitudes):
                stacks[key].append((magnitudes, table))
    result: dict[str, dict[str, list[int]]] = {"symbols": {}, "flags": {}, "lattice": train_lattice(boxes, rng)}
    for kind in Kind:
        if kind == Kind.LATTICE:
            continue
        source = SOURCE.get(kind, kind)
        for dimensions in (1, 2, 3):
            for following in (False, True):
                name = f"{kind.name.lower()}-{dimensions}d-{'next' if following else 'first'}"
                for flag, group, names, causal in (
                    (False, "symbols", FEATURES, CAUSAL),
                    (True, "flags", FLAG_FEATURES, FLAG_CAUSAL),
                ):
                    if kind == Kind.SIDE and dimensions > 1:  # masks: too few scenes have one
                        result[group][name] = shipped_weights(kind, dimensions)[int(flag)][int(following)].tolist()
                        continue
                    stack = stacks.get((source, dimensions, following, flag))
                    if stack is not None and sum(len(m) for m, _ in stack) < LEAST:
                        stack = None
                    if stack is None:  # no such data: what other numbers of axes say
                        others = [(d, f) for f in (following, not following) for d in (2, 1, 3)]
                        stack = next((stacks[key] for d, f in others if stacks.get(key := (source, d, f, flag))), None)
                    if stack is None:
                        result[group][name] = shipped_weights(kind, dimensions)[int(flag)][int(following)].tolist()
                        continue
                    magnitudes = np.concatenate([m for m, _ in stack])
                    table = np.concatenate([t for _, t in stack])
                    allowed = table.any(axis=0)
                    if kind in SOURCE:
                        allowed &= ~np.isin(names, causal)
                    if kind in (Kind.LATENT, Kind.RESIDUAL) and dimensions > 1:
                        allowed &= ~np.isin(names, IN_ROW)
                    if kind not in (Kind.LATENT, Kind.LATENT_PARALLEL):
                        allowed &= ~np.isin(names, ("parent", "sibling"))
                    if not following:
                        allowed &= ~np.isin(names, ("previous", "ring"))
                    if dimensions < 3:
                        allowed &= ~np.isin(names, ("u",))
                    if dimensions < 2:
                        allowed &= ~np.isin(names, ("n", "diagonal", "nn", "ne"))
                    result[group][name] = fit_weights(magnitudes, table, allowed).tolist()
                    print(name, group, len(magnitudes), dict(zip(names, result[group][name], strict=True)))
    return result, tables(calls, boxes, result)


def tables(calls: list[Call], boxes: list[LatticeCall], weights: dict[str, dict[str, list[int]]]) -> Tables:
    counts = np.zeros((len(Kind) * len(Role) * CLASSES, TOKENS))
    for call in calls:
        kinds = (call[2], *(kind for kind, source in SOURCE.items() if source == call[2]))
        for kind in kinds:
            names = [f"{kind.name.lower()}-{call[3]}d-{which}" for which in ("first", "next")]
            values, roles, expected = scan(
                call,
                np.array([weights["symbols"][n] for n in names], np.int64),
                np.array([weights["flags"][n] for n in names], np.int64),
            )
            if not len(values):
                continue
            count(counts, kind, values, roles, expected)
    for box in boxes:
        d = box[0].geometry.dimensions
        interpolated, sequential = chosen_lattice(weights["lattice"], d)
        codes = box[0].parameters.weights
        repeated = np.tile(interpolated, (len(codes) // ((1 << d) - 1), 1, 1))
        chosen = np.where(codes < 0, repeated, WEIGHTS[codes])
        count(counts, Kind.LATTICE, *classified(box, (chosen, sequential)))
    return merged(counts)


def count(
    counts: NDArray[np.float64], kind: Kind, values: NDArray[Any], roles: NDArray[Any], expected: NDArray[Any]
) -> None:
    """Add the tokens of values to the counts of their classes."""
    if not len(values):
        return
    near = expected < DIRECT_CLASSES
    level = np.where(near, direct_classes()[np.minimum(expected, DIRECT_CLASSES - 1)], 0)
    for i in np.flatnonzero(~near):
        level[i] = class_of(int(expected[i]))
    small = np.abs(values) <= rans.DIRECT
    token = np.where(values > 0, 2 * np.abs(values) - 1, 2 * np.abs(values)).astype(np.int64)
    for i in np.flatnonzero(~small):
        token[i] = rans.split(int(values[i]))[0]
    row = (int(kind) * len(Role) + roles.astype(np.int64)) * CLASSES + level
    # A large scene counts for at most as much as a few small ones.
    np.add.at(counts, (row, token), min(1.0, 400_000 / len(values)))


def merged(counts: NDArray[np.float64]) -> Tables:
    """Tables from counts: classes smoothed with their neighbours and a two-sided geometric prior.

    Signs are made symmetric, but for lattice residuals, which count positive towards the prediction's fraction.
    """
    for kind in Kind:
        if kind != Kind.LATTICE:
            block = counts[first_class(kind, Role.DENSE) :][: len(Role) * CLASSES, 1:31]
            block[:] = np.repeat((block[:, ::2] + block[:, 1::2]) / 2, 2, axis=1)
    rows = []
    for kind in Kind:
        for role in Role:
            first = first_class(kind, role)
            block = counts[first : first + CLASSES]
            for c in range(CLASSES):
                near = block[c].copy()
                for d in (1, 2, 3):
                    if near.sum() >= 2000:
                        break
                    for other in (c - d, c + d):
                        if 0 <= other < CLASSES:
                            near += block[other] * 0.5**d
                rows.append(near + PRIOR * prior(c, Role.DENSE if kind == Kind.LATTICE else role))
    frequencies = from_counts(np.array(rows))
    unique, index = np.unique(frequencies, axis=0, return_inverse=True)
    return Tables(unique, index.reshape(-1).astype(np.uint16))


def prior(c: int, role: Role) -> NDArray[np.float64]:
    """Token probabilities of a two-sided geometric distribution (of a flag, for that role) in a class."""
    mean = representative(c)
    out = np.zeros(TOKENS)
    if role == Role.FLAG:
        out[1] = min(max(1 - np.exp(-scanner.GROUP * mean), 1e-3), 1 - 1e-3)
        out[0] = 1 - out[1]
        return out
    t = (np.sqrt(1 + mean * mean) - 1) / mean if mean < 1e6 else 1 - 1 / mean
    zero, rate = (1 - t) / (1 + t), np.log(t)
    out[0] = zero
    for m in range(1, rans.DIRECT + 1):
        out[2 * m - 1] = out[2 * m] = zero * np.exp(rate * m)

    def mass(a: float, b: float) -> float:
        return max(0.0, 2 * zero * (np.exp(rate * a) - np.exp(rate * b)) / (1 - t))

    for e in range(4, 63):
        if e < 16:
            for quarter in range(4):
                foot = (4 + quarter) * 2.0 ** (e - 2)
                out[31 + 4 * (e - 4) + quarter] = mass(foot, foot + 2.0 ** (e - 2))
        else:
            out[79 + e - 16] = mass(2.0**e, 2.0 ** (e + 1))
    return out


def representative(c: int) -> float:
    """Magnitude in the middle of a class, in symbols."""
    if c < 4:
        return max(c, 0.4) / ONE
    if c < 68:
        return (4 + (c - 4) % 4 + 0.5) / 4 * 2.0 ** (2 + (c - 4) // 4) / ONE
    return float(2.0 ** (18 + c - 68 + 0.5) / ONE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without", nargs="*", default=[], help="scenes to leave out")
    parser.add_argument("--output", type=Path, default=Path(coder.__file__).parent)
    arguments = parser.parse_args()
    weights, trained = train(arguments.without)
    (arguments.output / "weights-1.json").write_text(json.dumps(weights, indent=1) + "\n")
    (arguments.output / "tables-1.bin").write_bytes(trained.to_bytes())
    print(len(trained.frequencies), "tables,", len(trained.to_bytes()), "bytes")


if __name__ == "__main__":
    main()
