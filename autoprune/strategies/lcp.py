"""The learnt shift alone."""

from __future__ import annotations

from autoprune.strategies.layer_compensation import LayerCompensation


class LcP(LayerCompensation):
    """LcP: layer-compensated pruning (Chin et al. 2018, https://arxiv.org/abs/1810.00518): a shift per group, no scale.

    Half the genes of `layer_compensation`, and at one budget the same widths within reach.
    """

    name = "lcp"
    default = "shift"
