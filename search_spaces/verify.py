"""The zero-mask law as a check: the pruned network must compute what the masked dense one computes."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map_only

from search_spaces.adapters import adapted
from search_spaces.comparing import Answer
from search_spaces.contents import caches, copy_of
from search_spaces.masking import mask
from search_spaces.plan import check_kept
from search_spaces.preserving import preserved
from search_spaces.space import Kept, SearchSpace
from search_spaces.surgery import prune
from search_spaces.tracing import as_call, slow_path
from search_spaces.tracing.watching import modes_read

FAILURES = (RuntimeError, ValueError, IndexError, AssertionError, TypeError, KeyError, AttributeError)
SEEDS, TOLERANCE = (0, 1, 2), 1e-6  # unless others are asked for
TINY = 1e-4  # parameters that are smaller hide errors as zeros do
IN_SINGLE = 100  # times the tolerance for a network that cannot run, or not everywhere, in double precision


NOT_FINITE = (
    "{}: answers the example input with NaN or infinity, so that nothing can be compared; check the weights, or give "
    "another example input"
)


class VerificationError(ValueError):
    """A space does not describe its network: pruning would change what the kept channels compute."""


def verify(
    model: nn.Module,
    space: SearchSpace,
    example_inputs: Any,
    *,
    seeds: Iterable[int] = SEEDS,
    tolerance: float = TOLERANCE,
) -> float:
    """Prune random channels of `model` and compare with the dense network in which nothing reads them.

    Both run in double precision (where the network can), with batch-norm statistics about those of the example (in
    others the signal of a deep branch is lost), random scales and shifts behind them, and constant parameters
    drawn anew: zeros, ones and tiny scales of a new network hide errors. What is compared are all tensors of the
    answer, and the scores that a detector selects from. The pruned network must also run in training mode where the
    dense one does. `model` itself is left as it is.

    Args:
        model: The dense network.
        space: What `trace` found in it.
        example_inputs: As for `trace`.
        seeds: One random choice of 20 % to 80 % of the channels of every group for each.
        tolerance: Largest accepted difference, relative to what the pruning changes in that tensor; a hundred times as
            much where something is computed in single precision.

    Returns:
        The largest relative difference found.

    Raises:
        VerificationError: Names the group whose removal breaks the network; or says why nothing could be compared.
    """
    worst = 0.0
    with preserved(model) as written, written, torch.no_grad(), slow_path():
        model.eval()
        check_copies(model, example_inputs)
        for seed in seeds:
            subject = subject_of(model, example_inputs, seed, tolerance)
            chosen = [random_kept(space, np.random.default_rng(seed))]
            if space.vanishing is not None:  # without any branch
                chosen.append(tuple(np.arange(g.size if g.floor else 0) for g in space.groups))
            for kept in chosen:
                worst = max(worst, found := subject.difference(space, kept))
                if math.isnan(found):
                    raise VerificationError(NOT_FINITE.format(type(model).__name__))
                if not found <= subject.tolerance:
                    raise VerificationError(blame(subject, space, kept, found))
    return worst


def random_kept(space: SearchSpace, rng: np.random.Generator) -> Kept:
    """20 % to 80 % of the units of every group, at random; of what may vanish, about a quarter does."""
    kept = [
        np.sort(rng.choice(g.size, max(1, g.clip(g.size * rng.uniform(0.2, 0.8))), replace=False)) for g in space.groups
    ]
    for g, group in enumerate(space.groups):
        if group.floor == 0 and rng.random() < 0.25:
            kept[g] = kept[g][:0]
    return check_kept(space, kept)


class Subject:
    """A network to be pruned and compared, and what it answers.

    Args:
        model: In eval mode; it must answer.
        example_inputs: As for `trace`.
        tolerance: Largest accepted relative difference.
    """

    def __init__(self, model: nn.Module, example_inputs: Any, tolerance: float) -> None:
        self.model, self.tolerance = model, tolerance
        self.failure = ""  # why the last pruned network that failed did
        self.args, self.kwargs = as_call(example_inputs)
        asked: list[bool] = []
        with modes_read(partial(asked.append, True)), settling(model) as once:
            self.answer, _ = self._ask(model)
        if not once():
            self.answer, _ = self._ask(copy_of(model))
        if self.answer.is_narrowed:
            self.tolerance *= IN_SINGLE
        if not self.answer.holds_numbers:
            raise VerificationError(
                f"{type(model).__name__}: its answer to the example input holds no number, so that nothing can be "
                "compared; give an example input that it has an answer to"
            )
        # None: it does the same in training, or cannot train on the example alone. What it draws at random cannot be
        # compared.
        self.trained: Answer | None = None
        if asked or adapted(model) or any(type(m).train is not nn.Module.train for m in model.modules()):
            with contextlib.suppress(*FAILURES):
                self.trained, self.draws = self._ask(training(copy_of(model)))

    def _ask(self, model: nn.Module) -> tuple[Answer, bool]:
        """What the model answers, and whether it draws random numbers."""
        with torch.random.fork_rng(devices=[]):
            before = torch.get_rng_state()
            return Answer.of(model, self.args, self.kwargs), not torch.equal(torch.get_rng_state(), before)

    def difference(self, space: SearchSpace, kept: Kept) -> float:
        """Largest difference of pruned and masked answers, relative to what pruning changes; in training mode, too.

        Returns:
            Infinity if the pruned network fails; NaN if the masked one answers no finite number.
        """
        try:
            pruned = prune(self.model, space, kept)
        except FAILURES as error:
            return self._failed(error)
        masked = mask(self.model, space, kept)
        worst = self._difference(pruned, masked, self.answer)
        if self.trained is not None:
            worst = max(worst, self._difference(training(pruned), training(masked), self.trained, not self.draws))
        return worst

    def _difference(self, pruned: nn.Module, masked: nn.Module, dense: Answer, compared: bool = True) -> float:
        try:
            found, _ = self._ask(pruned)
        except FAILURES as error:
            return self._failed(error)
        if not compared:
            return 0.0
        expected, _ = self._ask(masked)
        return found.apart(expected, dense) if expected.is_finite(torch.any) else math.nan

    def _failed(self, error: Exception) -> float:
        self.failure = first_line(error)
        return math.inf


def training(model: nn.Module) -> nn.Module:
    """The model in training mode; what draws at random or needs several samples, dropout and batch-norm, as in eval."""
    for module in model.train().modules():
        if isinstance(module, (_BatchNorm, nn.modules.dropout._DropoutNd)):
            module.eval()
    for name, adapter in adapted(model).items():
        if adapter.estimates:
            model.get_submodule(name).eval()
    return model


def subject_of(model: nn.Module, example_inputs: Any, seed: int, tolerance: float) -> Subject:
    """The network with fresh statistics, in double precision if it runs so."""
    try:
        inputs = tree_map_only(Tensor, _double, example_inputs)
        return Subject(redraw(copy_of(model).double(), seed), inputs, tolerance)
    except VerificationError:
        raise
    except FAILURES:
        single = Subject(redraw(copy_of(model), seed), example_inputs, tolerance)
        single.tolerance = tolerance * IN_SINGLE
        return single


def _double(value: Tensor) -> Tensor:
    if value.is_complex():
        return value.to(torch.complex128)
    return value.double() if value.is_floating_point() else value


def check_copies(model: nn.Module, example_inputs: Any) -> None:
    """Check that a copy of the network answers as it does, as pruning copies it.

    Raises:
        VerificationError: If it does not.
    """
    copied = copy_of(model)  # it may hold on to what the original kept of an earlier input
    other = tree_map_only(Tensor, lambda t: t.flip(-1) if t.dim() else t, example_inputs)
    try:
        expected = _alone(model, other)
    except FAILURES:
        other = example_inputs
        expected = _alone(model, other)
    try:
        found = _alone(copied, other)
        why = "it answers something else"
    except FAILURES as error:
        found, why = [], first_line(error)
    if not all(bool(t.isfinite().all()) for t in expected if t.is_floating_point()):
        raise VerificationError(NOT_FINITE.format(type(model).__name__))
    if [t.shape for t in found] != [t.shape for t in expected] or not all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True) for a, b in zip(found, expected, strict=True)
    ):
        raise VerificationError(
            f"{type(model).__name__}: a copy of the network does not answer as the network does ({why}); something in "
            "it holds on to the original, such as a hook or a function that closes over the network: make it a method "
            "of a module, or let it find the module by its first argument"
        )


def first_line(error: Exception) -> str:
    """What kind of error it is, and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _alone(model: nn.Module, example_inputs: Any) -> list[Tensor]:
    """What the model answers, with random numbers of its own."""
    args, kwargs = as_call(example_inputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Answer.of(model, args, kwargs).tensors


def blame(subject: Subject, space: SearchSpace, kept: Kept, found: float) -> str:
    """Try each group alone, and name the first that breaks the network."""
    whole = [np.arange(g.size) for g in space.groups]
    for number, group in enumerate(space.groups):
        alone = tuple(kept[number] if i == number else w for i, w in enumerate(whole))
        subject.failure = ""
        if not (one := subject.difference(space, alone)) <= subject.tolerance:
            how = f"answers otherwise than its channels explain, by {one:.1e} of what their removal changes"
            if one == math.inf:
                how = "cannot run without its channels" + f" ({subject.failure})" * bool(subject.failure)
            return (
                f"group '{group.name}': the pruned network {how}, so something depends on them that the trace cannot "
                f"see (a number computed from their count, say); freeze it: --freeze {group.name}"
            )
    return (
        f"the pruned network differs by {found:.1e} from the masked one, though no single group does: freeze groups "
        f"one after the other ({', '.join(g.name for g in space.groups[:3])} ...) to find those that do not go together"
    )


@contextmanager
def settling(model: nn.Module) -> Iterator[Callable[[], bool]]:
    """In one pass, multiply the running statistics by those of what comes: signals keep their size in any depth.

    Yields:
        Whether each has been settled once, so that the pass has answered what the settled network answers.
    """
    calls: Counter[int] = Counter()

    def settle(norm: Any, inputs: Any) -> None:
        calls[id(norm)] += 1
        x = inputs[0]
        axes = [d for d in range(x.dim()) if d != 1]
        norm.running_mean.copy_(norm.running_mean + x.mean(axes))
        norm.running_var.copy_(norm.running_var * x.var(axes, correction=0).clamp_min(1e-6))

    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and isinstance(m.running_mean, Tensor)]
    handles = [norm.register_forward_pre_hook(settle) for norm in norms]
    try:
        yield lambda: all(number == 1 for number in calls.values())
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def redraw(model: nn.Module, seed: int) -> nn.Module:
    """Give a network random normalisation statistics, and parameters of one or of tiny values random ones, in place."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(value: Tensor, low: float, high: float) -> None:
        value.copy_(torch.rand(value.shape, generator=generator, dtype=torch.float64) * (high - low) + low)

    drawn: set[int] = set()
    for module in model.modules():
        if isinstance(getattr(module, "running_mean", None), Tensor):
            ranges = {"running_mean": (-0.3, 0.3), "running_var": (0.5, 1.5), "weight": (0.5, 1.5), "bias": (-0.3, 0.3)}
            for name, (low, high) in ranges.items():
                if isinstance(value := getattr(module, name, None), Tensor) and value.is_floating_point():
                    uniform(value, low, high)
                    drawn.add(id(value))
    for value in model.parameters():
        if id(value) in drawn or not value.is_floating_point() or not value.numel():
            continue
        first = float(value.reshape(-1)[0])
        constant, tiny = not bool((value != first).any()), float(value.abs().max()) < TINY
        if not math.isfinite(first) or not (constant or tiny) or (value.numel() == 1 and abs(first) > 1e-3):
            continue
        if sum(n > 1 for n in value.shape) > 1:  # weights, not scales or shifts
            fan_in = value[0].numel()
            value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64) / math.sqrt(fan_in))
        elif (first == 0 or not constant) and value.numel() > 1:
            uniform(value, -0.3, 0.3)
        else:
            uniform(value, 0.5, 1.5)
    for table in caches(model):  # worked out from what was there before
        table.clear()
    return model
