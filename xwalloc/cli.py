"""The command line: arguments in, calls down, text out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.text import Text

import xwalloc
from xwalloc.errors import ConfigError, ModelError, XwallocError
from xwalloc.models import library
from xwalloc.models.model import parse_reference

__all__ = ["main"]

F = TypeVar("F", bound=Callable[..., Any])


class Friendly(click.Group):
    """A group whose commands end in messages instead of tracebacks."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; its errors become a message and exit code 1, unless ``--debug`` is given."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.meta.get("debug"):
                raise
            if isinstance(error, XwallocError):
                raise click.ClickException(str(error)) from error
            raise click.ClickException(
                f"{type(error).__name__}: {error}\nRun the same command with --debug to see where this comes from."
            ) from error


def debug_option(command: F) -> F:
    """``--debug``, before or after the name of a command."""

    def remember(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            ctx.meta["debug"] = True

    return click.option(
        "--debug", is_flag=True, expose_value=False, callback=remember, help="Show tracebacks of errors."
    )(command)


@click.group(cls=Friendly, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(xwalloc.__version__)
@debug_option
def main() -> None:
    """Lossy, error-bounded compression of multichannel arrays in Zarr stores."""


@main.command()
@click.argument("store")
@debug_option
def info(store: str) -> None:
    """Show how the arrays of STORE are compressed.

    STORE is the path or URL of a Zarr array or group. All its frames are read; none is decoded.
    """
    from xwalloc.info import describe  # keeps `xwalloc --help` quick

    console = Console(soft_wrap=True, highlight=False)
    found = False
    for item in describe(store):
        found = True
        console.print(Text(item.path, style="bold"))
        for label, text in rows(item):
            console.print(Text(f"  {label:<16}{text}"))
    if not found:
        raise ConfigError(f"Expected arrays encoded by xwalloc in {store}. Got none. Write them with xwalloc.encoding.")


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


def show(title: str, lines: list[tuple[str, str]]) -> None:
    """Print labels and texts under a title."""
    console = Console(soft_wrap=True, highlight=False)
    console.print(Text(title, style="bold"))
    for label, text in lines:
        console.print(Text(f"  {label:<16}{text}"))


def rows(item: Any) -> list[tuple[str, str]]:
    """Lines of one array: label and text."""
    settings = item.configuration
    quality = next(key for key in ("max_error", "snr", "step", "lossless") if settings.get(key))
    bound = quality if quality == "lossless" else f"{quality} {settings[quality]:g}"
    with suppress(ModelError):
        reference = parse_reference(settings.get("model"))
        if reference is not None and library.resolve(reference).scaled:
            bound += " for the channel of the smallest bound, more for others"
    if "nodata" in settings:
        bound += f", nodata {settings['nodata']:g}"
    frames = f"{item.modes.total()} frame{'s' * (item.modes.total() != 1)}"
    grid = f"{item.dtype} {item.shape}, chunks {item.chunks}"
    if item.shards:
        grid += f", shards {item.shards}"
    return [
        ("array", f"{grid}, Zarr v{item.zarr_format}"),
        ("ratio", f"{item.ratio:.2f} ({amount(item.nbytes)} in {amount(item.stored)}, {frames})"),
        ("bits per sample", f"{item.bits_per_sample:.3f}"),
        ("bound", bound),
        ("model", counted(item.models)),
        ("modes", counted(item.modes)),
        ("sections", shares(item.sections)),
    ]


def counted(counts: Counter[str]) -> str:
    """Names with their numbers, the most frequent first."""
    return ", ".join(f"{name} ({n})" for name, n in counts.most_common()) or "no frames"


def shares(sizes: Counter[str]) -> str:
    """Names with their shares, the largest first."""
    return ", ".join(f"{name} {n / sizes.total():.1%}" for name, n in sizes.most_common() if n) or "none"


def amount(nbytes: int) -> str:
    """Bytes in the largest unit that leaves a figure above one."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
