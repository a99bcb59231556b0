"""`xwalloc info`."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from xwalloc.cli.shell import counted, debug_option, main, ratio, shares
from xwalloc.errors import ConfigError, ModelError
from xwalloc.models import library
from xwalloc.models.model import parse_reference


@main.command()
@click.argument("store")
@debug_option
def info(store: str) -> None:
    """Show how the arrays of STORE are compressed.

    STORE is the path or URL of a Zarr array or group. All its frames are read; none is decoded.
    """
    from xwalloc.conversion.manifest import refuse_unfinished  # keeps `xwalloc --help` quick
    from xwalloc.info import describe

    console = Console(soft_wrap=True, highlight=False)
    found = False
    try:
        for item in describe(store):
            found = True
            console.print(Text(item.path, style="bold"))
            for label, text in rows(item):
                console.print(Text(f"  {label:<16}{text}"))
    except ConfigError:
        refuse_unfinished(store)
        raise
    if not found:
        raise ConfigError(f"Expected arrays encoded by xwalloc in {store}. Got none. Write them with xwalloc.encoding.")


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
    grid = f"{item.dtype} {item.shape}, chunks {item.chunks}"
    if item.shards:
        grid += f", shards {item.shards}"
    stored = item.storage
    units, present = "shards" if item.shards else "chunks", f"{stored.present} of {stored.count} are stored"
    return [
        ("array", f"{grid}, Zarr v{item.zarr_format}"),
        *([(units, f"{present}, the others read as the fill value")] if stored.present < stored.count else []),
        ("ratio", ratio(stored.ratio, stored.nbytes, stored.parts)),
        ("bits per sample", "none" if math.isnan(stored.bits_per_sample) else f"{stored.bits_per_sample:.3f}"),
        ("frames", f"{item.modes.total()}"),
        ("bound", bound),
        ("model", counted(item.models)),
        ("modes", counted(item.modes)),
        ("sections", shares(item.sections)),
    ]
