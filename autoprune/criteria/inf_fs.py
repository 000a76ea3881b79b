"""Infinite feature selection: how much each of a set of responses matters.

Letters: `N` samples, `I` features.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import solve
from torch import Tensor

MIXING, DECAY = 0.5, 0.9  # alpha, and r times the spectral radius of A: the defaults of its implementations
WIDEST = 4096  # features; beyond it A [I, I] does not fit, and the spread alone ranks them


def inf_fs(responses: Tensor) -> Tensor:
    """Importance [I] of features by the values of all paths through them (Roffo et al. 2015).

    https://openaccess.thecvf.com/content_iccv_2015/html/Roffo_Infinite_Feature_Selection_ICCV_2015_paper.html

    A_ij = alpha * max(sigma_i, sigma_j) + (1 - alpha) * (1 - |Spearman_ij|), with the standard deviations sigma divided
    by the largest; scores = (sum over l >= 1 of (r A)^l) 1 = ((I - r A)^-1 - I) 1. A constant feature counts as
    correlated with all.

    Args:
        responses: [N, I].
    """
    values = responses.double().numpy()
    spread = values.std(0)
    spread = spread / spread.max() if spread.max() > 0 else np.ones_like(spread)
    if len(spread) > WIDEST:
        return torch.from_numpy(spread)
    from scipy.stats import rankdata  # imports slowly

    ranks = rankdata(values, axis=0)
    ranks -= ranks.mean(0)
    norms = np.linalg.norm(ranks, axis=0)
    alike = np.abs(ranks.T @ ranks) / np.where(norms > 0, norms, 1) / np.where(norms > 0, norms, 1)[:, None]
    alike[norms == 0] = alike[:, norms == 0] = 1
    graph = MIXING * np.maximum(spread, spread[:, None]) + (1 - MIXING) * (1 - alike).clip(0)
    vector = np.ones(len(spread))
    for _ in range(100):  # the spectral radius, by power iteration: the graph is symmetric and not negative
        vector = graph @ vector
        radius = np.linalg.norm(vector)
        vector /= radius
    return torch.from_numpy(solve(np.eye(len(graph)) - DECAY / radius * graph, np.ones(len(graph)), assume_a="pos") - 1)
