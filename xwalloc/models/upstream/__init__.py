"""Published WaLLoC models: the four architectures, with the names of their own checkpoints, so that these load.

`load` reads a published configuration and checkpoint; `Architecture` describes a model and builds it with fresh
weights; `save` writes what `load` reads; `images` packs latents into the published image containers. Everything that
needs torch in xwalloc's models is in this folder.
"""

try:
    import torch as _  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "Published WaLLoC models need torch. Install it: pip install 'xwalloc[torch]'.", name="torch"
    ) from error

from xwalloc.models.upstream.architecture import Architecture
from xwalloc.models.upstream.checkpoint import load, save
from xwalloc.models.upstream.codecs import Codec, Codec1D, Codec2D, LinearCodec2D, ResidualCodec2D

__all__ = [
    "Architecture",
    "Codec",
    "Codec1D",
    "Codec2D",
    "LinearCodec2D",
    "ResidualCodec2D",
    "load",
    "save",
]
