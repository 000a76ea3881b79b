"""`Evaluator`: widths in, metrics out. One per worker; it holds the model and the data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.compute import Compute, Stopwatch
from autoprune.data import ImageData
from autoprune.errors import CandidateFailed, Diverged
from autoprune.evaluation.folding import Folded, find_pairs
from autoprune.evaluation.memory import activation_bytes, within_memory
from autoprune.evaluation.plan import EvaluationPlan
from autoprune.evaluation.ready import ready
from autoprune.evaluation.settings import EvaluationSettings
from autoprune.evaluation.starts import Start, starts_of
from autoprune.evaluation.state import remove, state_files, trained_file
from autoprune.evaluation.validation import Goal, validate
from autoprune.files import DiskError
from autoprune.recovery import Reconstruction, reestimate_evenly
from autoprune.reference import broken_weight, read_weights, save_weights
from autoprune.tasks import Draw, Task, answered, as_task
from autoprune.training import Checkpoints, StepListener, TrainingLog, finetune
from search_spaces import Dresser, Kept, SearchSpace, copy_of, prune


class Evaluator:
    """Scores candidates: dress, (reconstruct or train,) re-estimate batch-norm, validate.

    All candidates meet the same samples in the same order, and in "short" the same batches, augmentations (common
    random numbers): they differ by their widths only, and the same widths always get the same metrics (on one kind of
    GPU, as another one has other kernels; trained there, with `compute.same_bits`).
    `autoprune.fidelity` lists the fidelities.

    A candidate that runs out of memory is tried once more, from the start, with everything halved that passes at once:
    batches of validation and of batch-norm; the samples that reconstruct (half of them serve); and each training batch
    goes in two passes whose gradients are added, so that rate, steps and augmentations stay what they are for all.
    The loss then differs a little (batch-norm sees half-size batches), and the metrics say so: "halved_batch".

    Args:
        model: The dense network; copied.
        task: What the network is for; what only the end may see is left behind.
        space: The search space of `model`.
        scores: Per group [C], higher = keep: which units a width keeps.
        settings: How to score.
        others: Name -> the scores of other criteria: what is trained may keep the units of these, if that is better.

    Raises:
        ValueError: If the metric or the device is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task | ImageData,
        space: SearchSpace,
        scores: Sequence[NDArray[np.float64]],
        settings: EvaluationSettings | None = None,
        others: Mapping[str, Sequence[NDArray[np.float64]]] | None = None,
    ) -> None:
        self.settings = settings = settings or EvaluationSettings()
        self.space, self.scores, self.others = space, scores, dict(others or {})
        self.compute = Compute.choose(settings.device, settings.amp, graphs=settings.training.cuda_graphs)
        self.task = as_task(task).without("test").on(self.compute)
        self.goal = Goal.of(settings.metric, self.task)
        self.val = ready(self.task.draw("val", settings.val_samples, settings.seed), self.compute)
        self.task = self.task.without("val")  # on the device there are those that score only
        self._drawn: dict[int, Draw] = {}
        self._training = Start()  # where the training that goes on here has begun
        self.dense = self.compute.place(copy_of(model)).eval()
        self._reconstructions: dict[int, Reconstruction] = {}
        self._dresser = Dresser(self.dense, space)
        two = self.task.draw("calibration", 2, settings.seed).whole(2)
        self._pairs = find_pairs(self.dense, lambda net: answered(self.task, net, two, "calibration"))

    def __call__(
        self,
        widths: Sequence[int],
        fidelity: str = "proxy",
        incumbent: Sequence[float] | None = None,
        listener: StepListener | None = None,
    ) -> dict[str, Any]:
        """Score one candidate.

        Args:
            widths: [G] legal widths.
            fidelity: "raw", "proxy", "reconstructed", "short", "proxy:SAMPLES", "short:STEPS" ...
            incumbent: "batch_losses" of the best candidate so far at this fidelity; a candidate that is clearly worse
                is abandoned. Ignored if it does not belong to these validation samples.
            listener: Told after each step of a training.

        Returns:
            "loss" (the metric, lower is better; an estimate if abandoned), the scores of the task, of the samples seen,
            "batch_losses" (means of 32 samples each, or of each batch where a task says one loss for it; empty for a
            metric that gives one number for all), "abandoned", "samples" (validation samples seen), "seconds_compute"
            (forward and backward passes) and "seconds_total". Only where it happened: "halved_batch"
            (memory ran out at the whole batch, this is the half that did not),
            "start" ("cut" or "fitted") and "units" (whose: "" for the run's criterion) if there was a choice,
            "resumed_from" (the step at which the training of a killed worker was taken over) and "loss_trained" (the
            training made it worse, so that all the rest is of the network from before it).

        Raises:
            CandidateFailed: If the candidate runs out of memory, or its loss is not a number.
            ValueError: If the widths or the fidelity are not legal.
        """
        start, clock = time.perf_counter(), self.compute.stopwatch()
        settings = self.settings
        plan = settings.plan(fidelity)
        kept = self.space.kept(widths, self.scores)
        rival = incumbent if settings.abandon else None
        files = state_files(settings, kept, plan)

        best = trained_file(settings, kept, plan) if fidelity == settings.finals else None

        def score(batch: int) -> dict[str, Any]:
            net, metrics = self._score(widths, plan, rival, clock, batch, files.get(batch), listener)
            if best is not None and best.parent.parent.is_dir() and math.isfinite(metrics["loss"]):
                with suppress(DiskError):  # then the winner is trained once more
                    best.parent.mkdir(exist_ok=True)
                    save_weights(net, best)
            return metrics

        try:
            metrics = within_memory(score, settings.batch_size, self.compute.device, f"at widths {tuple(widths)}")
        except Exception as error:  # not Ctrl-C: that one is to go on
            remove(files.values())
            if isinstance(error, Diverged):
                raise CandidateFailed(str(error)) from error
            raise
        remove(files.values())
        if not math.isfinite(metrics["loss"]):
            raise CandidateFailed(f"metric '{settings.metric}' is {metrics['loss']} at widths {tuple(widths)}")
        metrics["seconds_compute"] += clock.seconds
        metrics["seconds_total"] = time.perf_counter() - start
        return metrics

    def trained(self, widths: Sequence[int], fidelity: str, retrain: Callable[[], None]) -> dict[str, Tensor]:
        """The weights that a finalist was scored with.

        Args:
            widths: [G] legal widths.
            fidelity: At which it was scored, with some steps of training.
            retrain: Called before it is trained once more, because its weights are not here.

        Raises:
            CandidateFailed: As when it is called.
        """
        plan, kept = self.settings.plan(fidelity), self.space.kept(widths, self.scores)
        with suppress(ValueError):
            if (file := trained_file(self.settings, kept, plan)) is not None:
                return read_weights(file)
        retrain()
        found: list[nn.Module] = []

        def score(batch: int) -> dict[str, Any]:
            net, metrics = self._score(widths, plan, None, self.compute.stopwatch(), batch, None, None)
            found[:] = [net]
            return metrics

        try:
            within_memory(score, self.settings.batch_size, self.compute.device, f"at widths {tuple(widths)}")
        except Diverged as error:
            raise CandidateFailed(str(error)) from error
        return dict(found[0].state_dict())

    def glance(self, widths: Sequence[int], state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Score the candidate that is in training here, in the middle of it; the training is not touched.

        Args:
            widths: [G] legal widths.
            state: Its weights so far.
        """
        plan = self.settings.plan("short")
        net = self.compute.place(prune(self.dense, self.space, self._kept(widths, self._training))).eval()
        net.load_state_dict(state)
        clock = self.compute.stopwatch()
        reestimate_evenly(net, self.task, self.sample(plan.bn_samples), self.pass_size(plan), self.compute, clock)
        return self._validate(net, plan)

    def evaluate_dense(self) -> dict[str, Any]:
        """Score the dense network as it is, on the same validation samples: what candidates are compared with.

        Raises:
            ValueError: If its metric is not a finite number, or memory does not suffice.
        """

        def score(batch: int) -> dict[str, Any]:
            return self._validate(self.dense, EvaluationPlan(), parts=self.settings.batch_size // batch)

        try:
            metrics = within_memory(score, self.settings.batch_size, self.compute.device, "with the dense network")
        except CandidateFailed as error:
            raise ValueError(str(error)) from error
        if not math.isfinite(metrics["loss"]):
            raise ValueError(f"metric '{self.settings.metric}': must be a finite number for the dense network, but is "
                             f"{metrics['loss']} on {len(self.val)} validation {self.task.sample}s; check the "
                             f"weights, and that the {self.task.sample}s are prepared as in its training")  # fmt: skip
        return metrics

    def reconstruction(self, samples: int) -> Reconstruction:
        """What fits candidates on so many training samples; kept, since it holds the dense network's answers."""
        if samples not in self._reconstructions:
            self._reconstructions.clear()  # first: each takes memory
            seed = self.settings.seed
            made = Reconstruction.on(self.dense, self.space, self.task, samples, self.compute, seed)
            self._reconstructions[samples] = made
        return self._reconstructions[samples]

    def _score(
        self,
        widths: Sequence[int],
        plan: EvaluationPlan,
        incumbent: Sequence[float] | None,
        clock: Stopwatch,
        batch: int,
        file: Path | None,
        listener: StepListener | None,
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The network at one batch size and its metrics, with the seconds that training took.

        A finalist's training that made it worse is taken back: what is delivered may not lose to what it could have
        started from.
        """
        share = self.settings.batch_size // batch

        def started(start: Start) -> nn.Module:
            kept = self._kept(widths, start)
            stays = self._dresser.stays(kept, packed=not plan.steps)
            net = self._dresser.dress(stays).eval()
            if start.fitted:
                self.reconstruction(max(1, plan.fit_samples // share))(net, stays, clock)
            return net

        def settled(net: nn.Module, rival: Sequence[float] | None) -> dict[str, Any]:
            if plan.bn_samples:
                drawn = self.sample(plan.bn_samples)
                reestimate_evenly(net, self.task, drawn, self.pass_size(plan), self.compute, clock, parts=share)
            with Folded(net, self._pairs):
                return self._validate(net, plan, rival, clock, share)

        if not plan.steps:
            net = started(Start(plan.fit_samples > 0))
            return net, {**settled(net, incumbent), "seconds_compute": 0.0}

        seconds: list[float] = []
        before: dict[Start, dict[str, Any]] = {}

        def begun(start: Start) -> nn.Module:
            net = started(start)
            if not plan.starts:
                return net
            untouched = copy_of(net)
            before[start] = settled(net, None)
            return untouched

        def tried(start: Start) -> float:
            net = begun(start)
            with suppress(Diverged):
                trial = replace(plan, steps=plan.trial_steps)
                seconds.append(self._train(net, trial, share, None, None).seconds_compute)
            return _or_infinite(settled(net, None)["loss"])

        starts = starts_of(plan, self.others)
        best = min(starts, key=tried) if len(starts) > 1 else starts[0]
        net = started(best) if best in before else begun(best)
        self._training = best
        log = self._train(net, plan, share, file, listener)
        metrics = settled(net, incumbent)
        spoilt = broken_weight(net)
        rival = min(before, key=lambda start: _or_infinite(before[start]["loss"]), default=None)
        if rival is not None and (before[rival]["loss"] < metrics["loss"] or spoilt or math.isnan(metrics["loss"])):
            harm = {"loss_trained": metrics["loss"]} if math.isfinite(metrics["loss"]) else {}
            best, net = rival, started(rival)
            metrics = {**settled(net, None), **harm}
        elif spoilt:
            raise CandidateFailed(f"{spoilt} after its training, at widths {tuple(widths)}")
        metrics["seconds_compute"] = log.seconds_compute + sum(seconds)
        if len(starts) > 1:
            metrics |= {"start": "fitted" if best.fitted else "cut", "units": best.units}
        return net, {**metrics, "resumed_from": log.resumed_from} if log.resumed_from else metrics

    def _kept(self, widths: Sequence[int], start: Start) -> Kept:
        """The units that stay."""
        return self.space.kept(widths, self.others[start.units] if start.units else self.scores)

    def _train(
        self, net: nn.Module, plan: EvaluationPlan, micro_batches: int, file: Path | None, listener: StepListener | None
    ) -> TrainingLog:
        """Train for some steps, or for those that are left."""
        settings = self.settings
        kept = None if file is None else Checkpoints(file, settings.checkpoint_every, strict=False)
        return finetune(
            net, self.task, plan.training(settings.of_training()), steps=plan.steps, micro_batches=micro_batches,
            checkpoints=kept, listener=listener,
        )  # fmt: skip

    def _validate(
        self,
        net: nn.Module,
        plan: EvaluationPlan,
        rival: Sequence[float] | None = None,
        clock: Stopwatch | None = None,
        parts: int = 1,
    ) -> dict[str, Any]:
        """See `validate`."""
        size = self.pass_size(plan)
        return validate(net, self.task, self.val, self.compute, size, self.goal, rival, clock, parts)

    def pass_size(self, plan: EvaluationPlan) -> int:
        """Samples of one pass without gradients."""
        counts = [count for count in (plan.fit_samples, plan.bn_samples, len(self.val)) if count]
        return self.compute.pass_size(self.settings.batch_size, counts, activation_bytes(self.space))

    def sample(self, count: int) -> Draw:
        """Training samples as they are; drawn once."""
        if count not in self._drawn:
            self._drawn[count] = ready(self.task.draw("calibration", count, self.settings.seed), self.compute)
        return self._drawn[count]


def _or_infinite(loss: float) -> float:
    """The loss; not a number is worse than any."""
    return math.inf if math.isnan(loss) else loss
