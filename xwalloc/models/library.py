"""Where a model is found that a frame names.

In this order: models that this process has seen; the one that the codec's configuration carries; the one that lies
beside the array (`models.sidecar` adds it to those that this process has seen); installed packs (entry points of group
``xwalloc.models``: a folder, or a callable that returns one); the folders of the setting ``model_path``
(``XWALLOC_MODEL_PATH``, separated as in ``PATH``), and the user's cache. Nothing is ever fetched from a network.

In folders a model is a file named by the 64 digits of its id and ``.safetensors``.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from xwalloc.errors import ConfigError, FormatError, ModelError
from xwalloc.models.model import PREFIX, Model, ModelReference
from xwalloc.settings import model_folders

__all__ = ["add", "cached", "find", "installed", "load_model", "resolve"]

GROUP = "xwalloc.models"
ENDING = ".safetensors"
MOST_BYTES = 1 << 28
"""So many bytes of models are remembered, or else the last one."""

_lock = threading.Lock()
_known: OrderedDict[bytes, Model] = OrderedDict()


def reset() -> None:
    """Forget the lock of the parent process, which a thread may have held at the fork."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=reset)


def add(model: Model) -> Model:
    """Remember a model in this process; those used longest ago are forgotten."""
    with _lock:
        _known[model.key] = model
        _known.move_to_end(model.key)
        while len(_known) > 1 and sum(len(known.data) for known in _known.values()) > MOST_BYTES:
            _known.popitem(last=False)
    return model


def cached(key: bytes) -> Model | None:
    """A model that this process remembers."""
    with _lock:
        model = _known.get(key)
        if model is not None:
            _known.move_to_end(key)
    return model


def find(key: bytes, reference: ModelReference | None = None) -> Model:
    """The model that a frame names.

    Parameters
    ----------
    key
        First bytes of the SHA-256 of the model.
    reference
        What the configuration of the codec says, where there is one.

    Raises
    ------
    ModelError
        If there is no such model in any of the places; the message names them.
    FormatError
        If a place holds something else under its name.
    """
    model = cached(key)
    if model is None and reference is not None and reference.key == key:
        model = reference.unpack()
    if model is None:
        model = next(_in_folders(key), None)
    if model is None:
        raise ModelError(missing(key, reference))
    return add(model)


def resolve(reference: ModelReference) -> Model:
    """The model of a configuration; parameters and errors are those of `find`."""
    model = find(reference.key, reference)
    if model.id != reference.id:
        raise ModelError(f"Expected model {reference.id}. Got {model.id}, which begins with the same digits.")
    return model


def installed(reference: ModelReference) -> bool:
    """Whether packs or folders hold a model, whatever stores and this process know."""
    return next(_in_folders(reference.key), None) is not None


def missing(key: bytes, reference: ModelReference | None) -> str:
    """What to say of a model that is not found."""
    digits = key.hex()
    name = f"{PREFIX}{digits}..."
    if reference is None or reference.key == key:
        message = f"Expected model {reference.id if reference else name}, with which the data were encoded."
    else:
        message = f"Expected model {name}, with which the data were encoded; the metadata say {reference.id}."
    folders = ", ".join(str(folder) for folder in model_folders())
    return (
        f"{message} Got none from this process, the metadata of the array, _xwalloc in its group, installed packs, "
        f"{folders}. Restore the metadata or _xwalloc from where the store was copied from, or put the model's file, "
        f"named {digits}...{ENDING}, into one of these folders or one that XWALLOC_MODEL_PATH names."
    )


def _in_folders(key: bytes) -> Iterator[Model]:
    """Models of that name in packs, the path and the user's cache."""
    for folder in (*_packs(), *model_folders()):
        for path in sorted(folder.glob(f"{key.hex()}*{ENDING}")) if folder.is_dir() else ():
            model = Model.load(path)
            if model.key != key:
                raise FormatError(
                    f"Expected {path} to hold the model {PREFIX}{path.stem}. It holds {model.id}: the file was "
                    "changed. Remove it, or restore it from a copy."
                )
            yield model


@cache
def _packs() -> tuple[Path, ...]:
    """Folders of installed packs."""
    folders = []
    for point in entry_points(group=GROUP):
        found = point.load()
        folder = found() if callable(found) else found
        if not isinstance(folder, str | os.PathLike):
            raise ConfigError(
                f"Expected entry point {point.name!r} of group {GROUP!r} to be a folder, or a function that returns "
                f"one. Got {type(folder).__name__}. Uninstall the package, or update it."
            )
        folders.append(Path(folder))
    return tuple(folders)


def load_model(path: str | os.PathLike[str]) -> Model:
    """Read a model that `Model.save` wrote, and remember it in this process.

    Parameters
    ----------
    path
        Name of the file.

    Raises
    ------
    ConfigError
        If there is no such file.
    FormatError
        If it holds no model.
    """
    return add(Model.load(path))
