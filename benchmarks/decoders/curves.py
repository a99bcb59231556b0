"""Curves of rate and distortion held against each other, and from which store size on a model pays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curve", "compared"]

Point = Mapping[str, Any]
"""Bytes and dB of one scene at one setting of a decoder, with their names."""


BEYOND, BEYOND_DB = 0.1, 0.5
"""How far curves are continued beyond their ends: a part of the bytes, and dB."""


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
    from which on model and frames together are smaller than those of the reference; None where a curve of the reference
    ends before, or the model never pays.
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
        gains, wanted = [], []
        for p in own:
            at, needed = curves[p["scene"]].decibels(p["bytes"]), curves[p["scene"]].nbytes(p["dB"])
            gains += [] if at is None else [p["dB"] - at]
            wanted += [] if needed is None else [needed]
        model = sizes.get((decoder, setting), 0) - sizes.get((reference, setting), 0)
        row: dict[str, Any] = {
            "decoder": decoder, "setting": setting, "bits_per_sample": 8 * nbytes / total,
            "dB": float(np.mean([p["dB"] for p in own])), "model_bytes": model,
            "gain": float(np.mean(gains)) if len(gains) == len(own) else None, "saved": None, "pays_from": None,
        }  # fmt: skip
        if len(wanted) == len(own):
            row["saved"] = 1 - nbytes / sum(wanted)
            if nbytes < sum(wanted):
                row["pays_from"] = max(0, model) * total * itemsize / (sum(wanted) - nbytes)
        rows.append(row)
    return rows
