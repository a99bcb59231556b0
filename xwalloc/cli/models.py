"""`xwalloc fit`, `xwalloc train` and `xwalloc import-checkpoint`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from rich.console import Console

import xwalloc
from xwalloc.cli.shell import debug_option, main, show
from xwalloc.errors import ConfigError
from xwalloc.models.model import check_place

F = TypeVar("F", bound=Callable[..., Any])


def model_options(command: F) -> F:
    """What `fit` and `train` have in common."""
    for option in reversed((
        click.option("--max-error", type=float, help="Largest absolute error."),
        click.option("--snr", type=float, help="Signal-to-noise ratio in dB."),
        click.option("--bits", type=float, help="Bits per sample."),
        click.option("--ratio", type=float, help="Raw by stored bytes."),
        click.option("--latents", type=int, help="Latents of each patch of samples."),
        click.option("--channel-dim", help="Dimension of bands, electrodes or components."),
        click.option("--signal-dim", multiple=True, help="Dimension that the wavelet runs over; up to three times."),
        click.option("--levels", type=int, default=4, show_default=True, help="Levels of the wavelet transform."),
        click.option("--tree", type=click.Choice(["dyadic", "packet"]), default="dyadic", show_default=True),
    )):  # fmt: skip
        command = option(command)
    return command


@main.command()
@click.argument("store")
@click.argument("variable")
@click.argument("model", type=click.Path(dir_okay=False))
@model_options
@debug_option
def fit(store: str, variable: str, model: str, signal_dim: tuple[str, ...], **options: Any) -> None:
    """Fit a model to VARIABLE of STORE and write it to the file MODEL.

    STORE is the path or URL of a Zarr store that xarray opens; a sample of blocks is read. Exactly one target is given.
    """
    check_place("MODEL", model)
    with opened(store) as dataset:
        if variable not in dataset.data_vars:
            raise ConfigError(f"Expected VARIABLE to be one of {list(dataset.data_vars)}. Got {variable!r}.")
        found = xwalloc.fit(dataset[variable], signal_dims=signal_dim or None, **options)
    found.save(model)
    show(model, found.facts())


@main.command("import-checkpoint")
@click.argument("config", type=click.Path(dir_okay=False))
@click.argument("checkpoint", type=click.Path(dir_okay=False))
@click.argument("model", type=click.Path(dir_okay=False))
@click.option(
    "--range", "value_range", type=(float, float),
    help="Samples that -1/2 and 1/2 of the network stand for. Default: the range of 8-bit types, else of each chunk.",
)  # fmt: skip
@click.option("--pickle", is_flag=True, help="Accept a legacy checkpoint; its objects are dropped, nothing of it runs.")
@click.option("--size", type=click.IntRange(1), help="Samples of the chunk that is tried, along every signal axis.")
@click.option("--image", type=click.Path(dir_okay=False), help="Try a crop of this picture, not a chunk that is made.")
@click.option("--max-error", type=float, help="Bound to try as well. Default: 1/32 of the range.")
@debug_option
def import_checkpoint(
    config: str,
    checkpoint: str,
    model: str,
    value_range: tuple[float, float] | None,
    pickle: bool,
    size: int | None,
    image: str | None,
    max_error: float | None,
) -> None:
    """Write the published WaLLoC model of CONFIG and CHECKPOINT to the file MODEL, and try it on a chunk.

    CONFIG is its JSON file, CHECKPOINT its .pth file. MODEL can be given as model= wherever xwalloc compresses. Needs
    torch.
    """
    from xwalloc.codec import trial
    from xwalloc.models import published

    check_place("MODEL", model)
    found = published.import_checkpoint(config, checkpoint, value_range=value_range, allow_pickle=pickle)
    chunk = trial.made(found, size) if image is None else trial.picture(found, image, size)
    found.save(model)
    show(model, found.facts())
    origin = "made for this" if image is None else f"from {image}"
    show(f"round trip of a chunk of {chunk.dtype} {chunk.shape}, {origin}", trial.rows(found, chunk, max_error))


@main.command()
@click.argument("source", nargs=-1, required=True)
@click.argument("model", type=click.Path(dir_okay=False))
@click.option("--variable", required=True, help="Name of the variable in every SOURCE.")
@click.option("--fitted", type=click.Path(dir_okay=False), help="File of a model to train for, in place of a target.")
@click.option("--start", type=click.Path(dir_okay=False), help="File of a model whose network to start from.")
@model_options
@click.option(
    "--kind",
    type=click.Choice(["shared", "fixed"]),
    default="shared",
    show_default=True,
    help="One network for every spectral component, or one for all of them together.",
)
@click.option("--encoder", is_flag=True, help="Train the spectral basis first.")
@click.option("--steps", type=int, default=3000, show_default=True, help="Steps at most.")
@click.option("--minutes", type=float, help="Time that training may take.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of all random numbers.")
@click.option("--device", help="cpu, cuda, ...; by default cuda where there is one.")
@click.option("--checkpoint", type=click.Path(dir_okay=False), help="File to go on from after an interruption.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Picture of the gain over the steps.")
@debug_option
def train(
    source: tuple[str, ...], model: str, variable: str, fitted: str | None, start: str | None,
    signal_dim: tuple[str, ...], **options: Any
) -> None:  # fmt: skip
    """Train a network for a model of SOURCE and write both to the file MODEL.

    Each SOURCE is the path or URL of a Zarr store that xarray opens. One is split by region, of several the last ones
    are held out. Exactly one target is given, or --fitted. Needs torch.
    """
    from contextlib import ExitStack

    from rich.progress import Progress

    check_place("MODEL", model)
    with ExitStack() as stack:
        datasets = [stack.enter_context(opened(store)) for store in source]
        for dataset in datasets:
            if variable not in dataset.data_vars:
                raise ConfigError(f"Expected --variable to be one of {list(dataset.data_vars)}. Got {variable!r}.")
        bar = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
        task = bar.add_task("training", total=None)

        def report(now: Any) -> None:
            words = f"{now.rate:.3f} bits per latent, MSE {now.distortion:.5f} steps², {now.gain:+.3f} dB"
            bar.update(task, total=now.steps, completed=now.step, description=words)

        found = xwalloc.train(
            [dataset[variable] for dataset in datasets], signal_dims=signal_dim or None, progress=report,
            model=None if fitted is None else xwalloc.load_model(fitted),
            start=None if start is None else xwalloc.load_model(start), **options,
        )  # fmt: skip
    found.save(model)
    show(model, found.facts())


def opened(store: str) -> Any:
    """The dataset in the root of a store, lazily, with consolidated metadata or without."""
    import xarray as xr
    import zarr

    consolidated = zarr.open_group(store, mode="r").metadata.consolidated_metadata is not None
    return xr.open_dataset(store, engine="zarr", consolidated=consolidated)
