"""`xwalloc convert`, `verify`, `report` and `export`."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.logging import RichHandler

import xwalloc
from xwalloc.cli.shell import amount, debug_option, main, ratio, show
from xwalloc.cli.words import in_options

F = TypeVar("F", bound=Callable[..., Any])

MOST_LINES = 8
INTERRUPTED = 130
INCOMPLETE = 3
"""Exit code where a command ran, and something could not be converted or is not as promised."""


class Sizes(click.ParamType[Any]):
    """``y=256,x=256``: sizes by dimension; or one of some words."""

    name = "DIM=SIZE,..."

    def __init__(self, *words: str) -> None:
        self.words = words

    def convert(self, value: Any, param: Any, ctx: Any) -> dict[str, int] | str:
        """Sizes by dimension."""
        if value in self.words:
            return str(value)
        try:
            pairs = [item.split("=") for item in value.split(",")]
            return {name.strip(): int(size) for name, size in pairs}
        except ValueError:
            self.fail(f"Expected sizes by dimension, such as y=256,x=256. Got {value!r}.", param, ctx)


class Target(click.ParamType[Any]):
    """A number for all variables, or ``name=number,...``."""

    name = "NUMBER"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | dict[str, float]:
        """One number, or numbers by variable."""
        try:
            if "=" not in value:
                return float(value)
            pairs = [item.rsplit("=", 1) for item in value.split(",")]
            return {name.strip(): float(number) for name, number in pairs}
        except ValueError:
            self.fail(
                f"Expected a number, or numbers by variable: temperature=0.1,wind=0.5. Got {value!r}.", param, ctx
            )


def talk_options(command: F) -> F:
    """``--quiet``, ``--json`` and ``--verbose``."""
    for option in (
        click.option("--verbose", is_flag=True, help="Say what happens on the way."),
        click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each event, for scripts."),
        click.option("--quiet", is_flag=True, help="Print errors only."),
    ):
        command = option(command)
    return command


def cluster_options(command: F) -> F:
    """``--scheduler`` and ``--workers``."""
    for option in (
        click.option("--workers", type=click.IntRange(1), help="Worker processes on this machine. Default: threads."),
        click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler, such as tcp://host:8786."),
    ):
        command = option(command)
    return command


def talk(quiet: bool, as_json: bool, verbose: bool) -> None:
    """Where log messages go: to the terminal, beside bars; nowhere but into JSON where that is wanted."""
    level = logging.INFO if verbose else logging.CRITICAL if as_json else logging.ERROR if quiet else logging.WARNING
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    parameters = click.get_current_context().command.params

    def reword(record: logging.LogRecord) -> bool:
        record.msg, record.args = in_options(record.getMessage(), parameters), ()
        return True

    handler.addFilter(reword)
    logger = logging.getLogger("xwalloc")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False


@main.command()
@click.argument("source", nargs=-1, required=True)
@click.argument("store")
@click.option("--max-error", type=Target(), help="Largest absolute error, in the units of the data.")
@click.option("--snr", type=Target(), help="Signal-to-noise ratio of every chunk, in dB.")
@click.option("--lossless", is_flag=True, help="Every value comes back bit for bit.")
@click.option("--channel-dim", help="Dimension of bands, electrodes or components. Default: guessed.")
@click.option("--signal-dim", multiple=True, help="Dimension that the wavelet runs over; up to three times.")
@click.option("--model", type=click.Path(dir_okay=False), help="File of a model that `xwalloc fit` wrote.")
@click.option("--nodata", type=Target(), help="Value of missing samples, as stored. Default: what the source says.")
@click.option("--along", metavar="DIM", help="Put all sources into one array along this dimension.")
@click.option("--chunk", "chunks", type=Sizes(), help="Chunks, such as y=256,x=256. Default: 16 MiB or less.")
@click.option("--shard", "shards", type=Sizes("auto"), help="Shards, files of many chunks, or auto. Default: none.")
@click.option(
    "--profile",
    type=click.Choice(["default", "parallel"]),
    default="default",
    show_default=True,
    help="Smallest stores, or stores that CUDA devices encode and decode.",
)
@click.option("--zarr-format", type=click.Choice(["2", "3"]), default="3", show_default=True)
@cluster_options
@click.option("--overwrite", is_flag=True, help="Replace a store of `xwalloc convert` once the new one is complete.")
@click.option("--skip-unreadable", is_flag=True, help="Complete the store without sources that cannot be read.")
@click.option("--dry-run", is_flag=True, help="Show the plan, an estimate of size and quality, and write nothing.")
@talk_options
@debug_option
@click.pass_context
def convert(
    ctx: click.Context,
    /,
    source: tuple[str, ...],
    store: str,
    signal_dim: tuple[str, ...],
    model: str | None,
    zarr_format: str,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Convert each SOURCE to one Zarr store at STORE.

    SOURCE is a GeoTIFF, COG, VRT, ENVI header, NetCDF or HDF5 file, a Zarr store, a folder of such or a pattern, also
    as URL. One becomes the root of STORE, several become a group each, or one array with --along.

    \b
    The same command again goes on where it was stopped. Exit codes:
      0  everything is converted
      1  nothing could be done; the message says what to change
      2  the command was not understood
      3  something could not be read or written; the rest is converted
    130  interrupted; the same command goes on

    \b
    Examples:
      xwalloc convert scene.tif scene.zarr --max-error 20
      xwalloc convert 'granules/*.nc' archive.zarr --along time --max-error temperature=0.05 --workers 4
    """
    from xwalloc.codec import engine
    from xwalloc.conversion import convert as conversion
    from xwalloc.conversion import estimate
    from xwalloc.conversion.memory import room_for_unit
    from xwalloc.conversion.workers import cluster, look

    talk(quiet, as_json, verbose)
    options |= {
        "signal_dims": signal_dim or None,
        "model": None if model is None else xwalloc.load_model(model),
        "zarr_format": int(zarr_format),
    }
    if dry_run:
        where = {key: options.pop(key) for key in ("scheduler", "workers")}
        del options["overwrite"]
        engine.device()  # chunks are tried here, whoever will do the work
        with cluster(None, where["scheduler"], where["workers"]) as client:
            crew = look(client)
            ready = conversion.prepare(list(source), target=store, room=room_for_unit(crew), **options)
            found = estimate.estimate(ready.plan, crew)
        if as_json:
            click.echo(json.dumps({"event": "plan", **found.facts()}))
        elif not quiet:
            show(f"plan for {store}; nothing is written", found.rows())
        ctx.exit(INCOMPLETE if ready.unreadable else 0)
    try:
        with progress_bar(quiet, as_json) as tell:
            result = conversion.convert(list(source), store, progress=tell, **options)
    except KeyboardInterrupt:
        click.echo("Interrupted. The same command goes on where this stopped.", err=True)
        ctx.exit(INTERRUPTED)
    if as_json:
        facts = {**asdict(result), "ok": result.ok, "stored": result.stored, "ratio": finite(result.ratio)}
        click.echo(json.dumps({"event": "result", **facts}, default=str))
    elif not quiet:
        show(store, summary(result))
    for failure in result.failures:
        if not as_json:
            click.echo(f"not converted: {failure}", err=True)
    if not result.ok:
        if not as_json and not result.complete:
            apart = not options["skip_unreadable"] and options["along"] is None
            click.echo(
                "The store is not complete and its root cannot be opened yet. Run the same command again when the "
                "cause is repaired; what is written stays."
                + " --skip-unreadable goes without sources that cannot be read."
                * apart,
                err=True,
            )
        ctx.exit(INCOMPLETE)


def summary(result: Any) -> list[tuple[str, str]]:
    """Lines about a conversion."""
    worst = sorted(result.max_error.items(), key=lambda item: -item[1])
    errors = [(path, f"largest error {error:.6g}, as stored") for path, error in worst[:MOST_LINES]]
    if len(worst) > MOST_LINES:
        errors.append(("others", f"{len(worst) - MOST_LINES} arrays with smaller errors"))
    return [
        ("units", f"{result.units}, {result.earlier} of them before" if result.earlier else f"{result.units}"),
        ("ratio", ratio(result.ratio, result.nbytes - result.empty, result.parts)),
        *([("fill value", f"{amount(result.empty)} of nothing else, not stored")] if result.empty else []),
        *errors,
        ("time", duration(result.seconds)),
    ]


def finite(value: float) -> float | None:
    """A number that JSON has, or None."""
    return value if math.isfinite(value) else None


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"


def progress_bar(quiet: bool, as_json: bool) -> AbstractContextManager[Callable[[Any], None] | None]:
    """What is told how far a conversion is: a bar, lines of JSON, or nothing."""
    if as_json:
        return nullcontext(tell_json)
    if quiet:
        return nullcontext(None)
    return bar()


def tell_json(now: Any) -> None:
    """One line of JSON."""
    facts = {
        "done": now.done, "total": now.total, "nbytes": now.nbytes, "total_bytes": now.total_bytes,
        "stored": now.stored, "ratio": finite(now.ratio), "bytes_per_second": now.rate,
        "seconds": now.seconds, "seconds_left": finite(now.remaining), "max_error": now.max_error,
    }  # fmt: skip
    click.echo(json.dumps({"event": "progress", **facts}))


class bar:  # used as a function
    """A bar on the terminal with rate, ratio, worst error and time left."""

    def __enter__(self) -> Callable[[Any], None]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (TextColumn("converting"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.progress.add_task("", total=None)
        self.progress.start()
        return self.tell

    def tell(self, now: Any) -> None:
        """Draw."""
        worst = max(now.max_error.values(), default=None)
        words = f"{amount(now.rate)}/s, ratio {now.ratio:.2f}, {duration(now.remaining)} left"
        if worst is not None:
            words += f", largest error {worst:.4g}"
        self.progress.update(self.task, total=now.total, completed=now.done, description=words)

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


@main.command()
@click.argument("source", nargs=-1, required=True)
@click.argument("store")
@click.option("--sample", type=click.IntRange(1), help="Units of every array to compare. Default: all.")
@talk_options
@debug_option
@click.pass_context
def verify(
    ctx: click.Context,
    /,
    source: tuple[str, ...],
    store: str,
    sample: int | None,
    quiet: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Compare STORE, which `xwalloc convert` wrote, with each SOURCE.

    Bounds, NaN and nodata, exact arrays and coordinates. Exit code 0 if all is as promised, 3 with a list of places if
    not, 1 if STORE is not whole or not of these sources.
    """
    from xwalloc.conversion.verify import verify as run

    talk(quiet, as_json, verbose)
    found = run(list(source), store, sample=sample)
    if as_json:
        facts = {**asdict(found), "ok": found.ok}
        click.echo(json.dumps({"event": "verification", **facts}, default=str))
    else:
        if not quiet:
            rows = [
                ("compared", f"{found.checked} of {found.units} units, {amount(found.nbytes)}"),
                *((path, f"largest error {error:.6g}, as stored") for path, error in found.max_error.items()),
                *(("left out", f"{name}: {reason}") for name, reason in found.missing.items()),
                ("result", "all as promised" if found.ok else f"{len(found.differences)} differences"),
            ]
            show(store, rows)
        for difference in found.differences:
            click.echo(str(difference), err=True)
    if not found.ok:
        ctx.exit(INCOMPLETE)


@main.command()
@click.argument("source", nargs=-1, required=True)
@click.argument("store")
@click.argument("page", type=click.Path(dir_okay=False))
@debug_option
def report(source: tuple[str, ...], store: str, page: str) -> None:
    """Write a page about STORE, which `xwalloc convert` wrote from each SOURCE, to the HTML file PAGE.

    Ratios, errors, spectra, pictures and the worst places. The page is one file that any browser shows.
    """
    talk(quiet=False, as_json=False, verbose=False)
    click.echo(xwalloc.report(list(source), store, page))


@main.command()
@click.argument("store")
@click.argument("target", type=click.Path())
@click.option("--variable", multiple=True, help="Variable to export; again for several. Default: all.")
@click.option("--overwrite", is_flag=True, help="Replace a file, or a Zarr store.")
@debug_option
def export(store: str, target: str, variable: tuple[str, ...], overwrite: bool) -> None:
    """Write STORE to TARGET for readers without xwalloc: plain Zarr (.zarr), NetCDF (.nc) or GeoTIFF (.tif)."""
    click.echo(xwalloc.export(store, target, variables=list(variable) or None, overwrite=overwrite))
