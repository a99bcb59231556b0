"""Where torch is not installed, the modules that need it are not searched for doctests."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["xwalloc/learning.py", "xwalloc/models/upstream"]
