import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.compute import Compute
from autoprune.recovery import Reconstruction
from autoprune.recovery.reconstruction import _inputs, _patches, one_batch, solve
from search_spaces import prune, trace

EXACT = Compute(torch.device("cpu"), amp=False, channels_last=False)
IMAGES = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def fit(dense, gone, **how):
    """(space, pruned network, the same fitted, names of the fitted layers): unit `gone[g]` of group g is removed."""
    dense.eval()
    space = trace(dense, IMAGES[:1])
    kept = [np.delete(np.arange(g.size), gone.get(i, [])) for i, g in enumerate(space.groups)]
    pruned = prune(dense, space, kept)
    fitted = copy.deepcopy(pruned)
    names = Reconstruction(dense, space, lambda net: net(IMAGES), EXACT, **how)(fitted, kept)
    return pruned, fitted, names


@pytest.mark.parametrize(("ridge", "expected"), [(0.0, 13.0), (0.25, 11.0)])
def test_worked_by_hand(ridge, expected):
    """y = 3 a + 5 b with b = 2 a; b is removed, so y = 13 a.

    a = 1, -1: X'X = 2, X'(Y - 3 X) = 2 * 10 = 20, hence the change is 20 / 2 = 10; a ridge of a quarter of the mean
    square (2 in sum) makes it 20 / (2 + 0.25 * 2) = 8.
    """
    a = torch.tensor([[1.0], [-1.0]])
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 3.0)
    solve(layer, a, 3 * a + 5 * (2 * a), ridge)
    assert layer.weight.item() == pytest.approx(expected)


def test_a_bias_takes_up_what_is_constant():
    """y = 3 a + 5 b + 1 with b = 2 a + 7; without b, y = 13 a + 36. Without a ridge, that is exact."""
    a = torch.tensor([[1.0], [4.0], [5.0]])
    layer = nn.Linear(1, 1)
    solve(layer, a, 3 * a + 5 * (2 * a + 7) + 1, 0.0)
    assert layer.weight.item() == pytest.approx(13.0)
    assert layer.bias.item() == pytest.approx(36.0)


def test_fewer_rows_than_inputs_worked_by_hand():
    """One row a, b = 1, 2 wants 10; w = (1, 1) answers 3. X X' = 5; the ridge is 0.4 of the mean square 5 / 2, so 1.

    W' - W = X' (5 + 1)^-1 (10 - 3) = 7 / 6 * (1, 2).
    """
    layer = nn.Linear(2, 1, bias=False)
    nn.init.ones_(layer.weight)
    solve(layer, torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0]]), 0.4)
    assert layer.weight.flatten().tolist() == pytest.approx([1 + 7 / 6, 1 + 14 / 6])


def test_an_overflow_is_left_to_the_score():
    layer = nn.Linear(2, 1)
    before = layer.weight.clone()
    solve(layer, torch.tensor([[1.0, torch.inf], [2.0, 3.0]]), torch.ones(2, 1), 0.1)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("rows", [400, 900])  # fewer than unknowns, which makes the system one of rows, and more
def test_float32_finds_nearly_the_same_weights(rows):
    generator = torch.Generator().manual_seed(1)
    basis = torch.randn(40, 600, generator=generator)  # inputs that hang together, as channels do
    inputs = torch.randn(rows, 40, generator=generator) @ basis + 0.1 * torch.randn(rows, 600, generator=generator)
    wanted, found = inputs @ torch.randn(600, 8, generator=generator), []
    for compute in (EXACT, dataclasses.replace(EXACT, slow_double=True)):
        layer = nn.Linear(600, 8)
        nn.init.zeros_(layer.weight)
        solve(layer, inputs, wanted, 0.05, compute)
        found.append(layer(inputs).detach())
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 1e-4
    assert rows < 512 or not torch.equal(*found)


def test_images_too_large_for_one_batch_give_more_positions_each(monkeypatch):
    """Dense outputs of 4 * 64 numbers an image; with room for 16 of the 64 images each gives 8 positions, not 2."""
    dense = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)
    )
    monkeypatch.setattr("autoprune.recovery.reconstruction.MOST", 16 * 4 * 64)
    assert one_batch(trace(dense, IMAGES[:1]), 64, 2) == (16, 8)


def test_a_layer_called_by_keyword_is_left_as_it_is():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.second(input=self.first(x)).mean((2, 3))

    _, _, names = fit(Net(), {0: [3]})
    assert names == ()


def test_silent_inputs_change_nothing():
    layer = nn.Linear(2, 3, bias=False)
    before = layer.weight.clone()
    solve(layer, torch.zeros(5, 2), torch.ones(5, 3), 0.1)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("bias", [True, False])
def test_a_channel_that_others_can_make_is_not_missed(bias):
    """Channel 3 of the first layer is half of channel 0 minus channel 1, 2 of the second one twice channel 0."""
    dense = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=bias), nn.Conv2d(4, 5, 3, padding=1, stride=2, bias=bias),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 3, bias=bias),
    )  # fmt: skip
    with torch.no_grad():
        for tensor in dense[0].parameters():
            tensor[3] = 0.5 * tensor[0] - tensor[1]
        for tensor in dense[1].parameters():
            tensor[2] = 2 * tensor[0]
    pruned, fitted, names = fit(dense, {0: [3], 1: [2]}, ridge=1e-9)
    other = torch.randn(7, 1, 8, 8)  # not those it was fitted on
    assert names == ("1", "4")
    assert not torch.allclose(pruned(other), dense(other), atol=1e-2)
    assert torch.allclose(fitted(other), dense(other), atol=1e-4)


def test_only_layers_that_lost_inputs_are_touched():
    dense = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 8, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    before = copy.deepcopy(dense.state_dict())
    pruned, fitted, names = fit(dense, {0: [1, 4]})
    assert names == ("4",)  # the depthwise one is left as it is, the linear one has all its inputs
    changed = {k for k, v in fitted.state_dict().items() if not torch.equal(v, pruned.state_dict()[k])}
    statistics = {f"1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert changed == {"4.weight", "4.bias"} | statistics
    assert not fitted.training
    assert all(torch.equal(v, before[k]) for k, v in dense.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for net in (dense, fitted) for m in net.modules())


def test_a_layer_that_runs_twice_is_left_as_it_is(toy):
    dense = toy(lambda s, x: s.twice(torch.relu(s.twice(x))), twice=toy.conv())
    space = trace(dense.eval(), torch.randn(1, 3, 8, 8))
    kept = [np.arange(1, g.size) for g in space.groups]
    images = torch.randn(4, 3, 8, 8)
    names = Reconstruction(dense, space, lambda net: net(images), EXACT)(prune(dense, space, kept), kept)
    assert names == ("head", "fc")


def test_the_answers_come_nearer():
    dense = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    pruned, fitted, _ = fit(dense, {0: [0, 3, 5], 1: [2, 6]}, ridge=0.01)
    errors = [(net(IMAGES) - dense(IMAGES)).square().mean().item() for net in (pruned, fitted)]
    assert errors[1] < 0.1 * errors[0]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(3, 5, 4, 3, 2), (2, 3, 11)),
        (nn.Conv2d(3, 5, 3, 2, 1), (2, 3, 9, 10)),
        (nn.Conv2d(3, 5, (3, 5), padding="same", dilation=2, padding_mode="circular"), (2, 3, 9, 10)),
        (nn.Conv3d(3, 5, 2, (2, 1, 2)), (2, 3, 5, 4, 6)),
        (nn.Linear(3, 5), (2, 7, 3)),
        (nn.Linear(3, 5), (2, 3)),
    ],
)
def test_what_a_layer_reads(layer, shape):
    """The rows that are fitted, times the weights, are what the layer answers: at every position, in any order."""
    x = torch.randn(shape)
    out = layer(x)
    answers = out.reshape(2, -1, 5) if isinstance(layer, nn.Linear) else out.flatten(2).mT  # [N, S, O]
    at = torch.stack([torch.randperm(answers.shape[1]) for _ in x])
    places = at if isinstance(layer, nn.Linear) else _patches(layer, x, at)
    found = _inputs(layer, x, places) @ layer.weight.flatten(1).T + layer.bias
    expected = torch.stack([a[i] for a, i in zip(answers, at, strict=True)]).flatten(0, 1)
    assert torch.allclose(found, expected, atol=1e-5)
