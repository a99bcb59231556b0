"""Where torch is not installed, modules that need it are not searched for doctests; one thread for tests of them.

Kernels of a device are imported by their own tests only, which say first where they run.
"""

import logging
from importlib.util import find_spec

import pytest

collect_ignore = ["xwalloc/device"]
if not find_spec("torch"):
    collect_ignore += ["xwalloc/learning.py", "xwalloc/models/upstream", "xwalloc/training"]


@pytest.fixture(scope="module")
def one_thread():
    """torch with one thread: networks as small as those of tests only wait for more."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_runtest_setup(item):
    """Tests of a CUDA device are skipped where there is none."""
    if item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch", reason="torch is not installed")
        if not torch.cuda.is_available():
            pytest.skip("there is no CUDA device")


def pytest_runtest_teardown(item):
    """The command line has set up logging for its process; other tests want to see what is logged."""
    logger = logging.getLogger("xwalloc")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)
