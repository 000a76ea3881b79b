"""What every adapter owes (search_spaces/adapters): one examination for all of them."""

import copy
import io

import numpy as np
import torch
from judge import judge
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves

from search_spaces import adapters, prune
from search_spaces.tracing import as_call, slow_path
from search_spaces.verify import random_kept, redraw


def answers(model, example):
    """The floating-point numbers that the network answers."""
    args, kwargs = as_call(example)
    with torch.no_grad():
        return [t for t in tree_leaves(model(*args, **kwargs)) if isinstance(t, torch.Tensor) and t.is_floating_point()]


def far(found, expected):
    """The largest difference."""
    assert [t.shape for t in found] == [t.shape for t in expected]
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


def examine(model, space, example, exported=True):
    """Hold an adapted network to its duties; returns a pruned network."""
    model = redraw(copy.deepcopy(model).eval(), 5)
    dense = answers(model, example)
    full = [np.arange(g.size) for g in space.groups]
    for net in (prune(model, space, full), adapted(model)):  # with nothing removed, the same function
        assert far(answers(net, example), dense) < 1e-5
        assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    for seed in (0, 1, 2):
        kept = random_kept(space, np.random.default_rng(seed))
        assert judge(model, space, kept, example, seed) < 1e-6
    pruned = prune(model, space, kept)
    expected = answers(pruned, example)
    assert list(pruned.state_dict()) == list(model.state_dict())
    assert far(answers(copy.deepcopy(pruned), example), expected) == 0
    other = prune(redraw(copy.deepcopy(model), 6), space, kept)  # as a saved network is built again
    other.load_state_dict(pruned.state_dict())
    assert far(answers(other, example), expected) < 1e-6
    for name in adapters.adapted(pruned):
        part = pruned.get_submodule(name)
        if parametrize.is_parametrized(part):  # torch itself refuses to
            continue
        file = io.BytesIO()
        torch.save(part, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
        assert type(again) is type(part)
        assert list(again.state_dict()) == list(part.state_dict())
    if exported:
        args, kwargs = as_call(example)
        with slow_path():
            program = torch.export.export(pruned, args, kwargs, strict=False)
        assert far(answers(program.module(), example), expected) < 1e-5
    return pruned


def adapted(model):
    """A copy in which every module is adapted and nothing is removed."""
    net = copy.deepcopy(model)
    adapters.adapt(net)
    return net
