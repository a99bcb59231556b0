"""Messages in the words of the command line: arguments of Python become options of the command that was given."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click

__all__ = ["in_options"]

VALUE = r"\{[^{}]*\}|\[[^\[\]]*\]|\([^()]*\)|'[^']*'|[\w.+-]*\w|"
"""What may stand behind the ``=`` of an argument."""

ALONE = r"(?<![\w'\"`./=-])(?:{})(?![\w'\"`/=-])"
"""A word that is neither quoted nor part of a path."""


def in_options(text: str, parameters: Iterable[click.Parameter]) -> str:
    """A message with options in place of arguments.

    Parameters
    ----------
    text
        ``channel_dim='band'`` becomes ``--channel-dim band``. Names without a value are replaced where an underscore
        says that they are no words of English, and with them what they are listed with.
    parameters
        Of the command.

    Examples
    --------
    >>> option = click.Option(["--signal-dim"], multiple=True)
    >>> in_options("Expected signal_dims to be known. Give signal_dims=('y', 'x').", [option])
    'Expected --signal-dim to be known. Give --signal-dim y --signal-dim x.'
    """
    options = {}
    for parameter in parameters:
        if isinstance(parameter, click.Option) and parameter.expose_value:
            options[parameter.name] = parameter
            if parameter.multiple:
                options[f"{parameter.name}s"] = parameter
    if not options:
        return text
    names = "|".join(sorted(map(re.escape, options), key=len, reverse=True))

    def given(match: re.Match[str]) -> str:
        return with_value(options[match["name"]], match["value"])

    def listed(match: re.Match[str]) -> str:
        if "_" not in match[0]:
            return match[0]
        return re.sub(rf"\b(?:{names})\b", lambda name: options[name[0]].opts[0], match[0])

    text = re.sub(rf"(?<![\w'\"`./-])(?P<name>{names})=(?P<value>{VALUE})", given, text)
    return re.sub(ALONE.format(rf"(?:{names})(?:(?:, | and | or )(?:{names}))*"), listed, text)


def with_value(option: click.Option, value: str) -> str:
    """An option with a value as Python has it."""
    name = option.opts[0]
    if value in ("", "True"):
        return name
    if value in ("None", "False"):
        return f"no {name}"
    inner = value[1:-1] if value[0] in "{[('" else value
    parts = [part.strip().replace("': ", "=").replace("'", "") for part in inner.split(",") if part.strip()]
    return " ".join(f"{name} {part}" for part in parts) if option.multiple else f"{name} {','.join(parts)}"
