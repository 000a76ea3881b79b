import numpy as np
import pytest
import torch

from autoprune.evaluation.abandonment import block_means, estimate, hopeless, whole_blocks


def test_blocks_of_thirty_two():
    losses = torch.cat([torch.full((32,), 1.0), torch.full((32,), 2.0), torch.full((8,), 5.0)])
    assert block_means(losses) == [1.0, 2.0, 5.0]
    assert whole_blocks(losses) == [1.0, 2.0]


def test_the_estimate_is_the_incumbent_plus_the_mean_difference():
    # The incumbent's 72 images: (32 * 1 + 32 * 2 + 8 * 5) / 72 = 136 / 72; two blocks seen, each 0.5 worse.
    assert estimate([1.5, 2.5], [1.0, 2.0, 5.0], samples=72) == pytest.approx(136 / 72 + 0.5)


def test_a_clearly_worse_candidate_is_abandoned_and_a_better_one_never():
    rng = np.random.default_rng(0)
    incumbent = rng.gamma(2.0, 0.3, 60)
    noise = rng.normal(0, 0.1, 60)
    assert hopeless((incumbent + 0.3 + noise)[:16], incumbent)
    assert not any(hopeless((incumbent - 0.01 + noise)[:n], incumbent) for n in range(61))
    assert not hopeless(incumbent, incumbent)
    assert not hopeless([9.0] * 4, [1.0] * 60)  # too few to say


def test_an_equal_is_almost_never_abandoned():
    """3,000 candidates exactly as good as the incumbent, skewed losses, every look of 16 images' batches."""
    rng = np.random.default_rng(1)
    lost = 0
    for _ in range(3000):
        own, incumbent = (rng.exponential(0.5, (60, 32)).mean(1) for _ in range(2))
        lost += any(hopeless(own[:n], incumbent) for n in range(8, 60, 4))
    assert lost <= 3  # one in a thousand


def test_a_nan_is_not_taken_for_hopeless():
    assert not hopeless([float("nan")] * 20, [1.0] * 60)
