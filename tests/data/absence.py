"""`Absence`: NaN stands for "is not there".

Inside it a network computes as if every NaN in its weights and activations had been cut out: sums, products, statistics
and shares are taken over what is there, and where nothing is there the result is NaN again; only a filter that is there
and finds nothing to read answers its bias. Nothing is numbered, and no module is known by name: what is absent carries
the mark itself, through whatever the code does.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PRODUCTS = {aten.mm: (0, 1), aten.bmm: (0, 1), aten.addmm: (1, 2), aten.baddbmm: (1, 2), aten.mv: (0, 1)}
DISTANCES = {aten._cdist_forward, aten._euclidean_dist}
HIGHEST = {aten.amax, aten.max, aten.argmax}
LOWEST = {aten.amin, aten.min, aten.argmin}
SHARES = {aten._softmax, aten._log_softmax, aten._safe_softmax}

LOSSES = {  # which argument says what is done with the losses of all places: nothing, their mean, their sum
    **dict.fromkeys([aten.mse_loss, aten.smooth_l1_loss, aten.huber_loss, aten.soft_margin_loss], 2),
    aten.binary_cross_entropy: 3, aten.binary_cross_entropy_with_logits: 4,
}  # fmt: skip


def there(x):
    """One where there is something, else zero."""
    return x.isnan().logical_not().to(x.dtype)


class Absence(TorchDispatchMode):
    """See the top of this file."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        kind = func.overloadpacket
        if kind is aten.convolution:
            return convolution(*args)
        if kind in DISTANCES:  # of what is there on both sides
            both = ~(args[0].isnan().flatten(0, -2).any(0) | args[1].isnan().flatten(0, -2).any(0))
            return func(args[0][..., both], args[1][..., both], *args[2:])
        if kind in LOSSES and all(a is None for a in args[2 : LOSSES[kind]]):
            return loss(func, args, LOSSES[kind])
        if kind in PRODUCTS:
            return product(func, args, kwargs, *PRODUCTS[kind])
        if kind is getattr(aten, "_grouped_mm", None):
            return grouped(*args, **kwargs)
        if func._schema.name == "torchvision::deform_conv2d":
            return deformed(func, *args)
        x = args[0] if args else None
        if not isinstance(x, torch.Tensor) or not x.is_floating_point() or not bool(x.isnan().any()):
            return func(*args, **kwargs)
        if kind in REDUCTIONS:
            return REDUCTIONS[kind](x, *args[1:], **{k: v for k, v in kwargs.items() if k != "dtype"})
        if kind in HIGHEST | LOWEST | SHARES | {aten.logsumexp}:
            filled = x.masked_fill(x.isnan(), torch.inf if kind in LOWEST else -torch.inf)
            out = func(filled, *args[1:], **kwargs)
            if kind in SHARES:
                return out.masked_fill(x.isnan(), torch.nan)
            return tuple(map(nothing_left, out)) if isinstance(out, tuple) else nothing_left(out)
        return func(*args, **kwargs)


def nothing_left(values):
    """Of an axis on which nothing was there, the extreme is the one that was filled in."""
    return values.masked_fill(values.isinf(), torch.nan) if values.is_floating_point() else values


def loss(func, args, at):
    """Of the places that are there on both sides."""
    how = args[at] if len(args) > at else 1
    each = func(*(a.nan_to_num(0.5) for a in args[:2]), *[None] * (at - 2), 0, *args[at + 1 :])  # without weights
    each = each.masked_fill(args[0].isnan() | args[1].isnan(), torch.nan)
    return (each, each.nanmean(), total(each))[how]


def product(func, args, kwargs, first, second):
    """Of the places of the inner axis that are there on both sides; of activations with a weight: sums over nothing."""
    a, b = args[first], args[second]
    if not bool(a.isnan().any()) and not bool(b.isnan().any()):
        return func(*args, **kwargs)
    out = torch.matmul(a.nan_to_num(0.0), b.nan_to_num(0.0))
    gone = torch.matmul(there(a), there(b)) == 0
    if a.dim() == 2 and bool(a.isnan().all()):
        gone = b.isnan().all(-2, True)
    out = out.masked_fill(gone, torch.nan)
    if first:  # beta * input + alpha * product
        out = kwargs.get("beta", 1) * args[0] + kwargs.get("alpha", 1) * out
    return out


def grouped(x, weight, offs):
    """One product for the rows of each expert."""
    rows = [slice(a, b) for a, b in zip([0, *offs[:-1].tolist()], offs.tolist(), strict=True)]
    return torch.cat([product(aten.mm, (x[r], w), {}, 0, 1) for r, w in zip(rows, weight, strict=True)])


def convolution(x, weight, bias, *how):
    """The same; one that slides over channels slides over those that are there."""
    dims = weight.dim() - 2
    gap = x.isnan().flatten(0, -2).all(0)
    if dims == 1 and bool(gap.any()) and not bool(gap.all()):
        out = convolution(x[..., ~gap], weight, bias, *how)
        whole = x.new_full((*out.shape[:-1], x.shape[-1]), torch.nan)
        whole[..., ~gap] = out
        return whole
    if not bool(x.isnan().any()) and not bool(weight.isnan().any()):
        return aten.convolution(x, weight, bias, *how)
    out = aten.convolution(x.nan_to_num(0.0), weight.nan_to_num(0.0), None, *how)
    if bool(x.isnan().all()) and not (dims == 1 and x.shape[1] == 1):
        absent, parts = weight.isnan().flatten(2).all(2), how[5]
        absent = absent.view(parts, -1, weight.shape[1]).all(1).flatten() if how[3] else absent.all(1)
        out = out.index_fill(1, absent.nonzero().flatten(), torch.nan)
    else:
        none = aten.convolution(there(x), there(weight), None, *how) == 0
        # A place that looks at the padding only meets nothing of any channel.
        none &= aten.convolution(torch.ones_like(x), torch.ones_like(weight), None, *how) != 0
        out = out.masked_fill(none, torch.nan)
    return out if bias is None else out + bias.view(1, -1, *[1] * dims)


def deformed(func, x, weight, offset, mask, bias, *how):
    """The same where the filters look elsewhere; there, the padding is not told apart."""
    out = func(x.nan_to_num(0.0), weight.nan_to_num(0.0), offset, mask, bias.nan_to_num(0.0), *how)
    return out.index_fill(1, weight.flatten(1).isnan().all(1).nonzero().flatten(), torch.nan)


def mean(x, dims=None, keepdim=False):
    return x.nanmean(dims, keepdim)


def total(x, dims=None, keepdim=False):
    found = x.nansum(dims, keepdim)
    return found.masked_fill(x.isnan().all() if dims in (None, []) else whole(x, dims, keepdim), torch.nan)


def whole(x, dims, keepdim):
    """Is nothing there along these axes?"""
    absent = x.isnan()
    for d in sorted([dims] if isinstance(dims, int) else [d % x.dim() for d in dims], reverse=True):
        absent = absent.all(d, keepdim)
    return absent


def variance(x, dims=None, *, correction=1, keepdim=False):
    dims = list(range(x.dim())) if dims in (None, []) else dims
    number = total(there(x), dims, keepdim)
    squares = total((x - x.nanmean(dims, True)).square(), dims, keepdim)
    return squares / (number - (1 if correction is None else correction))


def norm(x, order=2, dims=None, keepdim=False):
    order = 2 if order is None else order
    if order == float("inf"):
        return nothing_left(x.abs().masked_fill(x.isnan(), -torch.inf).amax(dims or (), keepdim))
    return total(x.abs() ** order, dims, keepdim) ** (1 / order)


def centred(x, dims, eps, centre=True):
    y = x - x.nanmean(dims, True) if centre else x
    return y / (y.square().nanmean(dims, True) + eps).sqrt()


def layer_norm(x, shape, weight, bias, eps):
    y = centred(x, list(range(x.dim() - len(shape), x.dim())), eps)
    y = y if weight is None else y * weight
    return (y if bias is None else y + bias), y, y


def rms_norm(x, shape, weight, eps):
    dims = list(range(x.dim() - len(shape), x.dim()))
    y = centred(x, dims, torch.finfo(x.dtype).eps if eps is None else eps, centre=False)
    return (y if weight is None else y * weight), y


def group_norm(x, weight, bias, n, channels, inner, groups, eps):
    y = centred(x.reshape(n, groups, -1), [2], eps).reshape(x.shape)
    shape = (1, -1, *[1] * (x.dim() - 2))
    y = y if weight is None else y * weight.view(shape)
    return (y if bias is None else y + bias.view(shape)), y, y


def padded(x, amounts, value=0.0):
    """What is not there is not there at the border either."""
    y = aten.constant_pad_nd(x, amounts, value)
    dims = [x.dim() - 1 - i // 2 for i, amount in enumerate(amounts) if amount]
    gone = whole(x, sorted(set(dims)), True) if dims else x.isnan()
    return torch.where(gone.expand(y.shape), torch.nan, y)


REDUCTIONS = {
    aten.constant_pad_nd: padded,
    aten.mean: mean,
    aten.sum: total,
    aten.var: variance,
    aten.std: lambda *args, **kwargs: variance(*args, **kwargs).sqrt(),
    aten.var_mean: lambda x, dims=None, **how: (variance(x, dims, **how), x.nanmean(dims, how.get("keepdim", False))),
    aten.linalg_vector_norm: norm,
    aten.norm: norm,
    aten.native_layer_norm: layer_norm,
    aten.native_group_norm: group_norm,
}
if hasattr(aten, "_fused_rms_norm"):  # of PyTorch 2.8
    REDUCTIONS[aten._fused_rms_norm] = rms_norm
