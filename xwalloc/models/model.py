"""A model that outlives a chunk: named arrays and a description, and the bytes that name it.

The bytes are a safetensors file: arrays behind a JSON header, whose metadata hold the description as canonical JSON.
Nothing in them can be executed. A model is named by the SHA-256 of its bytes; frames repeat the first eight of these.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from xwalloc.errors import ConfigError, FormatError
from xwalloc.types import cached_property

if TYPE_CHECKING:
    from xwalloc.models.fitted import Fitted
    from xwalloc.models.published import Published

__all__ = [
    "FORMAT", "INLINE_LIMIT", "KEY_BYTES", "LARGEST", "LINEAR", "PUBLISHED", "Model", "ModelReference",
    "check_place", "parse_reference",
]  # fmt: skip

FORMAT = 1
KEY_BYTES = 8
"""Frames name a model by so many bytes of its SHA-256."""

LARGEST = 1 << 31
"""Bytes of the largest model that is read."""

INLINE_LIMIT = 1 << 19
"""Bytes of the largest model that travels in the metadata of an array, deflated and in base64."""

LARGEST_INLINE = 1 << 26
"""Bytes of the largest model that a configuration may carry, inflated."""

LINEAR, PUBLISHED = "linear", "published"
"""Kinds of models: fitted ones, maybe with a network that refines latents, and published WaLLoC."""

DEFLATED = 1 << 20
"""A model is deflated in pieces of so many bytes."""

LARGEST_TARGET = 2.0**512
"""No model is made for a step or a bound above this."""

PREFIX = "sha256:"
METADATA = "xwalloc"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Model:
    """What encoder and decoder share beyond the chunk; made by `xwalloc.fit` and others, never by hand.

    Parameters
    ----------
    description
        What the model is, as JSON-able values: ``kind``, geometry, quality target, what it was fitted to.
    arrays
        Its numbers by name.

    Raises
    ------
    FormatError
        If description and arrays make no model of a kind that this version knows.
    """

    description: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "description", MappingProxyType(dict(self.description)))
        arrays = {name: np.array(array, order="C") for name, array in self.arrays.items()}
        for array in arrays.values():
            array.flags.writeable = False
        object.__setattr__(self, "arrays", MappingProxyType(arrays))

    @cached_property
    def data(self) -> bytes:
        """The bytes of the model: a safetensors file."""
        from safetensors.numpy import save

        text = json.dumps(dict(self.description), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return save(dict(self.arrays), {METADATA: text})

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.data).digest()

    @property
    def id(self) -> str:
        """Name of the model: ``sha256:`` and 64 hexadecimal digits."""
        return PREFIX + self.digest.hex()

    @property
    def key(self) -> bytes:
        """What frames call the model."""
        return self.digest[:KEY_BYTES]

    @property
    def kind(self) -> str:
        """What kind of model it is: "linear" or "published"."""
        return str(self.description.get("kind"))

    @property
    def channels(self) -> int:
        """Number of channels of the chunks that the model is for."""
        return self._count("channels")

    @property
    def dimensions(self) -> int:
        """Number of their signal axes."""
        return self._count("dimensions")

    @property
    def scaled(self) -> bool:
        """Whether channels have error bounds of their own; the target is the smallest of them then."""
        scales = self.arrays.get("scales")
        return scales is not None and scales.size > 0 and bool((scales != 1).any())

    @property
    def levels(self) -> int:
        """Levels of the wavelet transform."""
        return self._count("levels")

    def _count(self, name: str) -> int:
        value = self.description.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise FormatError(f"Expected {name} of the model to be a number. Got {value!r:.40}: it is damaged.")
        return value

    @cached_property
    def fitted(self) -> Fitted:
        """The model's linear encoder and decoder, ready for use.

        Raises
        ------
        FormatError
            If the arrays do not make one.
        """
        from xwalloc.models.fitted import Fitted

        if self.kind != LINEAR:
            raise FormatError(f"Expected a model of kind {LINEAR!r}. Model {self.id} is of kind {self.kind!r:.40}.")
        return Fitted.of(self.description, self.arrays)

    @cached_property
    def published(self) -> Published:
        """The published WaLLoC model that this is, ready for use.

        Raises
        ------
        FormatError
            If it is none, or damaged.
        ConfigError
            If torch is not installed.
        """
        from xwalloc.models.published import Published

        if self.kind != PUBLISHED:
            raise FormatError(f"Expected a model of kind {PUBLISHED!r}. Model {self.id} is of kind {self.kind!r:.40}.")
        return Published.of(self.description, self.arrays)

    @property
    def target(self) -> dict[str, float]:
        """The quality target that the model was made for, such as ``{"max_error": 0.5}``.

        Raises
        ------
        FormatError
            If the model is damaged.
        """
        found: Any = self.description.get("target")
        wrong = not isinstance(found, Mapping) or set(found) not in ({"step"}, {"max_error"})
        if wrong or not all(type(value) in (int, float) and 0 < value < LARGEST_TARGET for value in found.values()):
            raise FormatError(f"Expected the model to state a quality target. Got {found!r:.80}: it is damaged.")
        return dict(found)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `data`.

        Raises
        ------
        FormatError
            If the bytes are no model, or one of a later version.
        """
        from safetensors import SafetensorError, safe_open  # noqa: F401  (the name of the error is what is wanted)
        from safetensors.numpy import load

        if len(data) > LARGEST:
            raise FormatError(f"Expected a model of at most {LARGEST} bytes. Got {len(data)}.")
        try:
            size = int.from_bytes(data[:8], "little")
            description = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][METADATA])
            arrays = load(data)
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise FormatError(f"Expected the bytes of an xwalloc model. Got something else ({error}).") from None
        if not isinstance(description, dict) or description.get("format") != FORMAT:
            raise FormatError("The model is of a later version of xwalloc, or damaged: update xwalloc.")
        model = cls(description=description, arrays=arrays)
        object.__setattr__(model, "data", bytes(data))  # its name is that of the bytes it came as
        return model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a file, which appears whole or not at all.

        Parameters
        ----------
        path
            Name of the file; ``.safetensors`` is the usual ending.

        Raises
        ------
        ConfigError
            If no file can be there.
        """
        check_place("path", path)
        target = Path(path)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            part.write_bytes(self.data)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a model that `save` wrote.

        Raises
        ------
        ConfigError
            If there is no such file.
        FormatError
            If it holds no model.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"Expected a file with an xwalloc model at {path}. Got {error}. Check the path."
            ) from None
        return cls.from_bytes(data)

    def encode(self, array: Any) -> Any:
        """Latents of samples, without entropy coding: small integers on a grid of patches.

        Parameters
        ----------
        array
            Finite samples (..., channel, *signal), or without a channel axis where the model has one channel, of NumPy
            or torch; or an `xarray.DataArray` with the dimensions that the model was fitted to.

        Returns
        -------
        Integers (..., latent, *patches) of the kind that was given. A patch has 2^levels samples along every axis.

        Raises
        ------
        ConfigError
            If the array does not suit the model.
        """
        from xwalloc.models import adapt

        return adapt.encode(self, array)

    def decode(self, latents: Any, shape: Sequence[int] | None = None) -> Any:
        """Samples of latents that `encode` returned, or that a model of one's own has made.

        Parameters
        ----------
        latents
            Real numbers (..., latent, *patches) of NumPy, torch or xarray.
        shape
            Extent of the signal axes, where it is not a multiple of the patches.

        Returns
        -------
        float64 samples (..., channel, *signal) of the kind that was given; no bound holds for them.

        Raises
        ------
        ConfigError
            If the latents do not suit the model.
        """
        from xwalloc.models import adapt

        return adapt.decode(self, latents, shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.data,)

    def facts(self) -> list[tuple[str, str]]:
        """What the model is good for, as label and text.

        Raises
        ------
        FormatError
            If the model is damaged.
        """
        from xwalloc.models.facts import facts_of

        return facts_of(self)

    def __repr__(self) -> str:
        try:
            return f"<xwalloc.Model {'; '.join(f'{label}: {text}' for label, text in self.facts())}>"
        except FormatError as error:
            return f"<xwalloc.Model {self.id}: {error}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(label)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for label, text in self.facts()
        )
        return f"<table><caption>xwalloc.Model</caption>{rows}</table>"


@dataclass(frozen=True)
class ModelReference:
    """How a codec's configuration names a model.

    Parameters
    ----------
    id
        ``sha256:`` and 64 hexadecimal digits.
    weights
        The model itself, deflated and in base64, where it is small enough to travel with the configuration.
    """

    id: str
    weights: str | None = None

    @classmethod
    def inline(cls, model: Model) -> ModelReference:
        """Reference that carries the model."""
        return cls(model.id, base64.b64encode(zlib.compress(model.data, 9)).decode())

    @classmethod
    def of(cls, model: Model) -> ModelReference:
        """Reference for the metadata of an array: it carries the model where that is small."""
        deflate, size = zlib.compressobj(9), 0
        for start in range(0, len(model.data), DEFLATED):  # networks take seconds to deflate, and are too large anyway
            size += len(deflate.compress(model.data[start : start + DEFLATED]))
            if size > INLINE_LIMIT:
                return cls(model.id)
        inline = cls.inline(model)
        return inline if len(inline.weights or "") <= INLINE_LIMIT else cls(model.id)

    @property
    def key(self) -> bytes:
        """What frames call the model."""
        return bytes.fromhex(self.id.removeprefix(PREFIX))[:KEY_BYTES]

    def to_json(self) -> dict[str, str]:
        """The reference as it stands in a configuration."""
        return {"id": self.id} if self.weights is None else {"id": self.id, "weights": self.weights}

    def unpack(self) -> Model | None:
        """The model that the reference carries; None where it carries none.

        Raises
        ------
        FormatError
            If the weights are damaged or belong to another model.
        """
        if self.weights is None:
            return None
        inflate = zlib.decompressobj()
        try:
            data = inflate.decompress(base64.b64decode(self.weights, validate=True), LARGEST_INLINE)
        except (ValueError, zlib.error) as error:
            raise FormatError(f"The weights of model {self.id} in the configuration are damaged ({error}).") from None
        if not inflate.eof or inflate.unused_data or PREFIX + hashlib.sha256(data).hexdigest() != self.id:
            raise FormatError(
                f"Expected the weights of model {self.id} in the configuration. Got others: the metadata of the array "
                "were changed. Restore them from a copy."
            )
        return Model.from_bytes(data)


def parse_reference(value: object) -> ModelReference | None:
    """A model as the configuration of a codec holds it, or a `Model`, as a reference.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    if value is None or isinstance(value, ModelReference):
        return value
    if isinstance(value, Model):
        return ModelReference.of(value)
    if isinstance(value, Mapping) and {"id"} <= value.keys() <= {"id", "weights"}:
        name, weights = value["id"], value.get("weights")
        digits = name.removeprefix(PREFIX) if isinstance(name, str) and name.startswith(PREFIX) else ""
        if len(digits) == 64 and set(digits) <= set("0123456789abcdef") and isinstance(weights, str | None):
            # Arrays that share a model share its text, in memory and where they are pickled together.
            return ModelReference(name, None if weights is None else sys.intern(weights))
    raise ConfigError(
        "Expected model to be null, a Model, or a mapping of 'id' ('sha256:' and 64 hexadecimal digits) and perhaps "
        f"'weights'. Got {value!r:.80}. xwalloc.fit and xwalloc.load_model return models."
    )


def check_place(parameter: str, path: str | os.PathLike[str]) -> None:
    """Refuse a name for a file that cannot be written, before there is something to write.

    Raises
    ------
    ConfigError
        If its folder does not exist or cannot be written to, or a folder has this name.
    """
    folder = Path(path).parent
    if not folder.is_dir():
        raise ConfigError(
            f"Expected {parameter} to be a file in a folder that exists. Got {os.fspath(path)!r}. Make the folder "
            "first, or name another."
        )
    if not os.access(folder, os.W_OK):
        raise ConfigError(
            f"Expected {parameter} to be a file in a folder that can be written to. Got {os.fspath(path)!r}. Name "
            "another folder, or change its permissions."
        )
    if Path(path).is_dir():
        raise ConfigError(f"Expected {parameter} to be a file. Got the folder {os.fspath(path)!r}. Name a file in it.")
