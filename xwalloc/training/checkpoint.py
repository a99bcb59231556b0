"""State of a training in a file: safetensors, with JSON in its header. Nothing in it can run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xwalloc.errors import ConfigError

__all__ = ["load_checkpoint", "save_checkpoint"]

KEY = "xwalloc-training"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint; whoever reads meanwhile sees the old one or the new one."""
    new = path.with_name(path.name + ".new")
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(copies, new, metadata={KEY: json.dumps(state)})
    os.replace(new, path)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of a checkpoint.

    Raises
    ------
    ConfigError
        If the file is none.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})[KEY])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(f"Expected a checkpoint of a training in {path}: remove the file. Got {error!r}.") from None
