"""An independent judge of a search space: what the network computes without the removed channels, worked out in another
way than `search_spaces.mask` does it. (Statistics over channels are taken over the kept ones by the same code.)

Where `mask` zeroes what *reads* a removed channel, the judge zeroes what *makes* it: rows of filters, biases, scales
and shifts, by the members' index maps. So it sees a wrong map on the other side. It cannot judge networks in which a
channel of zeros does not stay zero until it is read (a sigmoid of it, say).
"""

import copy
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from search_spaces import mask, prune
from search_spaces.contents import tensors_in
from search_spaces.masking import KeptProducts, follow, within
from search_spaces.tracing import as_call, slow_path
from search_spaces.verify import redraw


class Kept(nn.Module):
    """A normalisation across channels, over those that stay."""

    def __init__(self, norm, stay):
        super().__init__()
        self.norm, self.stay = norm, torch.from_numpy(stay)

    def forward(self, x):
        norm, axis = self.norm, 1 if isinstance(self.norm, nn.GroupNorm) else x.dim() - 1
        if axis > 1 and x.shape[-1] != norm.normalized_shape[0]:  # one that moves the channels there and back
            return self.forward(x.movedim(1, -1)).movedim(-1, 1)
        weight = norm.weight[self.stay] if norm.weight is not None else None
        bias = norm.bias[self.stay] if getattr(norm, "bias", None) is not None else None
        inner = x.index_select(axis, self.stay)
        if isinstance(norm, nn.GroupNorm):
            # Groups that lost all their channels are gone; the others must have kept equally many.
            groups = len(np.unique(self.stay.numpy() // (x.shape[1] // norm.num_groups)))
            y = F.group_norm(inner, groups, weight, bias, norm.eps)
        else:
            mean = 0 if isinstance(norm, nn.RMSNorm) else inner.mean(-1, keepdim=True)
            eps = norm.eps if norm.eps is not None else torch.finfo(x.dtype).eps
            y = (inner - mean) / ((inner - mean).pow(2).mean(-1, keepdim=True) + eps).sqrt()
            y = y if weight is None else y * weight
            y = y if bias is None else y + bias
        y = getattr(norm, "act", nn.Identity())(y)  # timm's normalisations activate, too
        return torch.zeros_like(x).index_copy(axis, self.stay, y)


def places(space, kept, roles):
    """(member, positions that go) of every member of these roles."""
    for group, indices in zip(space.groups, kept, strict=True):
        gone = np.setdiff1d(np.arange(group.size), indices)
        for member in group.members:
            if member.role in roles and gone.size:
                yield member, member.index[gone].ravel()


def change_output(positions, change, layer, _, out):
    """What leaves a layer whose weight is computed: there, a parameter may be part of the weights of other channels."""
    axis = out.dim() - 1 - len(getattr(layer, "kernel_size", ()))
    return out.index_copy(axis, positions, change(out.index_select(axis, positions)))


def change_input(positions, axis, _, args):
    """What the network is fed with."""
    return (args[0].index_fill(axis, positions, 0), *args[1:])


def changed(model, space, kept, change):
    """A copy of the network in which `change(values)` stands at the removed places of all that makes a channel."""
    model = copy.deepcopy(model)
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    for member, positions in places(space, kept, ("out", "norm", "free")):
        value = tensors[member.tensor]
        owner, parametrized, _ = member.tensor.partition(".parametrizations.")
        layer = model.get_submodule(owner if parametrized else owner.rpartition(".")[0])
        if isinstance(layer, (_ConvNd, nn.Linear)) and "weight" not in layer._parameters:
            layer.register_forward_hook(partial(change_output, torch.from_numpy(positions), change))
            continue
        if value.is_floating_point() and not member.tensor.endswith("running_var"):
            at = [slice(None)] * value.dim()
            at[member.axis] = torch.from_numpy(positions)
            value[tuple(at)] = change(value[tuple(at)])
    return model


def far(found, expected, dense):
    """The largest difference, relative to what the pruning changes."""
    pairs = [(a, b, d) for a, b, d in zip(*(list(tensors_in(x)) for x in (found, expected, dense)), strict=True)]
    worst = 0.0
    for a, b, d in pairs:
        assert a.shape == b.shape
        if a.is_floating_point() and a.numel():
            change = (b - d).abs().max() if b.shape == d.shape else torch.zeros(())
            worst = max(worst, float((a - b).abs().max() / max(change, 1e-9 * b.abs().max(), 1e-12)))
    return worst


@torch.no_grad()
def judge(model, space, kept, example, seed=0):
    """How far the pruned network is from one whose removed channels are made zero, relative to what that changes."""
    dense = redraw(copy.deepcopy(model).double().eval(), seed)
    args, kwargs = torch.utils._pytree.tree_map_only(
        torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, as_call(example)
    )
    zeroed = changed(dense, space, kept, torch.zeros_like)
    for member, positions in places(space, kept, ("declared",)):
        if member.axis == 0:  # what it makes
            gone = torch.from_numpy(positions)
            module = zeroed.get_submodule(member.tensor)
            module.register_forward_hook(lambda _, __, out, gone=gone: out.index_fill(1, gone, 0))
    lines = {}
    for member, positions in places(space, kept, ("statistics",)):
        lines.setdefault(member.tensor, []).append(positions)
    for name, gone in lines.items():
        norm = zeroed.get_submodule(name)
        if isinstance(norm, (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)):
            size = norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.normalized_shape[0]
            owner, _, leaf = name.rpartition(".")
            setattr(zeroed.get_submodule(owner), leaf, Kept(norm, np.setdiff1d(np.arange(size), np.concatenate(gone))))
    sums = {}
    for member, positions in places(space, kept, ("product",)):
        sums.setdefault((member.tensor, member.axis), []).append(positions)
    sums = {place: np.concatenate(gone) for place, gone in sums.items()}
    within(zeroed, partial(KeptProducts, sums, follow(zeroed)))
    for member, positions in places(space, kept, ("input",)):
        zeroed.register_forward_pre_hook(partial(change_input, torch.from_numpy(positions), member.axis))
    with slow_path():
        answers = [net(*args, **kwargs) for net in (prune(dense, space, kept), zeroed, dense)]
        other = changed(dense, space, kept, torch.randn_like)  # whatever stood there, it must not matter
        masked = [mask(net, space, kept)(*args, **kwargs) for net in (other, dense)]
    return max(far(*answers), far(*masked, answers[2]))
