"""Small dense linear algebra whose results do not depend on a BLAS, its threads or the moment of the day.

An encoder that lets LAPACK choose an eigenbasis writes other bytes with another number of threads. These kernels
sum in one fixed order. They are written with rows in the inner loops, so that they use vector units without reordering
a sum, and are about as fast as LAPACK on one core for the sizes met here (up to some hundred channels).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xwalloc.errors import BudgetError, ConfigError
from xwalloc.jit import allocating_kernel, kernel

__all__ = ["eigh", "solve_spd"]

Floats = NDArray[np.float64]

PANEL = 32
"""Columns that are rotated together: a panel of 600 rows stays in the second-level cache."""

SWEEPS = 60
"""QL iterations allowed per eigenvalue; two are usual."""


def eigh(a: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues and eigenvectors of a symmetric matrix.

    Parameters
    ----------
    a
        Shape (n, n), float64, finite. Only the lower triangle is read.

    Returns
    -------
    w
        Shape (n,): eigenvalues, descending.
    v
        Shape (n, n): eigenvectors as rows, orthonormal; in each the entry of largest magnitude (the first of them) is
        positive.

    Raises
    ------
    ConfigError
        If `a` is not a finite square matrix.
    BudgetError
        If the iteration does not converge (never seen).

    Notes
    -----
    Householder reduction to tridiagonal form, then implicit QL with Wilkinson's shift whose rotations are applied to
    the basis afterwards, panel by panel. Errors are some eps times the norm of `a`: the eigenvalues of a semidefinite
    matrix may come out as slightly negative. Golub and Van Loan, Matrix Computations, 4th edition, section 8.3.
    """
    a = np.array(a, np.float64, order="C")
    if a.ndim != 2 or a.shape[0] != a.shape[1] or not np.isfinite(a).all():
        raise ConfigError(f"Expected a finite square matrix. Got shape {a.shape}.")
    n = len(a)
    lower = np.tril(a)
    a = lower + np.tril(a, -1).T
    top = float(np.abs(a).max(initial=0.0))
    if top == 0.0:
        return np.zeros(n), np.eye(n)
    # A power of two, so that scaling is exact and no square over- or underflows.
    exponent = int(np.frexp(top)[1])
    d, e, basis = _tridiagonal(np.ldexp(a, -exponent))
    rotations = np.empty((8 * n * n + 64, 3))  # about n^2 are usual; memory that is not touched costs nothing
    count = _implicit_ql(d, e, rotations)
    if count < 0:
        raise BudgetError(f"Expected the eigenvalues of a {n} x {n} matrix to converge in {SWEEPS} sweeps each.")
    _rotate(basis, rotations[:count])
    order = np.argsort(-d, kind="stable")
    v = basis[order]
    largest = np.take_along_axis(v, np.argmax(np.abs(v), axis=1)[:, None], axis=1)
    return np.ldexp(d[order], exponent), np.where(largest < 0, -v, v)


def solve_spd(a: Floats, b: Floats) -> Floats:
    """Solve a x = b for a symmetric positive (semi)definite matrix.

    Parameters
    ----------
    a
        Shape (n, n), float64, finite. Only the lower triangle is read.
    b
        Shape (n,) or (n, k), float64: right-hand sides.

    Returns
    -------
    x of the shape of `b`. Where `a`, scaled to a diagonal of about one, is not numerically positive definite, its
    diagonal is raised by the smallest of 2^-44, 2^-40, ... 1 that makes it so. If the diagonal is zero, x is zero.

    Raises
    ------
    ConfigError
        If shapes do not fit, a value is not finite, or no small ridge makes `a` positive definite.
    """
    a, b = np.array(a, np.float64, order="C"), np.array(b, np.float64, order="C")
    if a.ndim != 2 or a.shape[0] != a.shape[1] or b.ndim not in (1, 2) or len(b) != len(a):
        raise ConfigError(f"Expected a of shape (n, n) and b of shape (n,) or (n, k). Got {a.shape} and {b.shape}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ConfigError("Expected finite matrices. Got NaN or infinity.")
    diagonal = np.diagonal(a)
    if not diagonal.any():
        return np.zeros_like(b)
    # Unit diagonal up to a factor of two, by powers of two: pivots and ridge mean the same for every unknown.
    scale = np.where(diagonal > 0, np.ldexp(1.0, -(np.frexp(diagonal)[1] // 2)), 1.0)
    a *= scale * scale[:, None]
    columns = b.reshape(len(a), -1)
    columns *= scale[:, None]
    diagonal = np.diagonal(a).copy()
    for ridge in (0.0, *(2.0**exponent for exponent in range(-44, 1, 4))):
        np.fill_diagonal(a, diagonal + ridge)
        factor = a.copy()
        if _cholesky(factor, len(a) * 2.0**-52):
            _substitute(factor, columns)
            columns *= scale[:, None]
            return b
    raise ConfigError("Expected a positive semidefinite matrix. Got one that is indefinite.")


@kernel
def _dot(a: Floats, b: Floats) -> float:
    """Inner product, summed in eight lanes."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    whole = a.size // 8 * 8
    for i in range(0, whole, 8):
        s0 += a[i] * b[i]
        s1 += a[i + 1] * b[i + 1]
        s2 += a[i + 2] * b[i + 2]
        s3 += a[i + 3] * b[i + 3]
        s4 += a[i + 4] * b[i + 4]
        s5 += a[i + 5] * b[i + 5]
        s6 += a[i + 6] * b[i + 6]
        s7 += a[i + 7] * b[i + 7]
    total = ((s0 + s4) + (s1 + s5)) + ((s2 + s6) + (s3 + s7))
    for i in range(whole, a.size):
        total += a[i] * b[i]
    return total


@kernel
def _add_rows(out: Floats, factors: Floats, rows: Floats) -> None:
    """out += factors @ rows, row after row, four at a time."""
    n, width = rows.shape[0], out.size
    whole = n // 4 * 4
    for i in range(0, whole, 4):
        f0, f1, f2, f3 = factors[i], factors[i + 1], factors[i + 2], factors[i + 3]
        r0, r1, r2, r3 = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
        for j in range(width):
            out[j] += f0 * r0[j] + f1 * r1[j] + f2 * r2[j] + f3 * r3[j]
    for i in range(whole, n):
        f0, r0 = factors[i], rows[i]
        for j in range(width):
            out[j] += f0 * r0[j]


@allocating_kernel
def _tridiagonal(a: Floats) -> tuple[Floats, Floats, Floats]:
    """Diagonal d, subdiagonal e (e[i] couples i and i + 1) and basis Q' with Q' a Q tridiagonal; `a` is overwritten."""
    n = a.shape[0]
    d, e, weights = np.zeros(n), np.zeros(n), np.zeros(n)
    p = np.empty(n)
    for k in range(n - 1, 1, -1):
        # The reflector I - weight u u' takes row k (its first k entries) to (0, ..., 0, e). It stays in row k.
        u = a[k, :k]
        norm = np.sqrt(_dot(u, u))
        rest = _dot(u[: k - 1], u[: k - 1])
        if rest == 0.0:
            e[k - 1] = u[k - 1]
            continue
        e[k - 1] = -norm if u[k - 1] > 0.0 else norm
        u[k - 1] -= e[k - 1]
        weight = 2.0 / (rest + u[k - 1] * u[k - 1])
        weights[k] = weight
        block, q = a[:k, :k], p[:k]
        q[:] = 0.0
        _add_rows(q, u, block)
        for j in range(k):
            q[j] *= weight
        half = 0.5 * weight * _dot(q, u)
        for j in range(k):
            q[j] -= half * u[j]
        for i in range(k):
            row, f, g = block[i], u[i], q[i]
            for j in range(k):
                row[j] -= f * q[j] + g * u[j]
    if n > 1:
        e[0] = a[1, 0]
    for i in range(n):
        d[i] = a[i, i]
    basis = np.eye(n)
    for k in range(2, n):
        # basis[:k, :k] is what the reflectors below k made; Q' = H_2' ... H_(n-1)', so H_k multiplies from the right.
        if weights[k] == 0.0:
            continue
        u, block = a[k, :k], basis[:k, :k]
        for i in range(k):
            row = block[i]
            f = weights[k] * _dot(row, u)
            for j in range(k):
                row[j] -= f * u[j]
    return d, e, basis


@kernel
def _implicit_ql(d: Floats, e: Floats, rotations: Floats) -> int:
    """Diagonalise a tridiagonal matrix in place; returns how many rotations (row, c, s) it took, -1 if too many."""
    n = d.size
    eps = 2.0**-52
    norm = 0.0
    for i in range(n):
        norm = max(norm, abs(d[i]) + abs(e[i]))
    # Relative to the norm, not to the neighbours: below it there is only rounding noise, which would never settle.
    tiny = eps * norm
    count = 0
    for first in range(n):
        for sweep in range(SWEEPS + 1):
            last = first
            while last < n - 1 and abs(e[last]) > tiny:
                last += 1
            if last == first:
                break
            if sweep == SWEEPS or count + last - first > rotations.shape[0]:
                return -1
            g = (d[first + 1] - d[first]) / (2.0 * e[first])
            r = np.sqrt(g * g + 1.0)
            g = d[last] - d[first] + e[first] / (g + (r if g >= 0.0 else -r))
            s, c, p = 1.0, 1.0, 0.0
            i = last - 1
            while i >= first:
                f, b = s * e[i], c * e[i]
                r = np.sqrt(f * f + g * g)
                e[i + 1] = r
                if r == 0.0:
                    break
                s, c = f / r, g / r
                g = d[i + 1] - p
                r = (d[i] - g) * s + 2.0 * c * b
                p = s * r
                d[i + 1] = g + p
                g = c * r - b
                rotations[count, 0], rotations[count, 1], rotations[count, 2] = i, c, s
                count += 1
                i -= 1
            if i >= first:  # the matrix has split at i + 1 by underflow
                d[i + 1] -= p
                e[last] = 0.0
                continue
            d[first] -= p
            e[first] = g
            e[last] = 0.0
    return count


@allocating_kernel
def _rotate(basis: Floats, rotations: Floats) -> None:
    """Apply rotations of adjacent rows, in order."""
    n = basis.shape[0]
    panel = np.empty((n, PANEL))
    for start in range(0, n, PANEL):
        width = min(PANEL, n - start)
        panel[:, :width] = basis[:, start : start + width]
        for k in range(rotations.shape[0]):
            i, c, s = int(rotations[k, 0]), rotations[k, 1], rotations[k, 2]
            low, high = panel[i], panel[i + 1]
            for j in range(PANEL):
                f = high[j]
                high[j] = s * low[j] + c * f
                low[j] = c * low[j] - s * f
        basis[:, start : start + width] = panel[:, :width]


@kernel
def _cholesky(a: Floats, least: float) -> bool:
    """Lower factor in place, row by row; false if a pivot is not above `least`."""
    n = a.shape[0]
    for i in range(n):
        row = a[i]
        for j in range(i):
            row[j] = (row[j] - _dot(row[:j], a[j, :j])) / a[j, j]
        pivot = row[i] - _dot(row[:i], row[:i])
        if not pivot > least:
            return False
        row[i] = np.sqrt(pivot)
    return True


@allocating_kernel
def _substitute(factor: Floats, b: Floats) -> None:
    """Solve L L' x = b in place."""
    n = factor.shape[0]
    reverse = np.empty(n)
    for i in range(n):
        for j in range(i):
            reverse[j] = -factor[i, j]
        _add_rows(b[i], reverse[:i], b[:i])
        for j in range(b.shape[1]):
            b[i, j] /= factor[i, i]
    for i in range(n - 1, -1, -1):
        for j in range(i + 1, n):
            reverse[j] = -factor[j, i]
        _add_rows(b[i], reverse[i + 1 :], b[i + 1 :])
        for j in range(b.shape[1]):
            b[i, j] /= factor[i, i]
