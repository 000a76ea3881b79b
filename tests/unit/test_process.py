"""The Gaussian process: its likelihood, its fit and what it expects, against other ways to the same numbers."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from autoprune.strategies.process import LEAST_NOISE, Kernel, _loss, fit, log_improvement


def values(count, dim=4, seed=0):
    """Points [N, D] in the unit cube and values [N] that depend on the first coordinate most."""
    x = np.random.default_rng(seed).random((count, dim))
    y = -((x - 0.5) ** 2 @ np.array([9.0, 1.0, 0.1, 0.0][:dim]))
    return x, (y - y.mean()) / y.std()


def test_covariances_by_hand():
    # Two points 0.5 apart in a coordinate of closeness 4: a distance of 1. Matern 5/2: (1 + 5^.5 + 5/3) exp(-5^.5).
    kernel = Kernel(np.array([4.0, 1.0]), 2.0, 0.1)
    far = 2 * (1 + 5**0.5 + 5 / 3) * np.exp(-(5**0.5))
    found = kernel(np.array([[0.0, 0.3], [0.5, 0.3]]), np.array([[0.0, 0.3]]))
    assert found == pytest.approx(np.array([[2.0], [far]]))


def test_the_loss_is_the_posterior_and_its_gradient_is_right():
    x, y = values(12)
    raw = np.random.default_rng(1).normal(0, 0.3, 6)
    loss, gradient = _loss(raw, x, y)
    closeness, scale, noise = np.exp(raw[:4]), np.exp(raw[4]), np.exp(raw[5]) + LEAST_NOISE
    covariance = Kernel(closeness, scale, noise)(x, x) + noise * np.eye(12)
    prior = -0.1 * (1 / closeness + closeness).sum() + np.log(scale) - scale + 0.1 * np.log(noise) - 30 * noise
    likelihood = multivariate_normal(np.zeros(12), covariance).logpdf(y) + 6 * np.log(2 * np.pi)
    assert loss == pytest.approx(-likelihood - prior)
    steps = 1e-6 * np.eye(6)
    differences = [(_loss(raw + h, x, y)[0] - _loss(raw - h, x, y)[0]) / 2e-6 for h in steps]
    assert gradient == pytest.approx(np.array(differences), rel=1e-4, abs=1e-6)


def test_the_fit_sees_which_coordinates_matter():
    kernel = fit(*values(40))
    assert kernel.closeness[0] > 2 * kernel.closeness[2]
    assert kernel.noise < 0.05


def test_the_improvement_is_the_integral_and_does_not_underflow():
    x, y = values(8)
    kernel = fit(x, y)
    at = np.random.default_rng(5).random((3, 4))
    inverse = np.linalg.inv(kernel(x, x) + kernel.noise * np.eye(8))
    mean = kernel(at, x) @ inverse @ y
    deviation = np.sqrt(kernel.scale - np.einsum("ab,bc,ac->a", kernel(at, x), inverse, kernel(at, x)))
    for m, s, said in zip(mean, deviation, log_improvement(kernel, x, y, at), strict=True):
        expected, _ = quad(lambda v, m=m, s=s: (v - y.max()) * norm(m, s).pdf(v), y.max(), y.max() + 12 * s)
        assert said == pytest.approx(np.log(expected), rel=1e-4)
    known = log_improvement(Kernel(kernel.closeness, kernel.scale, LEAST_NOISE), x, y, x)  # hopeless: measured, worse
    assert np.isfinite(known).all()
    assert (known[y < y.max() - 0.1] < -100).all()
