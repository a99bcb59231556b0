"""The page: everything in one file, for any browser, without scripts and without anything from elsewhere."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xwalloc.conversion.pairs import Pair
from xwalloc.extras import explaining
from xwalloc.reporting.section import section
from xwalloc.reporting.words import plain, settings

__all__ = ["write_page"]


def write_page(
    pairs: Iterable[Pair],
    path: str | os.PathLike[str],
    *,
    title: str,
    provenance: dict[str, Any] | None = None,
) -> Path:
    """Write a page about the quality of a store. It appears, or replaces what was there, when it is complete.

    Parameters
    ----------
    pairs
        Arrays beside their sources; each is read once, one unit of storage at a time.
    path
        The HTML file.
    title
        What the page is about.
    provenance
        Where the store comes from: what its root says in attribute ``xwalloc``.

    Returns
    -------
    Path
        The file.
    """
    with explaining("xwalloc.report"):
        import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xwalloc.reporting", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    sections = [section(pair) for pair in pairs]
    page = environment.get_template("page.html.jinja").render(
        title=plain(title), sections=sections, provenance=settings(provenance) if provenance else []
    )
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=".report-", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(page)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
    return target
