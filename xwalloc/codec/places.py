# mypy: disable-error-code="no-untyped-call"
"""Where the samples of a chunk are worked on while it is encoded in transform mode.

How a chunk is coded is decided in transform_mode.py, on the host. What has to be done with every sample is done in a
*place*: here by the threads of this process (`OnHost`), or on a CUDA device (resident/encode.py). All places come to
the same symbols and bytes; only sums of squared errors are floats, whose last bits may differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.contexts import magnitude_code
from xwalloc.bitstream.planes import Order
from xwalloc.bitstream.tables import Tables
from xwalloc.codec.bound import Finish
from xwalloc.codec.engine import map_parallel
from xwalloc.codec.examine import Examine
from xwalloc.codec.networks import refined
from xwalloc.codec.transform_sections import encode_latents, encode_residuals
from xwalloc.errors import BudgetError
from xwalloc.models import linear
from xwalloc.models.analysis import tiles
from xwalloc.models.samples import HostSamples, Samples
from xwalloc.models.spec import LinearModel

if TYPE_CHECKING:
    from xwalloc.models.neural import Network

__all__ = ["NO_RESIDUALS", "Attempt", "OnHost", "Place", "codes_of", "latents_of"]

NO_RESIDUALS = np.zeros((1, 0), np.int32)
NO_MASK = np.zeros((1, 0), np.uint8)
NO_SUMS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Attempt:
    """What becomes of symbols.

    Parameters
    ----------
    latents
        Section LATENTS; nothing where it was not asked for.
    codes : (channel,)
        Magnitude codes of the residual layer; None where there is none.
    streams
        Its streams.
    missed : (batch, channel, n) bool
        Samples that the examination marked; None where it marked none.
    figure
        What the examination returned.
    bounded
        Whether there is a bound.
    """

    latents: bytes
    codes: NDArray[np.int64] | None
    streams: bytes
    missed: NDArray[np.bool_] | None
    figure: float
    bounded: bool

    @property
    def cost(self) -> tuple[int, float]:
        """Of attempts with the same symbols, the lower one is kept: fewer bytes; without bound, smaller errors."""
        return len(self.streams), 0.0 if self.bounded else self.figure


class Place(Samples, Protocol):
    """The samples of a chunk, and what is done with all of them."""

    def attempt(
        self,
        model: LinearModel,
        symbols: Any,
        network: Network | None,
        finish: Finish,
        examine: Examine | None,
        order: Order,
        codebook: Tables | None,
        with_latents: bool,
    ) -> Attempt:
        """What becomes of the symbols, with a network or without.

        Parameters
        ----------
        model, symbols
            What `quantise` returned.
        network
            Refines latents; None where there is none.
        finish
            How integers in units become samples.
        examine
            Looks at what decoders will return; None where nothing is promised.
        order, codebook
            How sections are coded.
        with_latents
            Whether section LATENTS is wanted, which is the same with a network and without.

        Raises
        ------
        BudgetError
            If their synthesis could be inexact.
        """


class OnHost(HostSamples):
    """The place of a chunk that threads of this process work on.

    Parameters
    ----------
    samples : (batch, channel, z, y, x)
        Finite samples, padded.
    blank : (batch, channel, n) uint8
        Not 0 where a sample is not coded; None where all are.
    nodata : (2,) or (0,)
        Value that no sample may decode to, and its substitute.
    """

    def __init__(
        self, samples: NDArray[np.generic], blank: NDArray[np.uint8] | None, nodata: NDArray[np.generic]
    ) -> None:
        super().__init__(samples, map_parallel)
        self.blank, self.nodata = blank, nodata

    def attempt(
        self,
        model: LinearModel,
        symbols: NDArray[np.int32],
        network: Network | None,
        finish: Finish,
        examine: Examine | None,
        order: Order,
        codebook: Tables | None,
        with_latents: bool,
    ) -> Attempt:
        """See `Place`."""
        samples, blank, nodata = self.samples, self.blank, self.nodata
        flat = samples.reshape(*samples.shape[:2], -1)
        looked_at = finish.step > 0 or examine is not None
        latents = np.empty(0)
        if looked_at or not linear.fits(model, np.full(model.rank, linear.reach(model, symbols))):
            latents = latents_of(model, symbols, network)
        residuals = np.empty(flat.shape, np.int32) if finish.step else None
        missed = np.zeros(flat.shape, np.bool_)

        def work(tile: tuple[int, slice]) -> tuple[float, NDArray[np.int64]]:
            item, part = tile
            product = linear.products(model, latents, tile)
            decoded = np.empty(product.shape, samples.dtype)
            if residuals is None:
                sums = NO_SUMS
                finish.samples(product, model.mean_units, NO_RESIDUALS, nodata, decoded)
            else:
                sums = finish.residuals(
                    flat[item], product, model.mean_units, NO_MASK if blank is None else blank[item], nodata,
                    residuals[item], decoded, part.start,
                )  # fmt: skip
            return 0.0 if examine is None else examine(flat[item], decoded, missed[item], part.start), sums

        figures = map_parallel(work, list(tiles(samples.shape)) if looked_at else [])
        codes, streams = None, b""
        if residuals is not None:
            codes = codes_of([part for _, part in figures], residuals[:, 0].size)
            if codes is not None:
                layer = residuals.reshape(samples.shape)
                streams = encode_residuals(layer, codes, blank, model.grid.dimensions, order, codebook)
        figure = 0.0 if examine is None else examine.join(figure for figure, _ in figures)
        section = encode_latents(model, symbols, order, codebook) if with_latents else b""
        return Attempt(section, codes, streams, missed, figure, finish.step > 0)


def codes_of(sums: Sequence[NDArray[np.int64]], samples: int) -> NDArray[np.int64] | None:
    """Magnitude codes (channel,) of a residual layer whose magnitudes sum to these; None where all are 0."""
    whole = np.sum(sums, axis=0)
    return magnitude_code(whole / max(1, samples)) if whole.any() else None


def latents_of(model: LinearModel, symbols: NDArray[np.int32], network: Network | None) -> NDArray[np.float64]:
    """Latents before the basis: (batch, rank, n).

    Raises
    ------
    BudgetError
        If a partial sum of their synthesis, or of what follows, could be inexact.
    """
    refine = None if network is None else partial(refined, network)
    latents = linear.synthesise(model, symbols, map_parallel, refine)
    if not linear.fits(model, np.maximum(latents.max(axis=(0, 2)), -latents.min(axis=(0, 2)))):
        raise BudgetError("The latents of the chunk exceed the bit budget of exact arithmetic.")
    return latents
