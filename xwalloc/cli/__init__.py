"""The command line: arguments in, calls down, text out."""

from xwalloc.cli import archives, info, models
from xwalloc.cli.shell import main

__all__ = ["archives", "info", "main", "models"]
