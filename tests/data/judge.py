"""An independent judge of a search space: what the network computes when the removed channels are not there.

Where `mask` zeroes what *reads* a removed channel, the judge makes absent what *makes* it: rows of filters, biases,
scales and shifts become NaN, by the members' index maps, and the network runs in `Absence`. So it sees a wrong map on
the other side, and shares neither numbers of products nor rules with the tracer and the mask.
"""

import copy
import inspect
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from absence import Absence
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_map_only

from search_spaces import mask, prune
from search_spaces.comparing import Answer
from search_spaces.contents import named_tensors
from search_spaces.tracing import as_call, slow_path
from search_spaces.verify import redraw


def places(space, kept, roles):
    """(member, positions that go) of every member of these roles."""
    for group, indices in zip(space.groups, kept, strict=True):
        gone = np.setdiff1d(np.arange(group.size), indices)
        for member in group.members:
            if member.role in roles and gone.size:
                yield member, member.index[gone].ravel()


def without_output(positions, layer, _, out):
    """What leaves a layer whose weight is computed: there, a parameter may be part of the weights of other channels."""
    axis = out.dim() - 1 - len(getattr(layer, "kernel_size", ()))
    return out.index_fill(axis, positions, torch.nan)


def without_input(name, positions, axis, model, args, kwargs):
    """What the network is fed with: its first argument, or one of a name, perhaps in dictionaries."""
    args, kwargs, (where, *inside) = list(args), dict(kwargs), name.partition(":")[2].split(".")
    by_position = 0 if not where else [*inspect.signature(model.forward).parameters, where].index(where)
    table, key = (kwargs, where) if where in kwargs else (args, by_position)
    for part in inside:
        table[key] = dict(table[key])
        table, key = table[key], part
    table[key] = table[key].index_fill(axis, positions, torch.nan)
    return tuple(args), kwargs


def absent(model, space, kept):
    """A copy of the network in which NaN stands at the removed places of all that makes a channel."""
    model = copy.deepcopy(model)
    tensors = dict(named_tensors(model))
    for member, positions in places(space, kept, ("out", "norm", "free")):
        value = tensors[member.tensor]
        owner, parametrized, _ = member.tensor.partition(".parametrizations.")
        layer = model.get_submodule(owner if parametrized else owner.rpartition(".")[0])
        if isinstance(layer, (_ConvNd, nn.Linear)) and "weight" not in layer._parameters:
            layer.register_forward_hook(partial(without_output, torch.from_numpy(positions)))
            continue
        if value.is_floating_point() or value.is_complex():
            value.index_fill_(member.axis, torch.from_numpy(positions), torch.nan)
    for member, positions in places(space, kept, ("declared",)):
        module = model.get_submodule(member.tensor)
        if member.axis == 0:  # what it makes
            gone = torch.from_numpy(positions)
            module.register_forward_hook(lambda _, __, out, gone=gone: out.index_fill(1, gone, torch.nan))
        else:  # what it reads; such a module adds nothing where there is nothing
            here = partial(tree_map_only, torch.Tensor, lambda tensor: tensor.nan_to_num(0.0))
            module.register_forward_pre_hook(lambda _, *given, here=here: here(given), with_kwargs=True)
    for member, positions in places(space, kept, ("input",)):
        without = partial(without_input, member.tensor, torch.from_numpy(positions), member.axis)
        model.register_forward_pre_hook(without, with_kwargs=True)
    return model


@contextmanager
def plain_operators():
    """oneDNN's LSTM is one operator, in which nothing can be absent."""
    before = torch.backends.mkldnn.set_flags(_enabled=False)[0]
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(_enabled=before)


@torch.no_grad()
def judge(model, space, kept, example, seed=0):
    """How far the pruned and the masked network are from one without the removed channels.

    Relative to what pruning changes; a hundredth of it where something is computed in single precision.
    """
    dense, narrow = redraw(copy.deepcopy(model).double().eval(), seed), False
    args, kwargs = tree_map_only(torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, as_call(example))
    try:
        dense(*args, **kwargs)
    except RuntimeError:  # it makes tensors of single precision itself
        dense, narrow = redraw(copy.deepcopy(model).eval(), seed), True
        args, kwargs = as_call(example)
    bare = absent(dense, space, kept)
    with slow_path(), sdpa_kernel(SDPBackend.MATH), plain_operators():
        pruned, masked, whole = (
            Answer.of(net, args, kwargs) for net in (prune(dense, space, kept), mask(dense, space, kept), dense)
        )
        with Absence():
            expected = Answer.of(bare, args, kwargs)
    assert not any(t.isnan().any() for t in expected.tensors if t.is_floating_point()), "the answer itself is cut"
    for selection in expected.selections:  # what they were made from may lack channels
        selection.scores[:] = [t.new_empty(0) if t.isnan().any() else t for t in selection.scores]
    worst = max(found.apart(expected, whole) for found in (pruned, masked))
    return worst / 100 if narrow or whole.is_narrowed else worst
