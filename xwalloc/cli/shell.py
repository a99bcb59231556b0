"""What all commands have in common: the group, errors as messages, and plain text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.text import Text

import xwalloc
from xwalloc.cli.words import in_options
from xwalloc.errors import XwallocError
from xwalloc.extras import explained

__all__ = ["amount", "counted", "debug_option", "main", "ratio", "shares", "show"]

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
            if isinstance(error, ModuleNotFoundError):
                error = explained(error, f"`xwalloc {ctx.invoked_subcommand}`")
            if isinstance(error, XwallocError):
                command = self.get_command(ctx, ctx.invoked_subcommand or "")
                raise click.ClickException(in_options(str(error), command.params if command else ())) from error
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


def show(title: str, lines: list[tuple[str, str]]) -> None:
    """Print labels and texts under a title."""
    console = Console(soft_wrap=True, highlight=False)
    console.print(Text(title, style="bold"))
    width = max([16, *(len(label) + 2 for label, _ in lines)])
    for label, text in lines:
        console.print(Text(f"  {label:<{width}}{text}"))


def counted(counts: Counter[str]) -> str:
    """Names with their numbers, the most frequent first."""
    return ", ".join(f"{name} ({n})" for name, n in counts.most_common()) or "no frames"


def shares(sizes: Counter[str]) -> str:
    """Names with their shares, the largest first."""
    return ", ".join(f"{name} {n / sizes.total():.1%}" for name, n in sizes.most_common() if n) or "none"


def ratio(value: float, nbytes: int, parts: list[tuple[str, int]]) -> str:
    """A ratio, the bytes of samples that it is of, and the bytes stored for them by what they are."""
    stored = amount(sum(size for _, size in parts))
    words = f"{amount(nbytes)} in {stored}: " + ", ".join(f"{name} {amount(size)}" for name, size in parts)
    return ("none" if math.isnan(value) else f"{value:.2f}") + f" ({words})"


def amount(nbytes: int) -> str:
    """Bytes in the largest unit that leaves a figure above one."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
