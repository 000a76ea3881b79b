"""What a CPU computes in float32 although the others learn in bfloat16, see `autoprune.guards`."""

import copy

import pytest
import torch
from torch import nn

from autoprune.compute import Compute

SLOW = {
    "strided": nn.Conv2d(6, 6, 3, 2, 1, groups=6),
    "five taps": nn.Conv2d(6, 6, 5, padding=2, groups=6),
    "dilated": nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6),
    "two per channel": nn.Conv2d(6, 12, 3, padding=1, groups=6),
    "transposed": nn.ConvTranspose2d(6, 6, 4, 2, 1, groups=6),
    "one dimension": nn.Conv1d(6, 6, 31, padding=15, groups=6),
    "three dimensions": nn.Conv3d(6, 6, 3, 2, groups=6),
}
FAST = {
    "depthwise": nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "grouped": nn.Conv2d(6, 6, 3, 2, groups=3),
    "dense": nn.Conv2d(6, 6, 3, 2),
    "one channel": nn.Conv2d(1, 6, 3, 2),
}


def example(layer):
    size = 8 if not isinstance(layer, nn.Conv1d) else 40
    return torch.rand(2, layer.in_channels, *[size] * (layer.weight.dim() - 2))


@pytest.mark.parametrize("name", [*SLOW, *FAST])
def test_slow_gradients_are_taken_in_float32(name):
    layer = copy.deepcopy({**SLOW, **FAST}[name])
    x, compute = example(layer), Compute.choose("cpu", amp=True)
    exact = layer(x)
    with compute.placed(layer), compute.autocast():
        learning = layer(x)
        with torch.no_grad():
            judged = layer(x)
        assert torch.is_autocast_enabled("cpu")
    assert learning.dtype == judged.dtype == torch.bfloat16  # what follows sees what it always sees
    rounded = torch.equal(learning, exact.bfloat16())  # float32 until then, which bfloat16's products are not
    assert rounded == (name in SLOW)
    assert (learning - exact).abs().max() < 0.05
    (gradient,) = torch.autograd.grad(learning.float().square().sum(), [layer.weight])
    (wanted,) = torch.autograd.grad(exact.square().sum(), [layer.weight])
    assert (gradient - wanted).norm() < 0.02 * wanted.norm()


def test_nothing_stays_when_the_network_is_given_back():
    net = nn.Sequential(*(copy.deepcopy(layer) for layer in SLOW.values()))
    compute = Compute.choose("cpu", amp=True)
    with compute.placed(net):
        compute.place(net)  # again
        assert all(len(layer._forward_pre_hooks) == len(layer._forward_hooks) == 1 for layer in net)
        copied = copy.deepcopy(net)[0]
    for layer in net:
        assert not layer._forward_pre_hooks
        assert not layer._forward_hooks
        assert not layer._forward_hooks_always_called
    with compute.autocast():
        assert copied(example(copied)).dtype == torch.bfloat16  # copies know it, too


def test_an_error_in_the_layer_leaves_autocast_as_it_was():
    layer = copy.deepcopy(SLOW["strided"])
    compute = Compute.choose("cpu", amp=True)
    with compute.placed(layer), compute.autocast():
        with pytest.raises(RuntimeError, match="channels"):
            layer(torch.rand(2, 5, 8, 8))
        assert torch.is_autocast_enabled("cpu")
        assert layer(example(layer)).dtype == torch.bfloat16


def test_float32_is_left_alone():
    layer = copy.deepcopy(SLOW["strided"])
    with Compute.choose("cpu", amp=False).placed(layer):
        assert not layer._forward_pre_hooks
    with Compute.choose("cpu", amp=True).placed(layer):  # hung, but outside of autocast
        assert layer(example(layer)).dtype == torch.float32


def test_what_a_hook_does_not_see_computes_as_usual():
    layer, other = (copy.deepcopy(SLOW["strided"]) for _ in range(2))
    compute, other = Compute.choose("cpu", amp=True), other.bfloat16()
    with compute.placed(layer), compute.placed(other), compute.autocast():
        assert layer(input=example(layer)).dtype == torch.bfloat16
        assert other(example(other)).dtype == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")
