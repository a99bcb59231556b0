"""Published checkpoints: read without running anything that is in them, and written in the same layout.

A checkpoint is a zip archive by `torch.save` of a mapping with a `model_state_dict`; its objects are a pickle. Early
checkpoints pickled more, among it an instance of a class of the script that trained them. Such ones are refused unless
`allow_pickle=True`; and even then torch's restricted unpickler reads them, and what it does not know as harmless is
replaced by an inert stand-in, so that still nothing of the file runs.
"""

from __future__ import annotations

import json
import pickletools
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xwalloc.errors import ConfigError, FormatError, UnsupportedFormatError
from xwalloc.models.upstream.architecture import Architecture
from xwalloc.models.upstream.codecs import Codec

__all__ = ["load", "save"]

STATE = "model_state_dict"
MAX_CONFIG = 1 << 20
MAX_PICKLE = 1 << 26
"""Bytes of a configuration file, and of the pickle (weights excluded) of a checkpoint."""

TENSORS = frozenset(
    ["collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"]
    + [f"torch {kind}Storage" for kind in "Float Half BFloat16 Double Long Int Short Char Byte Bool".split()]
)
"""The globals that a pickle of a state dict names."""


_ONE_AT_A_TIME = threading.Lock()
"""Stand-ins are registered with torch, for the whole process, while a checkpoint is read."""


class Inert:
    """Stands for whatever class or function a legacy checkpoint names: takes any arguments, and does nothing."""

    def __new__(cls, *_: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def load(config_path: str | Path, checkpoint_path: str | Path, *, allow_pickle: bool = False) -> Codec:
    """Read a published WaLLoC model.

    Parameters
    ----------
    config_path
        The JSON file beside the checkpoint.
    checkpoint_path
        The `.pth` file.
    allow_pickle
        Whether to accept checkpoints that hold pickled objects besides tensors. The objects are dropped; their classes
        are not imported and their code is not run.

    Returns
    -------
    Codec
        A `torch.nn.Module` on the CPU in eval mode, with `encode` and `decode`.

    Raises
    ------
    ConfigError
        If a file is missing, or the configuration is not that of a WaLLoC model.
    FormatError
        If the checkpoint is damaged, or its weights are not those of the configuration.
    UnsupportedFormatError
        If the checkpoint holds pickled objects besides tensors and `allow_pickle` is False.

    Examples
    --------
    >>> model = load("RGB_16x.json", "RGB_16x.pth")  # doctest: +SKIP
    >>> latents = model.encode(x)  # doctest: +SKIP
    >>> x_hat = model.decode(latents)  # doctest: +SKIP
    """
    model = read_config(Path(config_path)).build("meta")
    weights = read_weights(Path(checkpoint_path), allow_pickle)
    _check_weights(model, weights, Path(checkpoint_path))
    model.to_empty(device="cpu").load_state_dict(weights)
    return model.eval()


def save(model: Codec, config_path: str | Path, checkpoint_path: str | Path) -> None:
    """Write a model in the published layout; files that are there are replaced.

    Parameters
    ----------
    model
        Any of the four models, on any device, in either mode.
    config_path, checkpoint_path
        The JSON and the `.pth` file to write.

    Raises
    ------
    ConfigError
        If `model` is none of the four models, or a folder does not exist.
    """
    if not isinstance(model, Codec):
        raise ConfigError(f"Expected a model of xwalloc.models.upstream. Got {type(model).__name__}.")
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    try:
        Path(config_path).write_text(json.dumps(model.architecture.to_json(), indent=4), encoding="utf-8")
        with Path(checkpoint_path).open("wb") as file:
            torch.save({STATE: weights}, file)
    except OSError as error:
        raise ConfigError(f"Expected paths that can be written. Got {error}. Make the folder first.") from error


def read_config(path: Path) -> Architecture:
    """Parse a configuration file; raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG + 1)
    except OSError as error:
        raise ConfigError(f"Expected config_path to be the JSON file of a WaLLoC model. Got {error}.") from error
    if len(text) > MAX_CONFIG:
        raise ConfigError(f"Expected a configuration of at most 1 MiB. {path} is larger: are the two paths swapped?")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"Expected {path} to be JSON. Got {str(error) or 'too many nested brackets'}. Give the path of the .json "
            "file that belongs to the checkpoint as config_path, and the checkpoint second."
        ) from error
    return Architecture.from_json(data)


def read_weights(path: Path, allow_pickle: bool) -> dict[str, Tensor]:
    """The state dict of a checkpoint; raises as `load` does."""
    foreign = sorted(_globals(path) - TENSORS)
    if foreign and not allow_pickle:
        raise UnsupportedFormatError(
            f"Expected a checkpoint that holds tensors only. {path} also names {_some(foreign)} in its pickle: a "
            "legacy checkpoint, or a hostile file. If you know where it comes from, give allow_pickle=True, or "
            "--pickle to the command: these objects are dropped, not run. Then save it again with "
            "`xwalloc.models.upstream.save`."
        )
    stand_ins: list[Any] = [(Inert, name.replace(" ", ".", 1)) for name in foreign]
    try:
        with _ONE_AT_A_TIME, torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch makes of damaged or hostile bytes
        reason = str(error).partition("\n")[0][:200]
        raise FormatError(
            f"Expected {path} to be a checkpoint by torch.save. Got {type(error).__name__}: {reason}. Fetch it again."
        ) from error
    state = content.get(STATE) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise FormatError(
            f"Expected {path} to hold a mapping with tensors under {STATE!r}. Got "
            f"{_some(sorted(map(str, content))) if isinstance(content, Mapping) else type(content).__name__}. "
            f"Save it again as torch.save({{{STATE!r}: model.state_dict()}}, path)."
        )
    return {str(name): value for name, value in state.items()}


def _globals(path: Path) -> set[str]:
    """Classes and functions ("module name") that the pickle of a checkpoint names, without unpickling it."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise FormatError(f"Expected {path} to be a checkpoint by torch.save. Got a compressed zip archive.")
            pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE:
                raise FormatError(f"Expected {path} to be a checkpoint by torch.save. Got another zip archive.")
            operations = list(pickletools.genops(archive.read(pickles[0])))
    except OSError as error:
        raise ConfigError(f"Expected checkpoint_path to be a file. Got {error}.") from error
    except zipfile.BadZipFile as error:
        raise FormatError(
            f"Expected {path} to be a zip archive, as torch.save writes since 1.6. Got {error}. Fetch it again if it "
            "should be one; a checkpoint of older torch has to be loaded and saved again with it."
        ) from error
    except FormatError:
        raise
    except Exception as error:  # pickletools and zipfile on damaged bytes
        raise FormatError(f"Expected {path} to be a checkpoint by torch.save. Got {error}. Fetch it again.") from error
    indirect = {f"(something by opcode {op.name})" for op, _, _ in operations if op.name in ("STACK_GLOBAL", "INST")}
    return {str(argument) for op, argument, _ in operations if op.name == "GLOBAL"} | indirect


def _check_weights(model: Codec, weights: Mapping[str, Tensor], path: Path) -> None:
    expected = model.state_dict()
    missing = [name for name in expected if name not in weights]
    foreign = [name for name in weights if name not in expected]
    found = f"Got {len(weights)} tensors, without {_some(missing)}" * bool(missing)
    found += f"Got {len(weights)} tensors, {_some(foreign)} among them" * (not missing and bool(foreign))
    if not found:
        for name, tensor in expected.items():
            value = weights[name]
            if value.shape != tensor.shape or not value.is_floating_point() or value.layout != torch.strided:
                found = f"Got {name!r} as {value.dtype} {tuple(value.shape)} instead of {tuple(tensor.shape)}"
                break
    if found:
        raise FormatError(
            f"Expected {path} to hold the {len(expected)} tensors of the {model.architecture.kind} that its "
            f"configuration describes. {found}. Give the configuration that was published with this checkpoint."
        )


def _some(names: list[str]) -> str:
    text = ", ".join(repr(name)[:60] for name in names[:3])
    return f"{text} and {len(names) - 3} more" if len(names) > 3 else text
