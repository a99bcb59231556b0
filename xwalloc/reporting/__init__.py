"""One self-contained HTML page about the quality of a store."""

from xwalloc.reporting.page import write_page

__all__ = ["write_page"]
