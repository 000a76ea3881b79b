"""Criteria see the units inside adapted modules, too."""

import pytest
import torch
from torch import nn

from autoprune.criteria import CRITERIA, score_all
from search_spaces import trace


class Encoder(nn.Module):
    """A small transformer that classifies images by their rows."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(8, 8)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 4, 12, batch_first=True), 1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.encoder(self.enter(x[:, 0])).mean(1))


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_scores_heads(name):
    model = Encoder().eval()
    images, labels = torch.rand(16, 1, 8, 8), torch.arange(16) % 10
    space = trace(model, images[:1])
    scores = score_all(name, model, space, [(images, labels)])
    heads = next(i for i, g in enumerate(space.groups) if g.name == "encoder.layers.0.self_attn")
    assert len(scores[heads]) == 4
    if name not in ("apoz", "hrank"):  # nothing is zero behind attention, and a vector is no map that has a rank
        assert scores[heads].max() > scores[heads].min()
