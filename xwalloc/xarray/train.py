"""`xwalloc.train`: a model whose latents a network refines, from regions or scenes that are read lazily."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xwalloc.errors import ConfigError
from xwalloc.fitting.basis import with_basis
from xwalloc.models import library
from xwalloc.models.model import LINEAR, Model, check_place
from xwalloc.models.spec import Tree
from xwalloc.xarray.fit import Source, fit_sources

if TYPE_CHECKING:
    from xwalloc.models.neural import Network
    from xwalloc.training import Progress

__all__ = ["train"]

logger = logging.getLogger("xwalloc")

SIDES = {1: 8192, 2: 128, 3: 32}
"""Side of a block along every signal axis, by their number, about: larger than for `fit`, with fewer borders."""

TRAINING_BLOCKS, VALIDATION_BLOCKS = 32, 8

HELD_OUT = 4
"""One part in so many is validated with."""


def train(
    obj: xr.DataArray | xr.Dataset | Sequence[xr.DataArray | xr.Dataset],
    *,
    max_error: float | Mapping[Any, float] | None = None,
    snr: float | None = None,
    bits: float | None = None,
    ratio: float | None = None,
    latents: int | None = None,
    model: Model | None = None,
    start: Model | None = None,
    channel_dim: Hashable | None = None,
    signal_dims: Hashable | Sequence[Hashable] | None = None,
    nodata: float | None = None,
    levels: int = 4,
    tree: Tree = "dyadic",
    kind: Literal["shared", "fixed"] = "shared",
    encoder: bool = False,
    steps: int = 3000,
    minutes: float | None = None,
    seed: int = 0,
    device: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
    plot: str | os.PathLike[str] | None = None,
) -> Model:
    """Train a network that refines the latents of a linear model before they are decoded. Needs ``xwalloc[torch]``.

    The linear model is fitted to all of the array in closed form, as by `fit`. The network sees three quarters of it
    (along its longest signal axis) or, of several arrays, three of four scenes; the rest decides when to stop and what
    is reported. Where the network is not worth it there, the model comes back without one.

    Parameters
    ----------
    obj
        A variable, or a dataset of one; or a sequence of these with the same channels, stored alike.
    max_error, snr, bits, ratio, latents
        Quality target as for `fit`, exactly one of them; none with `model`, which has its own.
    model
        A model that was fitted before.
    start
        A model of other data, even of other bands if `kind` is "shared", whose network training starts from; by default
        `model`, if that has one. With ``steps=0`` its network is taken as it is, if it helps with these data.
    channel_dim, signal_dims, nodata, levels, tree
        As for `fit`.
    kind
        "shared": one network for every spectral component. "fixed": one for all components of the model together, with
        more weights the more there are.
    encoder
        Whether the spectral basis is trained first, from the closed form on: additive uniform noise in place of
        rounding, MSE + lambda * rate, seven tenths of the steps; then it is frozen. It is kept if it is better on the
        rest, which is seldom: see docs/models.md.
    steps
        Steps at most; training stops earlier when the network gets no better on the rest.
    minutes
        Time that training may take: there are as many steps as fit in. None for no limit.
    seed
        Of all random numbers: the same data, seed and machine make the same network, unless `minutes` cuts it short.
    device
        Of torch: "cpu", "cuda", ...; by default "cuda" where there is one. On CUDA, products are bfloat16 while
        training; what is trained are integers, which decode to the same everywhere.
    checkpoint
        File to write the state of training to now and then; a training that was interrupted goes on from there.
    progress
        Called with a `xwalloc.training.Progress` at every validation.
    plot
        Picture of the gain over the steps, to be written in the format of its ending, unless there was nothing to learn
        from. Needs matplotlib.

    Returns
    -------
    Model
        ``description["train"]`` says what the network is worth, as ``report`` in words: a gain in dB over the linear
        decoder with its reconstruction points. Each chunk that is stored with the model uses the network only if that
        makes the chunk smaller or, without a bound, its error.

    Raises
    ------
    ConfigError
        If something is not possible; the message says what to do.

    Examples
    --------
    >>> model = train(scene, max_error=0.5, minutes=5)  # doctest: +SKIP
    >>> model.description["train"]["report"]  # doctest: +SKIP
    '0.16 dB better than the linear decoder, 2.0% fewer bytes (int8 costs 0.001 dB), which pays for 20 kB ...'
    """
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("Expected torch, which training needs. Got none: pip install 'xwalloc[torch]'.")
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("Expected matplotlib, which plot needs. Got none: pip install matplotlib, or leave out plot.")
    for parameter, path in (("plot", plot), ("checkpoint", checkpoint)):
        if path is not None:
            check_place(parameter, path)
    if kind not in ("shared", "fixed"):
        raise ConfigError(f"Expected kind to be 'shared' or 'fixed'. Got {kind!r}.")
    several = isinstance(obj, Sequence)
    given: Any = obj if several else [obj]
    if not given:
        raise ConfigError("Expected at least one array to train on. Got an empty sequence.")
    sources = [Source.of(o, channel_dim=channel_dim, signal_dims=signal_dims, nodata=nodata) for o in given]
    alike(sources)
    from xwalloc.training import Options, plot_history
    from xwalloc.training.model import Split, device_of, train_model

    options, where = Options(steps=steps, minutes=minutes, seed=seed), device_of(device)
    targets = {"max_error": max_error, "snr": snr, "bits": bits, "ratio": ratio, "latents": latents}
    if model is None:
        model = fit_sources(sources, targets, levels, tree)
    else:
        suits(model, sources[0], [name for name, value in targets.items() if value is not None])
    first, rest = split(sources, model.fitted.levels)
    data = Split(
        training=blocks(first, TRAINING_BLOCKS), validation=blocks(rest, VALIDATION_BLOCKS),
        by="scene" if len(sources) > 1 else "region",
    )  # fmt: skip

    def rebase(linear: Model, basis: NDArray[np.float64]) -> Model:
        return with_basis(linear, basis, data.training, sources[0].nodata)

    found, result = train_model(
        model, data, nodata=sources[0].nodata, kind=kind, rebase=rebase if encoder else None,
        start=network_of(start, model), options=options, device=where,
        checkpoint=None if checkpoint is None else Path(checkpoint), progress=progress,
    )  # fmt: skip
    if plot is not None and result is not None:
        try:
            plot_history(result, Path(plot))
        except (ValueError, OSError) as error:  # the model took longer to make
            logger.warning("The picture %s was not written: %s", os.fspath(plot), error)
    return library.add(found)


def network_of(start: Model | None, model: Model) -> Network | None:
    """The network that training starts from; None for one that corrects nothing."""
    if start is not None and (start.kind != LINEAR or start.fitted.network is None):
        raise ConfigError(
            f"Expected a model with a network to start from. Got one without: {start.id}. Leave out start."
        )
    return (start or model).fitted.network


def alike(sources: Sequence[Source]) -> None:
    """Refuse arrays that no model could have in common."""

    def what(source: Source) -> dict[str, Any]:
        channel = source.roles.channel
        packing = {name: source.stored.attrs.get(name) for name in ("scale_factor", "add_offset")}
        count = 1 if channel is None else source.variable.shape[channel]
        dims = {name: entry for name, entry in source.about.items() if name != "dtype"}
        return {**dims, "channels": count, "nodata": source.nodata, **packing}

    first = what(sources[0])
    for i, source in enumerate(sources):
        differing = [name for name, value in what(source).items() if value != first[name]]
        if differing:
            name = differing[0]
            raise ConfigError(
                f"Expected arrays that are alike to train one model on. Got {name} {first[name]!r} of the first and "
                f"{what(source)[name]!r} of number {i}. Train a model for each."
            )


def suits(model: Model, source: Source, targets: Sequence[str]) -> None:
    """Refuse a model that is not one of such an array."""
    if targets:
        raise ConfigError(
            f"Expected no {targets[0]} beside a model, which was made for {model.target}. Leave out one of the two."
        )
    if model.kind != LINEAR:
        raise ConfigError(
            f"Expected a model that xwalloc.fit made. Got one of kind {model.kind!r}: train that with the modules of "
            "xwalloc.models.upstream."
        )
    channel = source.roles.channel
    got = 1 if channel is None else source.variable.shape[channel], len(source.roles.signal)
    if got != (model.channels, model.dimensions):
        raise ConfigError(
            f"Expected an array of {model.channels} channels and {model.dimensions} signal axes, for "
            f"which the model was made. Got {got[0]} and {got[1]}."
        )


def split(sources: Sequence[Source], levels: int) -> tuple[list[Source], list[Source]]:
    """What to train on, and what to validate with: the last scenes, or the end of a single one."""
    if len(sources) > 1:
        count = max(1, len(sources) // HELD_OUT)
        return list(sources[:-count]), list(sources[-count:])
    (source,) = sources
    axis = max(source.roles.signal, key=lambda axis: source.variable.shape[axis])
    dim, length = source.variable.dims[axis], source.variable.shape[axis]
    start = (length - length // HELD_OUT) >> levels << levels
    if not 0 < start < length:
        raise ConfigError(
            f"Expected at least {2 << levels} samples along {dim!r}, to train on some and to validate with others. Got "
            f"{length}. Give several scenes in a sequence, or choose fewer levels."
        )
    return [source.part(dim, 0, start)], [source.part(dim, start, None)]


def blocks(sources: Sequence[Source], most: int) -> list[NDArray[Any]]:
    """Blocks of some arrays, which leave out next to nothing of small ones."""
    found = []
    for source in sources:
        side = SIDES[len(source.extent)]
        found += source.blocks([n // max(1, round(n / side)) for n in source.extent], max(1, most // len(sources)))
    return found
