"""Freed memory of workers stays with them."""

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
from xwalloc.conversion.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def work():
    for _ in range(50):
        np.ones(1 << 20)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is one of glibc")
def test_freed_memory_is_not_asked_for_again():
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}  # as Dask's nannies start workers
    faults = {}
    for what in ("keep", "leave"):
        done = subprocess.run(
            [sys.executable, "-c", CODE, what], env=environment, check=True, capture_output=True, text=True
        )
        faults[what] = int(done.stdout)
    assert faults["leave"] > 50
    assert faults["keep"] < faults["leave"] / 5
