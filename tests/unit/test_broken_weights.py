"""A weight that becomes NaN is never delivered, though no loss shows it."""

import pytest
import torch
from torch import nn

import autoprune
from autoprune.errors import CandidateFailed
from autoprune.exporting import export
from autoprune.reference import broken_weight
from autoprune.tasks import Regression
from search_spaces import trace


class Hidden(nn.Module):
    """A parameter has a gradient of NaN once a step has made the shift negative: 0 times that of what is not taken."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
        self.shift, self.odd = nn.Parameter(torch.full((1,), 1e-6)), nn.Parameter(torch.zeros(1))

    def forward(self, x):
        y = self.layers(x) + self.shift
        return torch.where(torch.ones_like(y, dtype=torch.bool), y, y + self.shift.detach().sqrt() * self.odd)


@pytest.fixture
def problem():
    x = torch.randn(32, 4)
    return Hidden().eval(), Regression((x, x[:, :1] - 5), (x, x[:, :1] - 5))


@pytest.mark.parametrize("settings", [{"finalists": 0, "epochs": 3.0}, {"finalists": 1, "epochs": 0.0}])
def test_the_finite_network_is_delivered(problem, settings, here):
    model, task = problem
    found = autoprune.search(
        model, task, name="run", progress=False, device="cpu", criterion="l1", trials=1, short_steps=3, batch_size=32,
        warm_starts="none", **settings,
    )  # fmt: skip
    assert broken_weight(found.model) == ""
    assert broken_weight(autoprune.load(found.run_dir / "best", model)) == ""
    if settings["epochs"]:
        assert found.metrics["before_finetune_val"]["delivered"] is True


def test_an_export_of_one_is_refused_and_the_layer_named(problem, tmp_path):
    model, _ = problem
    space = trace(model, torch.zeros(1, 4))
    with torch.no_grad():
        model.layers[2].weight[:2, 0] = torch.tensor([float("nan"), float("inf")])
    with pytest.raises(ValueError, match=r"not exported, since 'layers.2.weight' holds 2 numbers that are NaN") as told:
        export(tmp_path / "best", model, space=space, kept=[range(g.size) for g in space.groups])
    assert "\n" not in str(told.value)
    assert not (tmp_path / "best").exists()


def test_buffers_may_hold_infinity_but_no_nan():
    net = nn.Linear(2, 2)
    net.register_buffer("mask", torch.full((2, 2), -torch.inf))
    assert broken_weight(net) == ""
    net.mask[0, 0] = torch.nan
    assert broken_weight(net) == "'mask' holds 1 numbers that are NaN or infinite"


def test_a_dense_network_that_holds_one_is_refused_before_the_search(problem, here):
    model, task = problem
    with torch.no_grad():
        model.odd.fill_(torch.nan)
    with pytest.raises((ValueError, CandidateFailed), match=r"model 'Hidden': 'odd' holds 1 numbers"):
        autoprune.search(model, task, name="run", progress=False, criterion="l1", trials=1)
    assert not (here / "results").exists()
