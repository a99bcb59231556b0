# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Weighted least squares for predictors: sums, solution, choice of columns, reweighting, rounding of coefficients.

Sums are taken in one fixed order, so that encoding does not depend on a BLAS.
"""

from __future__ import annotations

import numpy as np

from xwalloc.jit import allocating_kernel, kernel

__all__ = ["code_length", "gram_of", "members", "residuals_of", "reweight", "reweighted", "round_to", "select", "solve"]

NEAR = 4
"""Neighbours on either side in whose light the size of a residual is seen."""
RIDGE = 1e-9


@allocating_kernel
def gram_of(rows, weights):
    """Weighted sums of products of columns, four rows at a time; the order of summation is fixed."""
    n, k = rows.shape
    gram = np.zeros((k, k))
    for r in range(0, n - 3, 4):
        a, b, c, d = rows[r], rows[r + 1], rows[r + 2], rows[r + 3]
        for i in range(k):
            wa, wb, wc, wd = weights[r] * a[i], weights[r + 1] * b[i], weights[r + 2] * c[i], weights[r + 3] * d[i]
            row = gram[i]
            for j in range(i + 1):
                row[j] += (wa * a[j] + wb * b[j]) + (wc * c[j] + wd * d[j])
    for r in range(n // 4 * 4, n):
        for i in range(k):
            for j in range(i + 1):
                gram[i, j] += weights[r] * rows[r, i] * rows[r, j]
    for i in range(k):
        for j in range(i):
            gram[j, i] = gram[i, j]
    return gram


@kernel
def solve(gram, chosen, lower, solution):
    """Least squares on the chosen columns for the last one; returns the energy that is left."""
    k = chosen.shape[0]
    t = gram.shape[0] - 1
    energy = gram[t, t]
    for i in range(k):
        for j in range(i + 1):
            total = gram[chosen[i], chosen[j]]
            if i == j:
                total += RIDGE * total + 1e-9
            for m in range(j):
                total -= lower[i, m] * lower[j, m]
            if i == j:
                lower[i, i] = np.sqrt(max(total, 1e-12))
            else:
                lower[i, j] = total / lower[j, j]
        total = gram[chosen[i], t]
        for m in range(i):
            total -= lower[i, m] * solution[m]
        solution[i] = total / lower[i, i]
        energy -= solution[i] * solution[i]
    for i in range(k - 1, -1, -1):
        total = solution[i]
        for m in range(i + 1, k):
            total -= lower[m, i] * solution[m]
        solution[i] = total / lower[i, i]
    return max(energy, 1e-9)


@allocating_kernel
def members(counts, first, chosen):
    """The column of ones and those of the first so many taps of each group."""
    chosen[0] = first[counts.shape[0]]
    n = 1
    for g in range(counts.shape[0]):
        for i in range(counts[g]):
            chosen[n] = first[g] + i
            n += 1
    return chosen[:n]


@allocating_kernel
def select(gram, first, steps, bits, price):
    """How many taps of each group to use, greedily.

    `bits` is what halving the energy saves, `price` the bits of a coefficient. Group g has the columns from `first[g]`
    to `first[g + 1]`; `steps` are the counts that are tried.
    """
    groups = first.shape[0] - 1
    counts = np.zeros(groups, np.int64)
    trial = np.zeros(groups, np.int64)
    best_counts = counts.copy()
    size = gram.shape[0]
    lower, solution, chosen = np.empty((size, size)), np.empty(size), np.empty(size, np.int64)
    energy = solve(gram, members(counts, first, chosen), lower, solution)
    while True:
        best = 0.0
        best_energy = energy
        for g in range(groups):
            for ahead in range(2):
                trial[:] = counts
                for _ in range(ahead + 1):
                    for step in steps:
                        if step > trial[g] and step <= first[g + 1] - first[g]:
                            trial[g] = step
                            break
                added = trial[g] - counts[g]
                if added == 0:
                    continue
                left = solve(gram, members(trial, first, chosen), lower, solution)
                gain = (bits * np.log2(energy / left) - price * added) / added
                if gain > best:
                    best, best_energy = gain, left
                    best_counts[:] = trial
        if best <= 0.0:
            return counts
        counts[:] = best_counts
        energy = best_energy


@kernel
def residuals_of(rows, chosen, coefficients, out):
    """What a solution on the chosen columns leaves of the last one."""
    last = rows.shape[1] - 1
    for r in range(rows.shape[0]):
        total = rows[r, last]
        for i in range(chosen.shape[0]):
            total -= coefficients[i] * rows[r, chosen[i]]
        out[r] = total


@kernel
def _scales(residuals, length, valid, scales):
    """Mean magnitude around each residual in its run, itself excluded, with the mean of all as one more sample."""
    n = residuals.shape[0]
    mean = 0.0
    count = 1e-9
    for r in range(n):
        mean += valid[r] * abs(residuals[r])
        count += valid[r]
    mean /= count
    for start in range(0, n, length):
        stop = start + length
        total = mean
        number = 1.0
        for r in range(start, min(start + NEAR, stop)):
            total += valid[r] * abs(residuals[r])
            number += valid[r]
        for r in range(start, stop):
            if r + NEAR < stop:
                total += valid[r + NEAR] * abs(residuals[r + NEAR])
                number += valid[r + NEAR]
            if r - NEAR - 1 >= start:
                total -= valid[r - NEAR - 1] * abs(residuals[r - NEAR - 1])
                number -= valid[r - NEAR - 1]
            scales[r] = max(total - valid[r] * abs(residuals[r]), 0.0) / (number - valid[r])


@kernel
def reweight(residuals, length, valid, weights):
    """Weights for which squares of the residuals are about code lengths."""
    _scales(residuals, length, valid, weights)
    for r in range(residuals.shape[0]):
        scale = weights[r]
        weights[r] = valid[r] / ((scale + 0.3) * (max(abs(residuals[r]), 0.3 * scale) + 0.3))


@allocating_kernel
def reweighted(rows, valid, chosen, length, weights, passes, lower, solution, residuals):
    """Iteratively reweighted least squares on the chosen columns; returns the weighted energy that is left."""
    energy = 0.0
    for _ in range(passes):
        energy = solve(gram_of(rows, weights), chosen, lower, solution)
        residuals_of(rows, chosen, solution, residuals)
        reweight(residuals, length, valid, weights)
    return energy


@allocating_kernel
def code_length(residuals, length, valid):
    """Estimated bits of residuals in runs of a length."""
    scales = np.empty(residuals.shape[0])
    _scales(residuals, length, valid, scales)
    bits = 0.0
    for r in range(residuals.shape[0]):
        if valid[r] > 0.0:
            m = scales[r] + 0.02
            theta = (np.sqrt(1.0 + m * m) - 1.0) / m
            bits -= np.log2((1.0 - theta) / (1.0 + theta)) + np.floor(abs(residuals[r]) + 0.5) * np.log2(theta)
    return bits


@kernel
def round_to(lower, solution, step, out):
    """Multiples of `step` near the solution, each following the errors made before (Babai); returns the energy lost."""
    k = solution.shape[0]
    lost = 0.0
    for i in range(k - 1, -1, -1):
        drift = 0.0
        for j in range(i + 1, k):
            drift += lower[j, i] * (out[j] * step - solution[j])
        out[i] = np.rint((solution[i] - drift / lower[i, i]) / step)
        error = drift + lower[i, i] * (out[i] * step - solution[i])
        lost += error * error
    return lost
