"""What to say of a model: labels and texts for people."""

from __future__ import annotations

import math
from collections.abc import Mapping

from xwalloc.errors import FormatError
from xwalloc.models.model import PUBLISHED, Model

__all__ = ["facts_of"]


def facts_of(model: Model) -> list[tuple[str, str]]:
    """`Model.facts`."""
    found = [("kind", model.kind), ("data", f"{model.channels} channels, {model.dimensions} signal axes")]
    try:
        found += _of_published(model) if model.kind == PUBLISHED else _of_linear(model)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FormatError(f"The description of the model is damaged: {error!r:.80}.") from None
    return [*found, ("size", f"{len(model.data)} bytes"), ("id", model.id)]


def _of_linear(model: Model) -> list[tuple[str, str]]:
    d = model.description
    target = ", ".join(f"{name} {value:g}" for name, value in model.target.items())
    if model.scaled:
        largest = float(model.arrays["scales"].max())
        target += f" for the channel of the smallest bound, {largest:g} times that at most for others"
    found = [("transform", f"{d['tree']} tree of {d['levels']} levels, {d['wavelet']}"), ("made for", target)]
    if "vectors" in model.arrays:
        found.append(("latents", f"{len(model.arrays['vectors'])} components"))
    if "network" in d:
        weights = sum(array.size for name, array in model.arrays.items() if name.endswith(".weight"))
        found.append(("decoder", f"linear, refined by a network of {weights} weights in chunks where that helps"))
    fit = d.get("fit", {})
    if fit:
        words = f"{fit['samples']} samples of {fit['blocks']} blocks: {fit['bits_per_sample']:.3f} bits per sample"
        if math.isfinite(fit.get("snr") or math.nan):
            words += f", {fit['snr']:.1f} dB"
        found.append(("measured on", words))
    trained = d.get("train")
    if isinstance(trained, Mapping) and isinstance(trained.get("report"), str):
        found.append(("training", trained["report"]))
    return found


def _of_published(model: Model) -> list[tuple[str, str]]:
    sizes, limits = model.description["architecture"], model.description.get("range")
    weights = sum(array.size for name, array in model.arrays.items() if not name.startswith(("wt.", "iwt.")))
    network = f"a network of width {sizes['Nd']}" if sizes.get("Nd") else "linear"
    stages = f" in each of {sizes['num_stages']} stages" if sizes.get("num_stages") else ""
    return [
        ("transform", f"packet tree of {model.levels} levels, bior4.4"),
        ("latents", f"{sizes['latent_dim']} channels of {sizes['latent_bits']} bits{stages}"),
        ("decoder", f"{weights} weights, {network}"),
        ("range", f"{limits[0]:g} to {limits[1]:g}" if limits else "that of 8-bit types, else that of each chunk"),
    ]
