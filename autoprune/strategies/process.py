"""A Gaussian process: what it thinks of points that nobody has measured.

Letters: `N` points told, `D` coordinates, `B` points asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.special import erfc, erfcx

from search_spaces.encodings import Floats

LEAST_NOISE = 1e-6


@dataclass(frozen=True, eq=False)
class Kernel:
    """Matern 5/2 with a length scale per coordinate, and noise.

    Attributes:
        closeness: [D] one over the squared length scales.
        scale: Variance of the process.
        noise: Variance of the noise.
    """

    closeness: Floats
    scale: float
    noise: float

    def __call__(self, a: Floats, b: Floats) -> Floats:
        """The covariances [A, B] of the points [A, D] and [B, D]."""
        return self.scale * _matern(_squares(a, b, self.closeness))[0]


def fit(x: Floats, y: Floats) -> Kernel:
    """The most probable kernel for values [N] at points [N, D]; values of mean 0 and variance 1.

    The priors are those of Optuna's GPSampler (which this agrees with), the gradient is in closed form.
    """
    start = np.zeros(x.shape[1] + 2)
    start[-1] = np.log(1 - 0.99 * LEAST_NOISE)
    found = minimize(_loss, start, (x, y), jac=True, method="l-bfgs-b", options={"gtol": 1e-2}).x
    *closeness, scale, noise = np.exp(found)
    return Kernel(np.array(closeness), float(scale), float(noise) + LEAST_NOISE)


def log_improvement(kernel: Kernel, x: Floats, y: Floats, at: Floats) -> Floats:
    """The logarithms [B] of the expected improvement (Jones et al. 1998) over the largest of the values [N].

    Args:
        kernel: Of the process.
        x: [N, D] points told.
        y: [N] their values, the larger the better.
        at: [B, D] points asked.
    """
    lower = np.linalg.cholesky(kernel(x, x) + kernel.noise * np.eye(len(x)))
    cross = solve_triangular(lower, kernel(x, at), lower=True)
    mean = cross.T @ solve_triangular(lower, y, lower=True)
    deviation = np.sqrt(np.maximum(kernel.scale - (cross**2).sum(axis=0), 0) + 1e-12)
    z = (mean - y.max()) / deviation
    far = np.minimum(z, -25)  # there the difference below is 0 to the last digit (Ament et al. 2023, eq. 9)
    with np.errstate(divide="ignore"):
        near = np.log(z * erfc(-z / 2**0.5) / 2 + np.exp(-(z**2) / 2) / (2 * np.pi) ** 0.5)
    tail = -(far**2) / 2 - np.log(2 * np.pi) / 2 + np.log1p((np.pi / 2) ** 0.5 * far * erfcx(-far / 2**0.5))
    return np.asarray(np.where(z < -25, tail, near) + np.log(deviation))


def _loss(raw: Floats, x: Floats, y: Floats) -> tuple[float, Floats]:
    """Minus the log-posterior of the logarithms of a kernel's parameters, and its gradient [D + 2]."""
    closeness, scale, above = np.exp(raw[:-2]), float(np.exp(raw[-2])), float(np.exp(raw[-1]))
    noise = above + LEAST_NOISE
    matern, slope = _matern(_squares(x, x, closeness))
    factor = cho_factor(scale * matern + noise * np.eye(len(x)), lower=True)
    solved = cho_solve(factor, y)
    value = np.log(np.diag(factor[0])).sum() + y @ solved / 2
    value += 0.1 * (1 / closeness + closeness).sum() - np.log(scale) + scale - 0.1 * np.log(noise) + 30 * noise
    inner = (cho_solve(factor, np.eye(len(x))) - np.outer(solved, solved)) / 2  # by the covariances
    by_square = inner * scale * slope
    by_closeness = 2 * (by_square.sum(axis=1) @ x**2 - np.einsum("nd,nd->d", x, by_square @ x))
    by_closeness += 0.1 * (1 - closeness**-2)
    by_scale = (inner * matern).sum() - 1 / scale + 1
    by_noise = np.trace(inner) - 0.1 / noise + 30
    return float(value), np.array([*(by_closeness * closeness), by_scale * scale, by_noise * above])


def _squares(a: Floats, b: Floats, closeness: Floats) -> Floats:
    """Squared scaled distances [A, B]."""
    a, b = a * closeness**0.5, b * closeness**0.5
    return np.asarray(np.maximum((a**2).sum(axis=1)[:, None] - 2 * a @ b.T + (b**2).sum(axis=1), 0))


def _matern(squares: Floats) -> tuple[Floats, Floats]:
    """Matern 5/2 of squared distances, and its slope."""
    root = np.sqrt(5 * squares)
    falls = np.exp(-root)
    return falls * (5 / 3 * squares + root + 1), -5 / 6 * (root + 1) * falls
