"""`Together`: several candidates scored in one pass of the dense network, each as if it were alone.

On a GPU a small network is launches, not arithmetic: K candidates in one pass take hardly longer than one. They see the
same samples in batches of the same size as alone, and are scored to the end: none is abandoned.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from autoprune.errors import CandidateFailed
from autoprune.evaluation.abandonment import Losses
from autoprune.evaluation.abreast import Abreast
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.memory import free
from autoprune.evaluation.plan import EvaluationPlan
from autoprune.evaluation.ready import Ready
from autoprune.evaluation.validation import summary
from autoprune.failures import out_of_memory
from autoprune.graphs import Graph, capture_on
from autoprune.recovery import Reconstruction, reestimate
from autoprune.tasks import Task, answered, mapped, num_samples
from autoprune.tasks.trees import bring, leaves
from objectives.plugins import PluginError, described
from search_spaces import Widths, prune

TOLERANCE = 1e-3  # of an output's largest number: what a wrong mask breaks is broken by far


class Together:
    """Scores candidates together; fidelities that train are left to the evaluator.

    Args:
        evaluator: Scores one at a time.

    Raises:
        ValueError: If candidates of its network cannot share a pass, naming what stands in the way.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator, self._task = evaluator, evaluator.task
        self._key: tuple[int, EvaluationPlan, int] | None = None  # of what was evaluated last, which has this graph
        self._graph: Graph | None = None
        self._most: int | None = None  # candidates that memory holds at once; None: not known
        if type(self._task).evaluate is not Task.evaluate:
            raise ValueError("together: the task computes its loss inside the network")
        try:
            self._net = Abreast(evaluator.dense, evaluator.space)
            self._try()
        except Exception as error:  # of the network, too, which has never seen so many samples at once
            why = str(error) if type(error) is ValueError else described(error)
            raise ValueError(f"together: candidates of this network cannot share a pass ({why}); evaluate them one "
                             "at a time (together=1)") from error  # fmt: skip

    def __call__(self, candidates: Sequence[Widths], fidelity: str = "proxy") -> list[dict[str, Any] | str]:
        """The metrics of each, or why it has none. Those that memory does not hold at once go in two halves.

        Raises:
            ValueError: If widths or fidelity are not legal, or the fidelity trains.
            MemoryError, RuntimeError: Whatever else goes wrong, and if memory does not hold one.
        """
        plan = self._evaluator.settings.plan(fidelity)
        if plan.steps:
            raise ValueError(f"together: fidelity '{fidelity}' trains, each candidate for itself")
        # Of a branch that is gone a constant stays, and no batch-norm: another network.
        whole = [widths for widths in candidates if 0 not in widths]
        found = iter(self._parts(whole, plan))
        return [self._alone(widths, fidelity) if 0 in widths else next(found) for widths in candidates]

    def _alone(self, widths: Widths, fidelity: str) -> dict[str, Any] | str:
        try:
            return self._evaluator(widths, fidelity)
        except CandidateFailed as error:
            return str(error)

    def _parts(self, candidates: Sequence[Widths], plan: EvaluationPlan) -> list[dict[str, Any] | str]:
        """As many at once as memory holds: what each gets does not depend on that."""
        found, left = list[dict[str, Any] | str](), list(candidates)
        while left:
            some = left[: self._most]
            try:
                found += self._scored(some, plan)
            except (MemoryError, RuntimeError, PluginError) as error:
                if len(some) < 2 or not out_of_memory(error):
                    raise
                self._most = (len(some) + 1) // 2
            else:
                left = left[len(some) :]
                continue
            free(self._evaluator.compute.device)
        return found

    def _scored(self, candidates: Sequence[Widths], plan: EvaluationPlan) -> list[dict[str, Any] | str]:
        """The metrics of candidates with all their branches, in one pass."""
        start, evaluator = time.perf_counter(), self._evaluator
        clock = evaluator.compute.stopwatch()
        self._net.wear([evaluator.space.kept(widths, evaluator.scores) for widths in candidates])
        losses = [Losses() for _ in candidates]
        meters = [self._task.meter(evaluator.goal.more) for _ in candidates]
        try:
            with torch.inference_mode(), evaluator.compute.autocast(), clock:
                for batch, answers in self._answers(plan, evaluator.pass_size(plan)):
                    count = num_samples(batch)
                    for k, (own, meter) in enumerate(zip(losses, meters, strict=True)):
                        outputs = _of(answers, k, count)
                        own.add(self._task.loss(outputs, batch), count)
                        meter.update(outputs, batch)
        except Exception:
            self._key = self._graph = None  # its memory may be what was missing
            raise
        bring([own.tensors for own in losses] + [values for meter in meters for values in meter.tensors])
        seconds = {
            "seconds_compute": clock.seconds / len(candidates),
            "seconds_total": (time.perf_counter() - start) / len(candidates),
        }
        found: list[dict[str, Any] | str] = []
        for widths, own, meter in zip(candidates, losses, meters, strict=True):
            metrics = summary(own, meter, evaluator.goal, len(evaluator.val), len(evaluator.val))
            if math.isfinite(metrics["loss"]):
                found.append({**metrics, **seconds})
            else:
                found.append(f"metric '{evaluator.settings.metric}' is {metrics['loss']} at widths {tuple(widths)}")
        return found

    def _answers(self, plan: EvaluationPlan, size: int) -> Iterable[tuple[Any, Any]]:
        """Validation samples, and the answers of all candidates: by a graph where these come as those before."""
        key, compute = (self._net.count, plan, size), self._evaluator.compute
        if key != self._key:
            reconstruction = self._reconstruction(plan)  # kept with the graph, which reads what it holds

            def whole() -> list[tuple[Any, Any]]:
                with compute.autocast(cached=False):
                    return list(self._passes(plan, size, reconstruction))

            drawn = [self._evaluator.val, *([self._evaluator.sample(plan.bn_samples)] if plan.bn_samples else [])]
            is_still = all(isinstance(draw, Ready) for draw in drawn)  # on the device, for good
            where = capture_on(compute.device) if compute.graphs and is_still else None
            what = f"together: {self._net.count} candidates in one pass"
            self._key, self._graph = key, None if where is None else Graph(whole, what, where)
        return self._passes(plan, size, self._reconstruction(plan)) if self._graph is None else self._graph()

    def _reconstruction(self, plan: EvaluationPlan) -> Reconstruction | None:
        """What fits layers, where the plan asks for it."""
        return self._evaluator.reconstruction(plan.fit_samples) if plan.fit_samples else None

    def _passes(
        self, plan: EvaluationPlan, size: int, reconstruction: Reconstruction | None
    ) -> Iterator[tuple[Any, Any]]:
        """Those answers, once layers are fitted and statistics measured."""
        evaluator = self._evaluator
        if reconstruction is not None:
            with self._net.fitting(reconstruction):
                reconstruction.call(self._net)
        if plan.bn_samples:
            with self._net.estimating():
                for batch in evaluator.sample(plan.bn_samples).evenly(size):
                    answered(self._task, self._net, batch, "calibration")
        for batch in evaluator.val.batches(size):
            yield batch, answered(self._task, self._net, batch, "val")

    def _try(self) -> None:
        """Check, on two samples, that candidates answer as they do alone.

        Raises:
            ValueError: If they do not.
        """
        evaluator, task = self._evaluator, self._task
        batch = task.draw("calibration", 2, evaluator.settings.seed).whole(2)  # in full precision, as it is compared
        space, compute = evaluator.space, evaluator.compute
        half = space.clip(0.5 * group.size for group in space.groups)
        kept = [space.kept(widths, evaluator.scores) for widths in (half, space.floor)]
        self._net.wear(kept)
        alone = [compute.place(prune(evaluator.dense, space, units)).eval() for units in kept]
        with torch.no_grad():
            self._compare(task.call(self._net, batch), [task.call(net, batch) for net in alone], num_samples(batch))
            with self._net.estimating():
                task.call(self._net, batch)
            for net in alone:
                reestimate(net, [batch], partial(task.call, net))
            self._compare(task.call(self._net, batch), [task.call(net, batch) for net in alone], num_samples(batch))

    @staticmethod
    def _compare(together: Any, alone: Sequence[Any], count: int) -> None:
        """Check the answers to some samples.

        Raises:
            ValueError: If they are not the same.
        """
        for k, answers in enumerate(alone):
            for one, other in zip(leaves(_of(together, k, count)), leaves(answers), strict=True):
                scale = float(other.float().abs().max()) if other.numel() else 0.0
                same = one.shape == other.shape and torch.allclose(
                    one.float(), other.float(), rtol=TOLERANCE, atol=TOLERANCE * scale
                )
                if not same and math.isfinite(scale):
                    raise ValueError("they do not answer there as they do alone")


def _of(answers: Any, k: int, count: int) -> Any:
    """The answers of candidate k to `count` samples."""
    return mapped(lambda t: t[k * count : (k + 1) * count] if isinstance(t, Tensor) and t.dim() else t, answers)
