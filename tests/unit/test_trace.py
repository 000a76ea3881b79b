"""What `trace` and `verify` do with networks and inputs that do not fit, and what they leave behind."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_spaces import VerificationError, trace, verify
from search_spaces.models import digits_cnn

IMAGE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_example_that_does_not_fit():
    with pytest.raises(
        ValueError, match=r"example inputs of shape \(2, 3, 8, 8\) do not fit DigitsCNN \(in 'stem.0'\): RuntimeError"
    ):
        trace(digits_cnn(), torch.randn(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"do not fit DigitsCNN .in the model.: TypeError"):
        trace(digits_cnn(), {"picture": IMAGE})


def test_nothing_to_prune():
    with pytest.raises(
        ValueError, match=r"Linear has no group of channels that can be pruned \('': output of the network\)"
    ):
        trace(nn.Linear(3, 3), torch.randn(2, 3))
    with pytest.raises(ValueError, match="no layer makes channels"):
        trace(nn.ReLU(), torch.randn(2, 3))


def test_wrappers_are_named():
    with pytest.raises(ValueError, match=r"DataParallel is a wrapper .* model.module"):
        trace(nn.DataParallel(digits_cnn()), IMAGE)


def test_lazy_layers_are_named():
    with pytest.raises(ValueError, match=r"'0.weight' is not initialised yet"):
        trace(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)), torch.randn(2, 3))


def test_the_network_and_pytorch_are_left_as_they_were():
    apply = torch.autograd.Function.__dict__["apply"]
    model = digits_cnn().train()
    model.block1.eval()
    modes = [m.training for m in model.modules()]
    state = torch.random.get_rng_state()
    for example in (IMAGE, torch.randn(2, 3, 8, 8)):
        try:
            trace(model, example)
        except ValueError:
            assert example.shape[1] == 3
        assert modes == [m.training for m in model.modules()]
        assert torch.autograd.Function.__dict__["apply"] is apply
        assert not torch.nn.modules.module._global_forward_hooks
        assert not torch.nn.modules.module._global_forward_pre_hooks
        assert not hasattr(example, "_channel_ids")
        assert torch.backends.mha.get_fastpath_enabled()
    torch.random.set_rng_state(state)
    trace(model, IMAGE)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_counters_in_buffers_are_put_back():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1)
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("seen", torch.zeros(3))

        def forward(self, x):
            self.calls += 1
            self.seen = self.seen + 1
            return self.out(F.relu(self.conv(x)))

    model = Counting()
    seen = model.seen
    trace(model, IMAGE)
    assert model.calls == 0
    assert model.seen is seen


def test_half_precision_and_double():
    for dtype in (torch.bfloat16, torch.float64):
        assert trace(digits_cnn().to(dtype), IMAGE.to(dtype)).full == trace(digits_cnn(), IMAGE).full


def test_costs_are_per_image():
    one, two = trace(digits_cnn(), IMAGE[:1]), trace(digits_cnn(), IMAGE)
    assert one.fingerprint == two.fingerprint


def test_two_traces_agree_bit_for_bit():
    assert trace(digits_cnn(), IMAGE).fingerprint == trace(digits_cnn(), IMAGE).fingerprint


def test_verify_catches_a_broken_space_and_names_the_group():
    model = digits_cnn()
    space = trace(model, IMAGE)
    assert verify(model, space, IMAGE) < 1e-5
    broken = space.groups[1]
    shifted = tuple(
        replace(m, index=np.roll(m.index, 1, 0)) if m.tensor == "block1.3.weight" and m.axis == 1 else m
        for m in broken.members
    )
    wrong = replace(space, groups=(space.groups[0], replace(broken, members=shifted), *space.groups[2:]))
    with pytest.raises(VerificationError, match=f"group '{broken.name}': the pruned network changes by"):
        verify(model, wrong, IMAGE)
    forgotten = tuple(m for m in broken.members if m.tensor != "block1.3.weight")
    wrong = replace(space, groups=(space.groups[0], replace(broken, members=forgotten), *space.groups[2:]))
    with pytest.raises(VerificationError, match=f"group '{broken.name}': the pruned network cannot run without"):
        verify(model, wrong, IMAGE)


def test_verify_sees_what_tracing_cannot():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x = self.conv(x)
            return self.out(x * (1.0 / x.shape[1]))  # a float asks the int without a trace

    model = Hidden()
    with pytest.raises(VerificationError, match="group 'conv'"):
        verify(model, trace(model, IMAGE), IMAGE)


@pytest.mark.parametrize("first", [False, True])
def test_verify_sees_nan_in_any_of_several_outputs(first):
    """The pruned network answers NaN in one output; the other one is fine."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x = self.conv(x)
            out = self.out(x)
            whole = 1.0 if self.conv.out_channels == 8 else float("nan")
            return (out * whole, out) if first else (out, out * whole)

    model = Two()
    with pytest.raises(VerificationError, match="group 'conv': the pruned network cannot run without its channels"):
        verify(model, trace(model, IMAGE), IMAGE)


def test_verify_says_that_the_network_itself_answers_nan():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    nn.init.constant_(model[2].bias, float("inf"))
    with pytest.raises(VerificationError, match=r"^Sequential: answers the example input with NaN or infinity"):
        verify(model, trace(model, IMAGE), IMAGE)
