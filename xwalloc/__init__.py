"""Lossy, error-bounded compression of multichannel arrays for Zarr (WaLLoC: wavelet-domain learned lossy compression).

Public names load when they are first used, so that ``import xwalloc`` costs nothing; Zarr and numcodecs find the codec
by its entry points, without this import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from xwalloc._accessor import register
from xwalloc.extras import explaining
from xwalloc.settings import settings
from xwalloc.version import __version__

if TYPE_CHECKING:
    from xwalloc import errors
    from xwalloc.codec.inspect import inspect
    from xwalloc.conversion.convert import convert
    from xwalloc.conversion.export import export
    from xwalloc.conversion.placement import persist
    from xwalloc.conversion.verify import verify
    from xwalloc.latents import decode_latents, open_latents
    from xwalloc.models.library import load_model
    from xwalloc.models.model import Model
    from xwalloc.preview import open_preview
    from xwalloc.reporting.report import report
    from xwalloc.xarray import encoding
    from xwalloc.xarray.fit import fit
    from xwalloc.xarray.train import train

__all__ = [
    "Model", "__version__", "convert", "decode_latents", "encoding", "errors", "export", "fit", "inspect", "load_model",
    "open_latents", "open_preview", "persist", "report", "settings", "train", "verify",
]  # fmt: skip

HOMES = {
    "decode_latents": ("xwalloc.latents", "decode_latents"),
    "open_preview": ("xwalloc.preview", "open_preview"),
    "open_latents": ("xwalloc.latents", "open_latents"),
    "Model": ("xwalloc.models.model", "Model"),
    "fit": ("xwalloc.xarray.fit", "fit"),
    "load_model": ("xwalloc.models.library", "load_model"),
    "encoding": ("xwalloc.xarray", "encoding"),
    "errors": ("xwalloc.errors", None),
    "inspect": ("xwalloc.codec.inspect", "inspect"),
    "convert": ("xwalloc.conversion.convert", "convert"),
    "export": ("xwalloc.conversion.export", "export"),
    "report": ("xwalloc.reporting.report", "report"),
    "verify": ("xwalloc.conversion.verify", "verify"),
    "persist": ("xwalloc.conversion.placement", "persist"),
    "train": ("xwalloc.xarray.train", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = HOMES[name]
    with explaining(f"xwalloc.{name}"):
        value = importlib.import_module(module)
    globals()[name] = value = value if attribute is None else getattr(value, attribute)
    return value


def __dir__() -> list[str]:
    return __all__


register()
