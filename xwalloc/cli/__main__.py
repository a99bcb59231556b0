"""``python -m xwalloc.cli``."""

from xwalloc.cli import main

main()
