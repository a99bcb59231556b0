"""Curves of rate and distortion held against each other, and from which store size on a model pays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["WORTH", "Curve", "compared"]

Point = Mapping[str, Any]
"""Bytes and dB of one scene at one setting of a decoder, with their names."""


BEYOND, BEYOND_DB = 0.1, 0.5
"""How far curves are continued beyond their ends: a part of the bytes, and dB."""

WORTH = 0.3
"""dB for which a model is said to be worth its trouble."""


@dataclass(frozen=True)
class Curve:
    """What a decoder makes of one scene: distortion is linear in the logarithm of bytes between its points.

    Parameters
    ----------
    points
        (bytes, dB), two or more, in any order.
    """

    points: tuple[tuple[float, float], ...]

    def decibels(self, nbytes: float) -> float | None:
        """Distortion at so many bytes; None far beyond the ends."""
        sizes, values = np.array(sorted(self.points)).T
        inside = (1 - BEYOND) * sizes[0] <= nbytes <= (1 + BEYOND) * sizes[-1]
        return _at(float(np.log(nbytes)), np.log(sizes), values) if inside else None

    def nbytes(self, decibels: float) -> float | None:
        """Bytes for so much distortion; None far beyond the ends."""
        values, sizes = np.array(sorted((value, size) for size, value in self.points)).T
        inside = values[0] - BEYOND_DB <= decibels <= values[-1] + BEYOND_DB
        return float(np.exp(_at(decibels, values, np.log(sizes)))) if inside else None


def _at(x: float, xs: NDArray[np.float64], ys: NDArray[np.float64]) -> float:
    """Piecewise linear, its first and last piece continued."""
    i = int(np.clip(np.searchsorted(xs, x), 1, len(xs) - 1))
    return float(ys[i - 1] + (ys[i] - ys[i - 1]) * (x - xs[i - 1]) / (xs[i] - xs[i - 1]))


def compared(
    points: Iterable[Point], models: Iterable[Mapping[str, Any]], samples: Mapping[str, int], itemsize: int,
    reference: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """Decoders beside a reference, setting by setting, over all scenes.

    Parameters
    ----------
    points
        Rows of decoder, setting, scene, bytes and dB.
    models
        Rows of decoder, setting and bytes of the models that stores share.
    samples
        Of each scene.
    itemsize
        Bytes of a sample.
    reference
        The decoder that the others are held against.

    Returns
    -------
    Rows of decoder and setting, with bits per sample, mean dB over the scenes, mean ``gain`` in dB at equal bytes of
    frames, ``saved`` bytes of frames at equal distortion as a part of those of the reference, ``model_bytes``
    (beyond the model of the reference at that setting), and the size ``pays_from`` of a store, in bytes of raw samples,
    from which on model and frames together are smaller than those of the reference at equal distortion, and
    ``worth_from``, from which on they are `WORTH` dB better at equal bytes. None where a curve of the reference ends
    before, or no store is large enough.
    """
    points = list(points)
    curves = {
        scene: Curve(tuple((p["bytes"], p["dB"]) for p in points if (p["decoder"], p["scene"]) == (reference, scene)))
        for scene in samples
    }
    sizes = {(m["decoder"], m["setting"]): m["bytes"] for m in models}
    rows = []
    for decoder, setting in dict.fromkeys((p["decoder"], p["setting"]) for p in points if p["decoder"] != reference):
        own = [p for p in points if (p["decoder"], p["setting"]) == (decoder, setting)]
        nbytes, total = sum(p["bytes"] for p in own), sum(samples[p["scene"]] for p in own)
        level = float(np.mean([p["dB"] for p in own]))
        there = _sum(curves[p["scene"]].decibels(p["bytes"]) for p in own)
        wanted, less = (_sum(curves[p["scene"]].nbytes(p["dB"] - below) for p in own) for below in (0.0, WORTH))
        model = sizes.get((decoder, setting), 0) - sizes.get((reference, setting), 0)
        row: dict[str, Any] = {
            "decoder": decoder, "setting": setting, "bits_per_sample": 8 * nbytes / total, "dB": level,
            "model_bytes": model, "gain": None if there is None else level - there / len(own),
            "saved": None if wanted is None else 1 - nbytes / wanted,
            "pays_from": _store(model, total * itemsize, wanted, nbytes),
            "worth_from": _store(model, total * itemsize, less, nbytes),
        }  # fmt: skip
        rows.append(row)
    return rows


def _sum(values: Iterable[float | None]) -> float | None:
    """None if any is."""
    found = list(values)
    there = [value for value in found if value is not None]
    return sum(there) if len(there) == len(found) else None


def _store(model: int, raw: int, wanted: float | None, nbytes: int) -> float | None:
    """Bytes of samples for which a model takes what its frames save; `raw` is what was measured."""
    saved = 0.0 if wanted is None else wanted - nbytes
    return max(0, model) * raw / saved if saved >= 1 else None
