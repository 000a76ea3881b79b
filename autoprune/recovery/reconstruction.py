"""Least-squares reconstruction: a pruned layer's weights, fitted to what the dense layer answered.

For each layer that lost inputs, min over W' of |Y - X' W'|^2 + r |W' - W|^2 (He et al. 2017, "Channel pruning",
https://arxiv.org/abs/1707.06168, eq. 1 with beta fixed; Luo et al. 2017, "ThiNet", https://arxiv.org/abs/1707.06342,
eq. 7): Y is the dense layer's output on the channels that stay, X' the pruned network's own input to that layer, W the
weights that pruning left there. The small ridge r holds to W what the sampled positions do not determine. As in AMC
(He et al. 2018, https://arxiv.org/abs/1802.03494) ten positions of each image serve.

One forward pass does it: a layer is fitted when its input arrives, and what it then answers is the next one's input
(sequential and asymmetric: later layers see, and make up for, the errors of earlier ones). Batch-norm is re-estimated
in that pass, so that layers see what they will see in use. On ResNet-20 at half its multiply-adds (validation loss 0.85
after batch-norm re-estimation) that gave 0.53, the dense statistics 0.57, of 256 images 0.60; ridges of 0.02 to 0.1 are
alike, 1e-4 and 0.5 are worse.

Fitted are convolutions (1-d to 3-d, any kernel) and linear layers that run once. Left as they are: grouped and
depthwise convolutions, transposed ones, layers that run more than once, share their weight or see another number of
rows than in the dense network (the proposals of a detector), and bare parameters.

Letters: `N` samples, `P` positions of each, `S` all positions, `I` inputs of one output (channels times kernel area),
`O` outputs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.compute import Compute
from autoprune.data import ImageData
from autoprune.recovery.batchnorm import reestimate
from autoprune.tasks import Task, answered, as_task, num_samples
from search_spaces import SearchSpace
from search_spaces.branches.absent import Absent
from search_spaces.plan import Line, Stays, check_kept, plan_of

POSITIONS = 10
RIDGE = 0.05
EXACT = Compute(torch.device("cpu"), amp=False, channels_last=False)
MOST = 2**28  # numbers in one layer's output for all images: 1 GiB
_PLAIN = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward, nn.Linear.forward)  # a subclass may compute more


class Reconstruction:
    """Fits pruned networks to the dense one; holds what that one answered at the sampled positions.

    Args:
        dense: The dense network, on the device, in eval mode; left as it is.
        space: Its search space.
        call: Runs a network on one batch of samples.
        compute: How passes are run.
        positions: Of each sample's output, drawn for each layer (all where there are fewer).
        ridge: Relative to the mean square of a layer's inputs.
        seed: Of the positions.
    """

    def __init__(
        self,
        dense: nn.Module,
        space: SearchSpace,
        call: Callable[[nn.Module], Any],
        compute: Compute,
        *,
        positions: int = POSITIONS,
        ridge: float = RIDGE,
        seed: int = 0,
    ) -> None:
        self._space, self._plan = space, plan_of(space)
        self.call, self.ridge, self.compute = call, ridge, compute
        self._patches: dict[tuple[str, torch.Size], Tensor] = {}  # where a layer reads, by the size of its input
        self._targets: dict[str, tuple[Tensor, Tensor]] = {}  # layer -> (positions [N, P], dense outputs [N * P, O])
        self._kinds: dict[str, type[nn.Module]] = {}
        calls: Counter[str] = Counter()

        def record(name: str, layer: nn.Module, args: Any, output: Tensor) -> None:
            if not args:  # called by keyword: hooks do not see its input
                return
            calls[name] += 1
            answers = _positions_last(layer, output)
            count = min(positions, answers.shape[2])
            draws = np.random.default_rng([seed, len(self._targets)]).random((len(answers), answers.shape[2]))
            at = torch.from_numpy(draws.argpartition(count - 1)[:, :count]).to(answers.device)
            self._targets[name] = at, _rows(answers, at).float()
            self._kinds[name] = type(layer)

        handles = _hook(dense, {n: partial(record, n) for n in _candidates(dense, space)}, "register_forward_hook")
        with handles, torch.inference_mode(), compute.autocast():
            call(dense)
        self._targets = {name: target for name, target in self._targets.items() if calls[name] == 1}

    @classmethod
    def on(
        cls, dense: nn.Module, space: SearchSpace, task: Task | ImageData, count: int, compute: Compute, seed: int = 0
    ) -> Reconstruction:
        """On `count` training samples drawn by the seed.

        Where they are too large for one batch, the first of them serve, with more positions each.
        """
        task = as_task(task).on(compute)
        fewer, positions = one_batch(space, min(count, task.count("calibration")), POSITIONS)
        batch = task.draw("calibration", fewer, seed).whole(fewer)
        if (found := num_samples(batch)) < fewer:  # as many as fit together
            positions = math.ceil(positions * fewer / max(1, found))

        def call(net: nn.Module) -> Any:
            return answered(task, net, batch, "calibration")

        return cls(dense, space, call, compute, positions=positions, seed=seed)

    def __call__(
        self, net: nn.Module, kept: Sequence[Any] | Stays, clock: AbstractContextManager[Any] | None = None
    ) -> tuple[str, ...]:
        """Fit the weights of a pruned network in place, with their biases, and re-estimate its batch-norm.

        Args:
            net: What `prune` or a `Dresser` made of the dense network, on the device, in eval mode.
            kept: Per group the kept units it was made with, or what a `Dresser` made of them.
            clock: Runs meanwhile.

        Returns:
            The layers that were fitted, in the order in which they ran.
        """
        if not isinstance(kept, Stays):
            kept = Stays(self._plan.removed(check_kept(self._space, kept)), (), self.compute.device)
        stays, fitted = kept, list[str]()

        def line_of(name: str, axis: int) -> Line | None:
            """Of an axis of a layer's weight that loses positions."""
            lines = [line for a, line in self._plan.tensors.get(f"{name}.weight", ()) if a == axis]
            return lines[0] if lines and stays.removed[lines[0]].size else None

        def fit(name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
            at, target = self._targets[name]
            if len(args[0]) != len(at):  # as many rows as the network found worth it (proposals of a detector)
                return
            if (line := line_of(name, 0)) is not None:
                target = target.index_select(1, stays.on_device(line, target.shape[1]))
            place = (name, args[0].shape[2:])
            if place not in self._patches and not isinstance(layer, nn.Linear):
                self._patches[place] = _patches(layer, args[0], at)
            with torch.autocast(args[0].device.type, enabled=False):
                inputs = _inputs(layer, args[0], self._patches.get(place, at))
                solve(layer, inputs, target, self.ridge, self.compute)
            fitted.append(name)

        # Where a branch is gone all layers behind it read something else: fitted to the dense answers, they bridge it.
        there = dict(net.named_modules())
        bridged = any(isinstance(module, Absent) for module in there.values())
        hooks = {
            name: partial(fit, name)
            for name in self._targets
            if (line_of(name, 1) is not None or bridged) and type(there.get(name)) is self._kinds[name]
        }
        with clock or nullcontext(), _hook(net, hooks, "register_forward_pre_hook"), self.compute.autocast():
            if hooks:
                reestimate(net, [None], lambda _: self.call(net))
            if hooks and not fitted:  # there is no batch-norm
                with torch.inference_mode():
                    self.call(net)
        return tuple(fitted)

    def fits(self, name: str) -> bool:
        """Whether it can fit a layer."""
        return name in self._targets

    def samples(self, name: str) -> int:
        """How many samples a layer is fitted on."""
        return len(self._targets[name][0])

    def rows_of(self, name: str, layer: Any, x: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
        """[count * N * P, I] what a layer reads where it is fitted, and [N * P, O] what the dense one answered.

        Args:
            name: Of the layer.
            layer: It, as the network has it.
            x: Its input, of `count` networks one after the other.
            count: See above.
        """
        at, target = self._targets[name]
        place = (name, x.shape[2:])
        if place not in self._patches and not isinstance(layer, nn.Linear):
            self._patches[place] = _patches(layer, x, at)
        at = self._patches.get(place, at)
        return _inputs(layer, x, at if count == 1 else at.repeat(count, 1)), target


def one_batch(space: SearchSpace, images: int, positions: int) -> tuple[int, int]:
    """How many of the images pass in one batch, and of how many positions each, so that as many positions serve."""
    largest = max((layer.pixels * layer.makes.size for layer in space.layers), default=1)
    count = max(1, min(images, int(MOST // largest)))
    return count, math.ceil(positions * images / count)


@contextmanager
def _hook(net: nn.Module, hooks: Mapping[str, Callable[..., None]], register: str) -> Iterator[None]:
    """Hooks on some layers for the length of a block."""
    handles = [getattr(net.get_submodule(name), register)(hook) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def solve(layer: Any, inputs: Tensor, outputs: Tensor, ridge: float, compute: Compute = EXACT) -> None:
    """Give a layer the weights (and the bias, if it has one) whose answers come nearest to `outputs`.

    It keeps those it has if the network overflows, so that its score will say so, or if no float holds the new ones.
    Nothing here waits for the device.

    Args:
        layer: A convolution or linear layer; changed in place.
        inputs: [M, I] what one output reads, as rows, in the order of the weights.
        outputs: [M, O] wanted.
        ridge: Pull towards the weights it has, relative to the mean square of the inputs.
        compute: Says in which precision sums over M are taken, and systems solved.
    """
    kind = torch.float64 if compute.is_exact else torch.float32
    x, y, weight = inputs.to(kind), outputs.to(kind), layer.weight.flatten(1).to(kind)
    if layer.bias is not None:  # the best bias for any weights makes the means agree
        inputs_mean, outputs_mean = x.mean(0), y.mean(0)
        x, y = x - inputs_mean, y - outputs_mean
    with plain_products(x.device):
        missing = y - x @ weight.T
        # (X'X + r) (W' - W) = X' (Y - X W); with fewer rows than columns through XX' + r, which is smaller
        wide = len(x) < x.shape[1]
        gram, right = (x @ x.T, missing) if wide else (x.T @ x, x.T @ missing)
        last = compute.solves_in(len(gram))
        change = solved(gram.to(last), right.to(last), ridge, x.shape[1])
        weight = weight + (x.T.to(last) @ change if wide else change).T
        shift = None if layer.bias is None else outputs_mean - weight @ inputs_mean.to(weight.dtype)
    found = weight.to(layer.weight.dtype).view_as(layer.weight)
    sound = found.isfinite().all()
    with torch.no_grad():
        layer.weight.copy_(torch.where(sound, found, layer.weight))
        if shift is not None:
            layer.bias.copy_(torch.where(sound, shift.to(layer.bias.dtype), layer.bias))


def solve_each(
    layer: Any, inputs: Tensor, outputs: Tensor, mask: Tensor, ridge: float, compute: Compute = EXACT
) -> tuple[Tensor, Tensor | None]:
    """What `solve` gives K networks that share the layer: weights [K, O, I ...] and biases [K, O].

    Args:
        layer: A convolution or linear layer; left as it is.
        inputs: [K, M, I] as of `solve`; columns of inputs that a network has lost are zero.
        outputs: [M, O] wanted.
        mask: [K, C] 1 where a network has an input channel; one that has lost none keeps its weights.
        ridge: As of `solve`.
        compute: Likewise.
    """
    kind = torch.float64 if compute.is_exact else torch.float32
    x, y, weight = inputs.to(kind), outputs.to(kind), layer.weight.flatten(1).to(kind)
    if layer.bias is not None:
        inputs_mean, outputs_mean = x.mean(1), y.mean(0)
        x, y = x - inputs_mean[:, None], y - outputs_mean
    with plain_products(x.device):
        gram, right = x.mT @ x, x.mT @ (y - x @ weight.T)
        last = compute.solves_in(x.shape[2])
        sizes = mask.sum(1, keepdim=True).to(last) * (x.shape[2] // mask.shape[1])
        found = weight + solved(gram.to(last), right.to(last), ridge, sizes).mT  # [K, O, I]
        shift = None
        if layer.bias is not None:
            shift = outputs_mean - (found @ inputs_mean.to(found.dtype)[:, :, None])[:, :, 0]
    weights = found.to(layer.weight.dtype).unflatten(2, layer.weight.shape[1:])
    sound = weights.flatten(1).isfinite().all(1) & (mask.amin(1) < 1)  # [K]
    weights = torch.where(sound.view(-1, *[1] * (weights.dim() - 1)), weights, layer.weight)
    if shift is None:
        return weights, None
    return weights, torch.where(sound[:, None], shift.to(layer.bias.dtype), layer.bias)


def solved(gram: Tensor, right: Tensor, ridge: float, inputs: int | Tensor) -> Tensor:
    """`(gram + r)^-1 right` of one layer or of several [..., K, K]; NaN where it is not positive definite.

    Args:
        gram: [..., K, K]; changed in place.
        right: [..., K, O].
        ridge: Relative to the mean square of the inputs.
        inputs: How many inputs there are; of several layers [..., 1].
    """
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal.add_((ridge * diagonal.sum(-1, keepdim=True) / inputs).clamp(min=1e-12))
    factor, failed = torch.linalg.cholesky_ex(gram)
    found = torch.cholesky_solve(right, factor)
    return torch.where((failed == 0)[..., None, None], found, torch.nan)


@contextmanager
def plain_products(device: torch.device) -> Iterator[None]:
    """Products in float32 as they are written, whatever the user has allowed: a Gram matrix in TF32 has 3 digits."""
    before = torch.get_float32_matmul_precision() if device.type == "cuda" else "highest"
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)


def _candidates(model: nn.Module, space: SearchSpace) -> list[str]:
    """Layers that can be fitted and may lose inputs."""
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    found = []
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        plain = type(module).forward in _PLAIN and getattr(module, "groups", 1) == 1
        if plain and weight is not None and uses[id(weight)] == 1:
            found += [name] * any(axis == 1 for axis, _ in plan_of(space).tensors.get(f"{name}.weight", ()))
    return found


def _positions_last(layer: nn.Module, values: Tensor) -> Tensor:
    """[N, channels, S] a layer's input or output."""
    linear = isinstance(layer, nn.Linear)
    return values.reshape(len(values), -1, values.shape[-1]).mT if linear else values.flatten(2)


def _rows(values: Tensor, at: Tensor) -> Tensor:
    """[N * P, channels] the values [N, channels, S] at positions [N, P]."""
    picked = values.gather(2, at[:, None, :].expand(-1, values.shape[1], -1))
    return picked.transpose(1, 2).reshape(-1, values.shape[1])


def _padded(layer: Any, x: Tensor) -> Tensor:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)


def _patches(layer: Any, x: Tensor, at: Tensor) -> Tensor:
    """[N, P * area] where a convolution reads, flat in the padded input, to answer at the output positions [N, P]."""
    sizes = np.array(_padded(layer, x[:1, :1]).shape[2:])
    reach = (np.array(layer.kernel_size) - 1) * np.array(layer.dilation)
    makes = (sizes - reach - 1) // np.array(layer.stride) + 1
    places = np.unravel_index(at.cpu().numpy(), makes.tolist())
    start, offset = np.zeros_like(places[0]), np.zeros(1, np.int64)
    for place, kernel, stride, dilation, size in zip(
        places, layer.kernel_size, layer.stride, layer.dilation, sizes.tolist(), strict=True
    ):  # row-major, dimension by dimension: flat = flat * size + coordinate
        start = start * size + place * stride
        offset = (offset[:, None] * size + np.arange(kernel) * dilation).ravel()
    return torch.from_numpy((start[:, :, None] + offset).reshape(len(start), -1)).to(x.device)


def _inputs(layer: Any, x: Tensor, at: Tensor) -> Tensor:
    """[N * P, I] what a layer reads at the output positions [N, P], of a convolution at its `_patches`."""
    if isinstance(layer, nn.Linear):
        return _rows(_positions_last(layer, x), at)
    x = _padded(layer, x)
    area = math.prod(layer.kernel_size)
    patches = x.flatten(2).gather(2, at[:, None, :].expand(-1, x.shape[1], -1))  # [N, channels, P * area]
    return patches.view(*x.shape[:2], -1, area).transpose(1, 2).flatten(2).flatten(0, 1)
