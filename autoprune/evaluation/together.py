"""`Together`: several candidates scored in one pass of the dense network, each as if it were alone.

On a GPU a small network is launches, not arithmetic: K candidates in one pass take hardly longer than one. They see the
same samples in batches of the same size as alone, and are scored to the end: none is abandoned.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from autoprune.evaluation.abandonment import Losses
from autoprune.evaluation.abreast import Abreast
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.plan import EvaluationPlan
from autoprune.evaluation.ready import Ready
from autoprune.evaluation.validation import summary
from autoprune.graphs import Graph, capture_on
from autoprune.tasks import Meter, Task, answered, mapped, num_samples
from autoprune.tasks.trees import bring, leaves
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
        if type(self._task).evaluate is not Task.evaluate:
            raise ValueError("together: the task computes its loss inside the network")
        try:
            self._net = Abreast(evaluator.dense, evaluator.space)
            self._try()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"together: candidates of this network cannot share a pass ({error}); evaluate them one "
                             "at a time (together=1)") from error  # fmt: skip

    def __call__(self, candidates: Sequence[Widths], fidelity: str = "proxy") -> list[dict[str, Any] | str]:
        """The metrics of each, or why it has none.

        Raises:
            ValueError: If widths or fidelity are not legal, or the fidelity trains.
            CandidateFailed: If they run out of memory: then one at a time may do.
        """
        start, evaluator = time.perf_counter(), self._evaluator
        plan = evaluator.settings.plan(fidelity)
        if plan.steps:
            raise ValueError(f"together: fidelity '{fidelity}' trains, each candidate for itself")
        if (gone := [widths for widths in candidates if 0 in widths]) and len(gone) < len(candidates):
            rest = iter(self([widths for widths in candidates if 0 not in widths], fidelity))
            return [evaluator(widths, fidelity) if 0 in widths else next(rest) for widths in candidates]
        if gone:  # of a branch that is gone a constant stays, and no batch-norm: another network
            return [evaluator(widths, fidelity) for widths in candidates]
        clock, size = evaluator.compute.stopwatch(), evaluator.pass_size(plan)
        self._net.wear([evaluator.space.kept(widths, evaluator.scores) for widths in candidates])
        losses = [Losses() for _ in candidates]
        meters = [Meter(self._task, evaluator.goal.more) for _ in candidates]
        try:
            with torch.inference_mode(), evaluator.compute.autocast(), clock:
                for batch, answers in self._answers(plan, size):
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

        def whole() -> list[tuple[Any, Any]]:
            with compute.autocast(cached=False):
                return list(self._passes(plan, size))

        if key != self._key:
            drawn = [self._evaluator.val, *([self._evaluator.sample(plan.bn_samples)] if plan.bn_samples else [])]
            is_still = all(isinstance(draw, Ready) for draw in drawn)  # on the device, for good
            where = capture_on(compute.device) if compute.graphs and is_still else None
            what = f"together: {self._net.count} candidates in one pass"
            self._key, self._graph = key, None if where is None else Graph(whole, what, where)
        return self._passes(plan, size) if self._graph is None else self._graph()

    def _passes(self, plan: EvaluationPlan, size: int) -> Iterator[tuple[Any, Any]]:
        """Those, batch by batch, once layers are fitted and statistics measured."""
        evaluator = self._evaluator
        if plan.fit_samples:
            reconstruction = evaluator.reconstruction(plan.fit_samples)
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
        with torch.no_grad():
            answers = task.call(self._net, batch)
            for k, units in enumerate(kept):
                alone = task.call(compute.place(prune(evaluator.dense, space, units)).eval(), batch)
                pairs = zip(leaves(_of(answers, k, num_samples(batch))), leaves(alone), strict=True)
                for one, other in pairs:
                    scale = float(other.float().abs().max()) if other.numel() else 0.0
                    same = one.shape == other.shape and torch.allclose(
                        one.float(), other.float(), rtol=TOLERANCE, atol=TOLERANCE * scale
                    )
                    if not same and math.isfinite(scale):
                        raise ValueError("they do not answer there as they do alone")


def _of(answers: Any, k: int, count: int) -> Any:
    """The answers of candidate k to `count` samples."""
    return mapped(lambda t: t[k * count : (k + 1) * count] if isinstance(t, Tensor) and t.dim() else t, answers)
