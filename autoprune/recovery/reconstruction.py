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
from autoprune.tasks import Task, as_task, num_samples
from search_spaces import SearchSpace
from search_spaces.plan import check_kept, plan_of

POSITIONS = 10
RIDGE = 0.05
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
        self._call, self._compute, self._ridge = call, compute, ridge
        self._targets: dict[str, tuple[Tensor, Tensor]] = {}  # layer -> (positions [N, P], dense outputs [N * P, O])
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
        return cls(dense, space, lambda net: task.call(net, batch), compute, positions=positions, seed=seed)

    def __call__(
        self, net: nn.Module, kept: Sequence[Any], clock: AbstractContextManager[Any] | None = None
    ) -> tuple[str, ...]:
        """Fit the weights of a pruned network in place, with their biases, and re-estimate its batch-norm.

        Args:
            net: What `prune` or a `Dresser` made of the dense network, on the device, in eval mode.
            kept: Per group the kept units it was made with.
            clock: Runs meanwhile.

        Returns:
            The layers that were fitted, in the order in which they ran.
        """
        removed = self._plan.removed(check_kept(self._space, kept))
        fitted: list[str] = []

        def gone(name: str, axis: int) -> list[Any]:
            """The positions that went from an axis of a layer's weight."""
            return [i for a, line in self._plan.tensors.get(f"{name}.weight", ()) if a == axis for i in removed[line]]

        def fit(name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
            at, target = self._targets[name]
            if len(args[0]) != len(at):  # as many rows as the network found worth it (proposals of a detector)
                return
            stays = np.delete(np.arange(target.shape[1]), gone(name, 0))
            solve(layer, _inputs(layer, args[0], at), target[:, torch.from_numpy(stays).to(target.device)], self._ridge)
            fitted.append(name)

        hooks = {name: partial(fit, name) for name in self._targets if gone(name, 1)}
        with clock or nullcontext(), _hook(net, hooks, "register_forward_pre_hook"), self._compute.autocast():
            if hooks:
                reestimate(net, [None], lambda _: self._call(net))
            if hooks and not fitted:  # there is no batch-norm
                with torch.inference_mode():
                    self._call(net)
        return tuple(fitted)


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


def solve(layer: Any, inputs: Tensor, outputs: Tensor, ridge: float) -> None:
    """Give a layer the weights (and the bias, if it has one) whose answers come nearest to `outputs`.

    Args:
        layer: A convolution or linear layer; changed in place.
        inputs: [M, I] what one output reads, as rows, in the order of the weights.
        outputs: [M, O] wanted.
        ridge: Pull towards the weights it has, relative to the mean square of the inputs.
    """
    x, y, weight = inputs.double(), outputs.double(), layer.weight.flatten(1).double()
    if layer.bias is not None:  # the best bias for any weights makes the means agree
        x, y = x - x.mean(0), y - y.mean(0)
    missing = y - x @ weight.T
    if not missing.isfinite().all():  # the network overflows, and its score will say so
        return
    # (X'X + r) (W' - W) = X' (Y - X W); with fewer rows than columns through XX' + r, which is smaller
    wide = len(x) < x.shape[1]
    gram = x @ x.T if wide else x.T @ x
    gram.diagonal().add_((ridge * gram.trace() / x.shape[1]).clamp(min=1e-12))
    factor = torch.linalg.cholesky(gram)
    change = x.T @ torch.cholesky_solve(missing, factor) if wide else torch.cholesky_solve(x.T @ missing, factor)
    weight = weight + change.T
    if not weight.to(layer.weight.dtype).isfinite().all():  # inputs so small that no float holds the weights
        return
    with torch.no_grad():
        layer.weight.copy_(weight.view_as(layer.weight))
        if layer.bias is not None:
            layer.bias.copy_(outputs.double().mean(0) - weight @ inputs.double().mean(0))


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


def _inputs(layer: Any, x: Tensor, at: Tensor) -> Tensor:
    """[N * P, I] what a layer reads to answer at the flat output positions `at` [N, P]."""
    if isinstance(layer, nn.Linear):
        return _rows(_positions_last(layer, x), at)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    sizes = torch.tensor(x.shape[2:])
    reach = (torch.tensor(layer.kernel_size) - 1) * torch.tensor(layer.dilation)
    makes = (sizes - reach - 1) // torch.tensor(layer.stride) + 1
    start, offset = torch.zeros_like(at), torch.zeros(1, dtype=torch.int64)
    for place, kernel, stride, dilation, size in zip(
        torch.unravel_index(at, makes.tolist()),
        layer.kernel_size,
        layer.stride,
        layer.dilation,
        sizes.tolist(),
        strict=True,
    ):  # row-major, dimension by dimension: flat = flat * size + coordinate
        start = start * size + place * stride
        offset = (offset[:, None] * size + torch.arange(kernel) * dilation).flatten()
    index = (start[:, :, None] + offset.to(at.device)).flatten(1)
    patches = x.flatten(2).gather(2, index[:, None, :].expand(-1, x.shape[1], -1))  # [N, channels, P * area]
    return patches.view(*x.shape[:2], at.shape[1], -1).transpose(1, 2).flatten(2).flatten(0, 1)
