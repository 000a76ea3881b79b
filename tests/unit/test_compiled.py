"""What a network has compiled (torch.compile, TorchScript), and operators that take functions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

IMAGE = (2, 3, 8, 8)


@torch.compile(backend="eager")
def compiled_gate(x):
    a, b = x.chunk(2, 1)
    return F.silu(a) * b


def gelu(x):
    return x * torch.sigmoid(1.702 * x)


def sizes(space):
    return {g.name: g.size for g in space.groups}


def test_a_compiled_function_is_followed(law, toy):
    net = toy(lambda s, x: s.b(compiled_gate(s.a(x))), a=toy.conv(8, 16), b=toy.conv())
    space = law(net, torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "body.a": 8, "body.b": 8, "head": 6}


@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")  # of the counter of multiply-adds
def test_a_compiled_part_is_followed(law, toy):
    part = torch.compile(nn.Sequential(toy.conv(8, 12), nn.ReLU(), toy.conv(12, 8)), backend="eager")
    space = law(toy(lambda s, x: s.a(x), a=part), torch.randn(IMAGE))
    assert sizes(space)["body.a._orig_mod.0"] == 12


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_scripted_function_is_followed(law, toy):
    scripted_gelu = torch.jit.script(gelu)
    space = law(toy(lambda s, x: s.b(scripted_gelu(s.a(x))), a=toy.conv(), b=toy.conv()), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "body.a": 8, "body.b": 8, "head": 6}


def test_what_enters_an_operator_that_takes_functions_stays(law, toy):
    def function(s, x):
        x = s.a(x)
        return s.b(torch.cond(x.sum() > 0, torch.relu, torch.sigmoid, (x,)))

    space = law(toy(function, a=toy.conv(), b=toy.conv()), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "body.b": 8, "head": 6}
    assert {g.name: g.frozen_because for g in space.frozen}["body.a"] == "'cond' in 'body' cannot be followed"
