"""Everything xwalloc raises on purpose.

Three families, so that a caller can tell whose fault it is:

- `ConfigError`: what the caller asked for is not possible; the message names the parameter and the remedy.
- `FormatError`: the bytes are not a frame that this version can decode (damaged, cut, foreign, hostile, too new).
- `BudgetError`, `GuaranteeError`: a limit of our own arithmetic was met. They never leave `ChunkCodec.encode`
  (the encoder takes another mode instead) unless xwalloc itself is wrong.
"""

from __future__ import annotations

__all__ = [
    "BudgetError",
    "ChecksumError",
    "ConfigError",
    "FormatError",
    "GuaranteeError",
    "LimitError",
    "MissingError",
    "ModelError",
    "TruncatedError",
    "UnsupportedFormatError",
    "XwallocError",
]


class XwallocError(Exception):
    """Base class of every exception that xwalloc raises on purpose."""


class ConfigError(XwallocError, ValueError):
    """A parameter is wrong: the message says what was expected, what was got and what to do."""


class MissingError(ModuleNotFoundError, ConfigError):
    """A package that this needs is not installed: the message says how to install it."""


class FormatError(XwallocError, ValueError):
    """The bytes are not a valid frame."""


class TruncatedError(FormatError):
    """The frame is shorter or longer than its header says."""


class ChecksumError(FormatError):
    """The CRC-32C of the frame does not match: the bytes were damaged after they were written."""


class UnsupportedFormatError(FormatError):
    """A valid frame of a format version (or with a feature) that this version of xwalloc does not know."""


class LimitError(FormatError):
    """Decoding the frame would take more memory than the caller or `xwalloc.settings` allows."""


class ModelError(FormatError):
    """A frame names a model that is not to be found: the message says where it was looked for."""


class BudgetError(XwallocError, ArithmeticError):
    """Exact integer arithmetic would leave the 53 bits of a float64."""


class GuaranteeError(XwallocError, RuntimeError):
    """A promise of xwalloc was about to be broken; please report it with the chunk and the configuration."""
