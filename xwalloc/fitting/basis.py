"""Another spectral basis for a fitted model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.codec.engine import blas_in_one_thread
from xwalloc.fitting.linear import Fit, Goal
from xwalloc.models.model import Model
from xwalloc.transform.linalg import solve_spd

__all__ = ["with_basis"]


def with_basis(model: Model, basis: NDArray[np.float64], blocks: Sequence[NDArray[Any]], nodata: float | None) -> Model:
    """A model with another basis and without a network; magnitudes and tables are counted anew.

    Parameters
    ----------
    model
        What `fit_blocks` returned.
    basis : (rank, channel)
        Vectors that need not be orthonormal: what encodes is their least-squares analysis.
    blocks, nodata
        As for `fit_blocks`.

    Raises
    ------
    ConfigError
        If the blocks have no valid samples.
    BudgetError
        If exact arithmetic does not reach what the basis needs.
    """
    fitted, description = model.fitted, model.description
    ((quality, wanted),) = description["wanted"].items()
    ((_, value),) = model.target.items()
    with blas_in_one_thread():
        fit = Fit(
            blocks, Goal(quality=quality, value=wanted, scales=fitted.scales), fitted.dimensions, nodata,
            fitted.levels, fitted.tree,
        )  # fmt: skip
        sample = fit.sample
        analysis = solve_spd(basis @ basis.T, basis)
        sample.variances = np.square(analysis @ sample.basis.T) @ sample.variances
        sample.means, sample.basis = fitted.means, basis
        fit.ratio = fitted.ratio
        fit.use_basis(value * fitted.ratio if quality == "max_error" else value, len(basis))
        fit.arrays |= {"means": fitted.means, "kept": fitted.kept}
        own = {"format", "kind", "channels", "ratio", "network", "train", "fit"}
        return fit.finished({name: entry for name, entry in description.items() if name not in own})
