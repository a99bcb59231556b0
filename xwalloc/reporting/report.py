"""`xwalloc.report`: a page about a store and its sources."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from xwalloc.conversion import store as objects
from xwalloc.conversion.pairs import open_root, sides
from xwalloc.conversion.prepare import ATTRIBUTE
from xwalloc.conversion.sources.opened import release
from xwalloc.errors import ConfigError
from xwalloc.reporting.page import write_page

__all__ = ["report"]


def report(
    source: Any, store: Any, path: str | os.PathLike[str], *, storage_options: dict[str, Any] | None = None
) -> Path:
    """Write a page about a store that `convert` wrote: ratios, errors, spectra, pictures and the worst places.

    All of the store is decoded and compared with its sources, unit by unit. The page is one HTML file that needs
    nothing else.

    Parameters
    ----------
    source, store, storage_options
        As for `convert`.
    path
        File to write.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConfigError
        If the store is not whole, the sources are not its own, or there is no folder for the page.
    """
    folder = Path(path).absolute().parent
    if not folder.is_dir():  # all of the store is read before anything is written
        raise ConfigError(f"Expected a folder that exists for the page. Got {str(folder)!r}. Make it first.")
    opened = objects.open_store(store, storage_options)
    said: Any = open_root(opened).attrs.get(ATTRIBUTE)
    try:
        pairs = [pair for side in sides(source, opened) for pair in side.pairs]
        provenance = said if isinstance(said, dict) else None
        return write_page(pairs, path, title=str(store), provenance=provenance)
    finally:
        release()
