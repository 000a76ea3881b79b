"""Losses between hidden features: statistics of the kept channels, which go together on both sides."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_spaces import mask, trace

IMAGES = torch.randn(2, 3, 8, 8)


class Auxiliary(nn.Module):
    """Two convolutions that read the same, and a loss between what they make."""

    def __init__(self, loss):
        super().__init__()
        self.first, self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3), nn.Conv2d(8, 12, 3)
        self.head, self.loss = nn.Linear(12, 4), loss

    def forward(self, x):
        x = self.first(x).relu()
        left, right = self.left(x), self.right(x)
        return self.head(right.relu().mean((2, 3))), self.loss(left, right)


def rows(x):
    return x.movedim(1, -1).reshape(-1, x.shape[1])


LOSSES = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth l1": lambda a, b: F.smooth_l1_loss(a, b, beta=0.3),
    "huber": lambda a, b: F.huber_loss(a, b, reduction="sum", delta=0.3),
    "bce": lambda a, b: F.binary_cross_entropy(a.sigmoid(), b.sigmoid()),
    "logits": lambda a, b: F.binary_cross_entropy_with_logits(a, b.sigmoid(), reduction="sum"),
    "margin": lambda a, b: F.soft_margin_loss(a, b),
    "kl": lambda a, b: F.kl_div(a.log_softmax(1), b.softmax(1), reduction="batchmean"),
    "cosine": lambda a, b: F.cosine_similarity(a, b).mean(),
    "each": lambda a, b: F.mse_loss(a, b, reduction="none").mean(1),
    "codebook": lambda a, b: F.mse_loss(rows(a), rows(b).detach()) + 0.25 * nn.MSELoss()(rows(a).detach(), rows(b)),
    "used": lambda a, b: (a * F.mse_loss(a, b)).sum(1),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_is_over_the_kept_channels(law, loss):
    space = law(Auxiliary(loss), IMAGES)
    assert {"left", "right"} & {g.name for g in space.groups}


def test_by_hand():
    net = Auxiliary(F.mse_loss).double().eval()
    space = trace(net, IMAGES.double())
    kept = [np.arange(g.size)[::2] for g in space.groups]
    masked = mask(net, space, kept)
    features = masked.first(IMAGES.double()).relu()
    difference = (masked.left(features) - masked.right(features))[:, ::2]
    assert masked(IMAGES.double())[1].item() == pytest.approx(difference.square().mean().item(), rel=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b: F.mse_loss(a, torch.ones(2, 12, 4, 4)),
        lambda a, b: F.binary_cross_entropy_with_logits(a, b, b),
        lambda a, b: F.soft_margin_loss(a, b[:, :1].sign()),
        lambda a, b: F.soft_margin_loss(a, torch.ones(2, 1, 4, 4), reduction="none").sum(1),
    ],
    ids=["a constant", "weights", "spread", "spread, of each"],
)
def test_what_keeps_its_size_beside_it_keeps_the_channels(law, loss):
    space = law(Auxiliary(loss), IMAGES, seeds=(0,))
    assert "left" not in {g.name for g in space.groups}
