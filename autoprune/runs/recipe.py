"""`Recipe`: how a worker builds its evaluator, here or in another process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from autoprune.config import RunConfig
from autoprune.controller import Job
from autoprune.data import ImageData
from autoprune.evaluation import EvaluationSettings, Evaluator
from autoprune.problem import Problem
from autoprune.reference import ModelReference
from autoprune.runs.prepare import load_data


@dataclass(frozen=True, eq=False)
class Recipe:
    """Picklable. Called with a device, it builds the model and the data there and returns job -> metrics.

    Attributes:
        config: The run's settings.
        problem: Space and scores: the very same in every worker.
        model: The dense network, where the settings do not say how to build it.
        data: The data, likewise.
    """

    config: RunConfig
    problem: Problem
    model: nn.Module | None = None
    data: ImageData | None = None

    def __call__(self, device: str) -> Callable[[Job], Mapping[str, Any]]:
        """What a worker process calls."""
        config = self.config
        model = self.model or ModelReference(config.model, config.model_args, config.weights).build()
        data = self.data or load_data(config, test=False)
        evaluate = self.evaluator(model, data, device)
        return lambda job: evaluate(job.widths, job.fidelity, job.incumbent)

    def evaluator(self, model: nn.Module, data: ImageData, device: str = "") -> Evaluator:
        """The evaluator of this run."""
        settings = replace(self.settings(), device=device or self.config.device)
        return Evaluator(model, data, self.problem.space, self.problem.scores, settings)

    def settings(self) -> EvaluationSettings:
        """How candidates are scored."""
        config = self.config
        return EvaluationSettings(
            bn_images=config.bn_images,
            val_images=config.val_images,
            short_steps=config.short_steps,
            reconstruct=config.reconstruct,
            batch_size=config.batch_size,
            learning_rate=config.lr,
            metric=config.metric,
            abandon=config.abandon,
            seed=config.seed,
            device=config.device,
        )

    def devices(self) -> tuple[str, ...]:
        """The devices that workers share: every GPU, unless one is named."""
        if self.config.device == "auto":
            return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count())) or ("cpu",)
        return (self.config.device,)
