"""What a chunk is encoded with: the one configuration that Zarr v2, Zarr v3 and Python callers share.

Values are parsed once, here; everything below trusts them. The JSON form is canonical (equal configurations have equal
JSON), so codecs compare, hash and pickle by it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict, get_args

import numpy as np

from xwalloc.bitstream.frame import DTYPES
from xwalloc.errors import ConfigError
from xwalloc.models import library
from xwalloc.models.model import PUBLISHED, Model, ModelReference, parse_reference
from xwalloc.transform.filters import REFLECTING

__all__ = ["Boundary", "CodecConfig", "Configuration", "Profile", "Tree"]

Tree = Literal["dyadic", "packet"]
Boundary = Literal["reflect", "periodization"]
Profile = Literal["default", "parallel"]

MAX_LEVELS = 8
QUALITY_KEYS = ("max_error", "snr", "step", "lossless")


class Configuration(TypedDict, total=False):
    """The keys of a configuration, before they are parsed; `CodecConfig` says what they mean."""

    channel_axis: int | None
    signal_axes: Sequence[int]
    max_error: float | None
    snr: float | None
    step: float | None
    lossless: bool
    nodata: float | int | None
    levels: int
    tree: Tree
    wavelet: str
    boundary: Boundary
    profile: Profile
    model: Model | ModelReference | Mapping[str, str] | None


@dataclass(frozen=True, kw_only=True, repr=False)
class CodecConfig:
    """Configuration of the codec for the chunks of one array.

    Parameters
    ----------
    channel_axis
        Axis of the chunk as stored whose entries are mixed by the linear encoder (band, electrode); None: one channel.
    signal_axes
        The one to three axes that the wavelet transform runs over. Every other axis is a batch axis.
    max_error
        Largest absolute difference between stored and decoded values, in units of the stored values. 0 is `lossless`.
    snr
        Signal-to-noise ratio in dB, 10 log10(variance / mse), of each chunk.
    step
        Width of the uniform quantiser, in units of the stored values.
    lossless
        Every value comes back bit for bit. Exactly one of `max_error`, `snr`, `step` and `lossless` is given.
    nodata
        Value that stands for missing data, kept bit for bit. NaN and infinities are always kept: they need no nodata.
    levels
        Most levels of the wavelet transform that are tried, 0 to 8; as many as fit the chunk are used.
    tree
        Which subbands a level splits: the low-pass only ("dyadic") or all of them ("packet").
    wavelet
        Name of a biorthogonal or orthogonal wavelet, as PyWavelets has it.
    boundary
        Extension at the borders of a chunk.
    profile
        Entropy coder contexts for size ("default") or for thousands of lanes ("parallel").
    model
        Model that the chunks share: a `Model`, a reference to one, or the JSON form of a reference. None: each chunk
        carries its own. With a model, `levels`, `tree`, `wavelet` and `boundary` are the model's. The configuration
        carries models of up to 512 KiB. Others it names only: they lie beside arrays of Zarr v3, and elsewhere readers
        need their file (docs/models.md says where).

    Raises
    ------
    ConfigError
        If a value is not possible, or the values contradict each other.

    Examples
    --------
    >>> config = CodecConfig(channel_axis=0, signal_axes=(1, 2), max_error=0.5)
    >>> config.to_json()
    {'channel_axis': 0, 'signal_axes': [1, 2], 'max_error': 0.5}
    >>> CodecConfig.from_json(config.to_json()) == config
    True
    """

    channel_axis: int | None = None
    signal_axes: tuple[int, ...]
    max_error: float | None = None
    snr: float | None = None
    step: float | None = None
    lossless: bool = False
    nodata: float | int | None = None
    levels: int = 4
    tree: Tree = "dyadic"
    wavelet: str = "bior4.4"
    boundary: Boundary = "reflect"
    profile: Profile = "default"
    model: ModelReference | None = None

    def __post_init__(self) -> None:
        if isinstance(self.model, Model):
            library.add(self.model)
        parsed: dict[str, Any] = {
            "channel_axis": None if self.channel_axis is None else parse_axis("channel_axis", self.channel_axis),
            "signal_axes": parse_signal_axes(self.signal_axes),
            **parse_quality(self.max_error, self.snr, self.step, self.lossless),
            "nodata": parse_nodata(self.nodata),
            "levels": parse_levels(self.levels),
            "tree": parse_choice("tree", self.tree, get_args(Tree)),
            "wavelet": parse_wavelet(self.wavelet),
            "boundary": parse_choice("boundary", self.boundary, get_args(Boundary)),
            "profile": parse_choice("profile", self.profile, get_args(Profile)),
            "model": parse_reference(self.model),
        }
        for name, value in parsed.items():
            object.__setattr__(self, name, value)
        if self.boundary == "reflect" and self.wavelet not in REFLECTING:
            raise ConfigError(
                "Expected a wavelet with symmetric filters of odd length for boundary 'reflect': "
                f"{', '.join(REFLECTING)}. Got {self.wavelet!r}. Choose one of these or boundary='periodization'."
            )
        own = [name for name in ("levels", "tree", "wavelet", "boundary") if getattr(self, name) != DEFAULTS[name]]
        if self.model is not None and own:
            raise ConfigError(
                f"Expected no {' and '.join(own)} beside a model, which brings its own transform. "
                "Leave out one of the two."
            )
        if self.channel_axis in self.signal_axes:
            raise ConfigError(
                f"Expected channel_axis to be none of the signal_axes. Got channel_axis {self.channel_axis} and "
                f"signal_axes {list(self.signal_axes)}. Remove it from one of the two."
            )

    def __repr__(self) -> str:
        arguments = {**self.to_json(), "signal_axes": self.signal_axes}
        return f"CodecConfig({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CodecConfig:
        """Parse the configuration as it stands in the metadata of a store.

        Raises
        ------
        ConfigError
            If a key is unknown or missing, or a value is not possible.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"Expected the codec configuration to be a mapping. Got {data!r}.")
        known = [f.name for f in fields(cls)]
        for key in data:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, 1)
                hint = f"Did you mean {close[0]!r}?" if close else f"Known keys are {', '.join(known)}."
                raise ConfigError(f"Expected only known codec configuration keys. Got {key!r}. {hint}")
        if "signal_axes" not in data:
            raise ConfigError(
                "Expected signal_axes, the list of 1 to 3 axes that the wavelet transform runs over. Got none. "
                "For a chunk (band, y, x) give 'channel_axis': 0, 'signal_axes': [1, 2]."
            )
        return cls(**data)

    def to_json(self) -> dict[str, Any]:
        """Canonical JSON-able form: the axes, the quality target and whatever differs from its default."""
        result: dict[str, Any] = {"channel_axis": self.channel_axis, "signal_axes": list(self.signal_axes)}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name not in result and value != item.default:
                result[item.name] = value.to_json() if isinstance(value, ModelReference) else value
        return result

    def check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Refuse chunks that this configuration does not fit.

        Parameters
        ----------
        shape
            Shape of the chunk as stored.
        dtype
            Type of its samples, in either byte order.

        Raises
        ------
        ConfigError
            If the dtype is not accepted, an axis does not exist, or `nodata` is no value of the dtype.
        """
        dtype = np.dtype(dtype)
        if dtype.newbyteorder("=") not in DTYPES:
            raise ConfigError(
                f"Expected samples of dtype {', '.join(t.name for t in DTYPES)}, in either byte order. Got {dtype}. "
                "Cast the array to one of these, or leave it out and store it with another codec."
            )
        for name, axes in (("channel_axis", [self.channel_axis]), ("signal_axes", self.signal_axes)):
            for axis in axes:
                if axis is not None and axis >= len(shape):
                    raise ConfigError(
                        f"Expected {name} to be among the {len(shape)} axes of a chunk of shape {tuple(shape)}, "
                        f"counted from 0. Got {axis}. Axes are those of the chunk as stored. Data that were opened "
                        "from a store bring its codec along in .encoding: after changing their dimensions, use "
                        ".drop_encoding(), or xwalloc.encoding anew."
                    )
        self.nodata_as(dtype)

    def check_model(self, model: Model, shape: tuple[int, ...]) -> None:
        """Refuse chunks and targets that the model of this configuration is not for.

        Parameters
        ----------
        model
            The model that is meant.
        shape
            Shape of the chunk as stored.

        Raises
        ------
        ConfigError
            If channels or signal axes are others, or a published model is asked for a step of its own or for chunks
            that it cannot take.
        """
        channels = 1 if self.channel_axis is None else shape[self.channel_axis]
        if (channels, len(self.signal_axes)) != (model.channels, model.dimensions):
            raise ConfigError(
                f"Expected chunks of {model.channels} channels and {model.dimensions} signal axes, for which "
                f"model {model.id} was made. Got {channels} and {len(self.signal_axes)}. Fit a model to these data, "
                "keep all channels in one chunk, or name the variables that the model is for."
            )
        if model.scaled and self.max_error not in (None, model.target.get("max_error")):
            raise ConfigError(
                f"Expected no max_error beside a model with a bound for each channel. Got {self.max_error:g}, and "
                f"{model.target} for the channel of the smallest. Leave max_error out, or fit a model to other bounds."
            )
        if model.kind == PUBLISHED and self.step not in (None, 1):
            raise ConfigError(
                f"Expected step 1, which is the own rate of a published WaLLoC model. Got {self.step:g}. For a finer "
                "or a bounded result give max_error, or snr."
            )
        misfit = self.misfit(model, shape)
        if misfit is not None:
            raise ConfigError(f"Expected chunks of {misfit}, of shape {shape}. Choose smaller chunks.")

    def misfit(self, model: Model, shape: tuple[int, ...]) -> str | None:
        """Why chunks of that shape, as stored, are too much for a published model; None where they are not."""
        if model.kind != PUBLISHED:
            return None
        batch = [n for axis, n in enumerate(shape) if axis != self.channel_axis and axis not in self.signal_axes]
        return model.published.misfit(math.prod(batch), [shape[axis] for axis in self.signal_axes])

    def nodata_as(self, dtype: np.dtype[Any]) -> np.generic | None:
        """`nodata` as a value of `dtype` (rounded to its precision where it is a float); None where there is none.

        Raises
        ------
        ConfigError
            If the dtype cannot hold it.
        """
        if self.nodata is None:
            return None
        dtype = np.dtype(dtype)
        if dtype.kind in "iu":
            info = np.iinfo(dtype)
            if not isinstance(self.nodata, int) or not info.min <= self.nodata <= info.max:
                raise ConfigError(
                    f"Expected nodata to be an integer from {info.min} to {info.max} for dtype {dtype}. "
                    f"Got {self.nodata!r}. Give nodata as it is stored, or leave it out if it does not occur."
                )
            integer: np.generic = dtype.type(self.nodata)
            return integer
        with np.errstate(over="ignore"):
            value: np.generic = np.float64(self.nodata).astype(dtype.newbyteorder("="))
        if not np.isfinite(value):
            raise ConfigError(
                f"Expected nodata to be within +-{float(np.finfo(dtype).max)} for dtype {dtype}. Got {self.nodata!r}. "
                "Give nodata as it is stored, or leave it out if it does not occur."
            )
        return value


def as_number(value: object) -> int | float | None:
    """A real number as a Python int or float; None for anything else, bools included."""
    if isinstance(value, np.generic) or getattr(value, "ndim", None) == 0:
        value = value.item()  # type: ignore[attr-defined]
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def parse_axis(name: str, value: object) -> int:
    number = as_number(value)
    if not isinstance(number, int) or number < 0:
        raise ConfigError(
            f"Expected {name} to hold axes as integers counted from 0. Got {value!r}. "
            "Count from the first axis of the chunk as stored; negative axes are not accepted."
        )
    return number


def parse_signal_axes(value: object) -> tuple[int, ...]:
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping):
        raise ConfigError(f"Expected signal_axes to be a list of 1 to 3 axes. Got {value!r}.")
    axes = sorted(parse_axis("signal_axes", axis) for axis in value)
    if not 1 <= len(axes) <= 3 or len(set(axes)) < len(axes):
        raise ConfigError(
            f"Expected signal_axes to be 1 to 3 different axes. Got {axes}. "
            "Axes named neither here nor as channel_axis are batch axes, of which there may be any number."
        )
    return tuple(axes)


def parse_quality(max_error: object, snr: object, step: object, lossless: object) -> dict[str, Any]:
    if isinstance(lossless, np.bool_):
        lossless = bool(lossless)
    if not isinstance(lossless, bool):
        raise ConfigError(f"Expected lossless to be true or false. Got {lossless!r}.")
    given = {"max_error": max_error, "snr": snr, "step": step}
    names = [name for name, value in given.items() if value is not None] + ["lossless"] * lossless
    if len(names) != 1:
        raise ConfigError(
            f"Expected exactly one of {', '.join(QUALITY_KEYS)}. Got {' and '.join(names) or 'none'}. "
            "max_error is the largest absolute error of any value and the usual choice."
        )
    result: dict[str, Any] = {**dict.fromkeys(given), "lossless": lossless}
    if lossless:
        return result
    name = names[0]
    number = as_number(given[name])
    try:
        number = math.nan if number is None else float(number)
    except OverflowError:
        number = math.inf
    if name == "max_error" and number == 0:
        return {**result, "lossless": True}
    if not (math.isfinite(number) and number > 0):
        remedy = "0 is lossless." if name == "max_error" else "For exact values give lossless=True instead."
        least = "0 or above" if name == "max_error" else "above 0"
        raise ConfigError(f"Expected {name} to be a finite number {least}. Got {given[name]!r}. {remedy}")
    return {**result, name: number}


def parse_nodata(value: object) -> int | float | None:
    if value is None:
        return None
    number = as_number(value)
    if number is None:
        raise ConfigError(f"Expected nodata to be a number or null. Got {value!r}.")
    try:
        number = number if abs(number) <= 2**53 else float(number)
    except OverflowError:
        raise ConfigError(f"Expected nodata to be a value that some dtype holds. Got {value!r:.40}.") from None
    if not math.isfinite(number):
        return None
    return int(number) if number == round(number) and abs(number) <= 2**53 else number


def parse_levels(value: object) -> int:
    number = as_number(value)
    if not isinstance(number, int) or not 0 <= number <= MAX_LEVELS:
        raise ConfigError(f"Expected levels to be an integer from 0 to {MAX_LEVELS}. Got {value!r}.")
    return number


def parse_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"Expected {name} to be {' or '.join(map(repr, choices))}. Got {value!r}.")
    return value


def parse_wavelet(value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"Expected wavelet to be the name of a wavelet, such as 'bior4.4'. Got {value!r}.")
    if value != "bior4.4":
        from xwalloc.transform.wavelet import get_wavelet  # the default needs no check, and opening a store no import

        get_wavelet(value)
    return value


DEFAULTS = {item.name: item.default for item in fields(CodecConfig)}
