"""`Evaluator`: widths in, metrics out. One per worker; it holds the model and the data."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.compute import Compute, Stopwatch
from autoprune.data import ImageData, Split
from autoprune.errors import CandidateFailed
from autoprune.evaluation.abandonment import BLOCK, block_means, estimate, hopeless, whole_blocks
from autoprune.evaluation.folding import Folded, find_pairs
from autoprune.evaluation.passes import answers
from autoprune.evaluation.settings import EvaluationSettings
from autoprune.recovery import Diverged, Reconstruction, finetune, reestimate_evenly
from objectives import quality, resolve_metric
from search_spaces import Dresser, SearchSpace


class Evaluator:
    """Scores candidates: dress, (reconstruct or train,) re-estimate batch-norm, validate.

    All candidates meet the same images in the same order, and in "short" the same batches, crops and flips (common
    random numbers): they differ by their widths only, and the same widths always get the same metrics.
    `autoprune.evaluation.fidelity` lists the fidelities.

    Args:
        model: The dense network; copied.
        data: Train and validation images; the test images are left behind.
        space: The search space of `model`.
        scores: Per group [C], higher = keep: which units a width keeps.
        settings: How to score.

    Raises:
        ValueError: If the metric or the device is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ImageData,
        space: SearchSpace,
        scores: Sequence[NDArray[np.float64]],
        settings: EvaluationSettings | None = None,
    ) -> None:
        self.settings = settings = settings or EvaluationSettings()
        self.space, self.scores = space, scores
        self.compute = Compute.choose(settings.device, settings.amp)
        self._metric = resolve_metric(settings.metric)
        self._data = data.without_test().to(self.compute.device)
        self._val = self._data.val.sample(settings.val_images, settings.seed)
        self._drawn = self._data.train.sample(settings.bn_images, settings.seed)
        self._dense = self.compute.place(copy.deepcopy(model)).eval()
        self._reconstructions: dict[int, Reconstruction] = {}
        self._dresser = Dresser(self._dense, space)
        self._pairs = find_pairs(self._dense, self._inputs(2))

    def __call__(
        self, widths: Sequence[int], fidelity: str = "proxy", incumbent: Sequence[float] | None = None
    ) -> dict[str, Any]:
        """Score one candidate.

        Args:
            widths: [G] legal widths.
            fidelity: "raw", "proxy", "reconstructed", "short", "proxy:IMAGES", "short:STEPS" ...
            incumbent: "batch_losses" of the best candidate so far at this fidelity; a candidate that is clearly worse
                is abandoned. Ignored if it does not belong to these validation images.

        Returns:
            "loss" (the metric, lower is better; an estimate if abandoned), "top1" (fraction, of the images seen),
            "batch_losses" (means of 32 images each; empty for a metric that gives one number for all), "abandoned",
            "images" (validation images seen), "seconds_compute" (forward and backward passes) and "seconds_total".

        Raises:
            CandidateFailed: If the candidate runs out of memory, or its loss is not a number.
            ValueError: If the widths or the fidelity are not legal.
        """
        start, clock = time.perf_counter(), self.compute.stopwatch()
        settings = self.settings
        plan = settings.parse(fidelity)
        kept = self.space.kept(widths, self.scores)
        try:
            net = self._dresser.dress(kept).eval()
            if plan.fit_images:
                self.reconstruction(plan.fit_images)(net, kept, clock)
            trained = self._train(net, plan.steps) if plan.steps else 0.0
            if plan.bn_images:
                sample = self._sample(plan.bn_images)
                reestimate_evenly(net, self._data, sample, settings.batch_size, self.compute, clock)
            with Folded(net, self._pairs):
                metrics = self._validate(net, clock, incumbent if settings.abandon else None)
        except Diverged as error:
            raise CandidateFailed(str(error)) from error
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            if self.compute.device.type == "cuda":
                torch.cuda.empty_cache()
            raise CandidateFailed(f"out of memory on {self.compute.device} at widths {tuple(widths)}; lower the batch "
                                  f"size of {settings.batch_size}") from error  # fmt: skip
        if not math.isfinite(metrics["loss"]):
            raise CandidateFailed(f"metric '{settings.metric}' is {metrics['loss']} at widths {tuple(widths)}")
        metrics["seconds_compute"] = clock.seconds + trained
        metrics["seconds_total"] = time.perf_counter() - start
        return metrics

    def evaluate_dense(self) -> dict[str, Any]:
        """Score the dense network as it is, on the same validation images: what candidates are compared with.

        Raises:
            ValueError: If its metric is not a finite number.
        """
        metrics = self._validate(self._dense, self.compute.stopwatch(), None)
        if not math.isfinite(metrics["loss"]):
            raise ValueError(f"metric '{self.settings.metric}': must be a finite number for the dense network, but is "
                             f"{metrics['loss']} on {len(self._val)} validation images; check the weights, and that "
                             "the images are normalised as in its training")  # fmt: skip
        return metrics

    def reconstruction(self, images: int) -> Reconstruction:
        """What fits candidates on so many training images; kept, since it holds the dense network's answers."""
        if images not in self._reconstructions:
            made = Reconstruction(self._dense, self.space, self._inputs(images), self.compute, seed=self.settings.seed)
            self._reconstructions = {images: made}
        return self._reconstructions[images]

    def _sample(self, count: int) -> Split:
        """Training images; a smaller sample is the beginning of a larger one."""
        if len(self._drawn) < min(count, len(self._data.train)):
            self._drawn = self._data.train.sample(count, self.settings.seed)
        return self._drawn[:count]

    def _inputs(self, count: int) -> Tensor:
        """[count, C, H, W] the first of them, normalised."""
        return self._data.normalise(self._sample(count).images, self.compute.channels_last)

    def _train(self, net: nn.Module, steps: int) -> float:
        """Train for some steps; returns the seconds in forward and backward passes."""
        settings = self.settings
        log = finetune(
            net, self._data, steps=steps, learning_rate=settings.learning_rate, seed=settings.seed,
            batch=min(settings.batch_size, len(self._data.train)), device=self.compute.device, amp=self.compute.amp,
        )  # fmt: skip
        return log.seconds_compute

    def _validate(self, net: nn.Module, clock: Stopwatch, incumbent: Sequence[float] | None) -> dict[str, Any]:
        count = len(self._val)
        rival = list(incumbent) if incumbent is not None and len(incumbent) == math.ceil(count / BLOCK) else []
        values: list[Tensor] = []

        def stop(out: Tensor, labels: Tensor) -> bool:
            values.append(self._fitness(out, labels))
            return sum(map(len, values)) < count and hopeless(whole_blocks(torch.cat(values)), rival)

        batch_size = self.settings.batch_size
        out = answers(net, self._data, self._val, self.compute, batch_size, clock, stop if rival else None)
        labels = self._val.labels[: len(out)]
        fitness = self._fitness(out, labels)
        abandoned = len(out) < count
        return {
            "loss": estimate(whole_blocks(fitness), rival, count) if abandoned else float(fitness.double().mean()),
            "top1": quality.measure("top1", out, labels),
            "batch_losses": block_means(fitness) if fitness.shape == labels.shape else [],
            "abandoned": abandoned,
            "images": len(out),
        }

    def _fitness(self, out: Tensor, labels: Tensor) -> Tensor:
        """The metric, lower is better: per image [N], or one number."""
        value = torch.as_tensor(self._metric(out, labels)).float()
        if value.numel() != 1 and value.shape != labels.shape:
            raise ValueError(f"metric '{self.settings.metric}': expected one number or one per image, got shape "
                             f"{tuple(value.shape)}")  # fmt: skip
        return 1 - value if self.settings.metric == "top1" else value


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # the CPU allocator's words
