"""What kind of source a path is: told by its first bytes, and from what lies beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from xwalloc.conversion.sources.files import filesystem, head, is_url, listed
from xwalloc.conversion.sources.netcdf import is_hdf5

__all__ = ["Kind", "folder", "kind", "looks_known"]

Kind = Literal["raster", "envi", "netcdf", "zarr", "hdf4", "unknown"]

_ZARR = {"zarr.json", ".zgroup", ".zarray", ".zmetadata"}
_RASTER = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"<VRTDataset", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_CLASSIC = (b"CDF\x01", b"CDF\x02", b"CDF\x05")
_SUFFIXES = (
    ".tif", ".tiff", ".gtif", ".gtiff", ".vrt", ".jp2", ".nc", ".nc3", ".nc4", ".cdf", ".netcdf", ".h5", ".hdf5",
    ".he5", ".hdf", ".zarr",
)  # fmt: skip


def folder(path: str) -> bool:
    """Whether a path is a folder. Of HTTP only what ends in a slash is: asking would fetch the file."""
    if not is_url(path):
        return Path(path).is_dir()
    if path.startswith(("http://", "https://")):
        return path.endswith("/")
    files, inside = filesystem(path)
    return bool(files.isdir(inside))


def kind(path: str) -> Kind | Literal["folder"]:
    """Kind of a file or folder that exists.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    if is_url(path) and path.rstrip("/").endswith(".zarr"):
        return "zarr"
    if folder(path):
        inside = {name.rstrip("/").rsplit("/", 1)[-1] for name in map(_slashes, listed(path))}
        return "zarr" if inside & _ZARR else "folder"
    start = head(path, 16)
    if start.startswith(_CLASSIC) or is_hdf5(path):
        return "netcdf"
    if start.startswith(_RASTER):
        return "raster"
    if start.startswith(b"ENVI") and path.lower().endswith(".hdr"):
        return "envi"
    return "hdf4" if start.startswith(b"\x0e\x03\x13\x01") else "unknown"


def looks_known(path: str) -> bool:
    """Whether a file in a folder is meant: its bytes or its suffix say that it is data of a kind that is read.

    What is called like data, but is not, is meant as well: it will be told as unreadable, not passed over.
    """
    if path.lower().rstrip("/").endswith(_SUFFIXES):
        return True
    try:
        return kind(path) not in ("unknown", "folder")
    except OSError:
        return False


def _slashes(path: str) -> str:
    return path.replace("\\", "/")
