"""Makes ``.walloc`` known to xarray without importing it.

Importing xarray takes longer than anything else that reading a chunk needs, and readers of plain Zarr do without it. So
the accessor is registered when both are there, whichever is imported first.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["register"]


class AfterXarray(MetaPathFinder):
    """Finds xarray as everybody does, and imports `xwalloc.xarray` once xarray has been executed."""

    busy = False

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Spec of xarray, with a loader that goes on to register the accessor."""
        if name != "xarray" or self.busy:
            return None
        self.busy = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.busy = False
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            importlib.import_module("xwalloc.xarray")

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Register the accessor now if xarray has been imported, else as soon as it is."""
    if "xarray" in sys.modules:
        importlib.import_module("xwalloc.xarray")
    else:
        sys.meta_path.insert(0, AfterXarray())
