"""The network of a weight-sharing adaptation, made once for each budget and seed, and the order of its channels."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from protocol import BATCH, CACHE, claim, dense_network, piece
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autoprune.config import RunConfig
from autoprune.criteria import Criterion, GroupTensors
from autoprune.data import ImageData
from autoprune.evaluation import measure
from autoprune.runs import prepare
from autoprune.training import Pruning, Sandwich, TrainingSettings, finetune

OTHER_IMAGES = 1000  # added to the seed: the first steps of the final training draw other images than the adaptation


class AdaptedOrder(Criterion):
    """The scores by which the adaptation ordered the channels: candidates must be the networks that were trained.

    Attributes:
        scores: Per group; set by `adapted`, for searches in this process.
    """

    name = "adapted_order"
    degree = 0
    scores: ClassVar[dict[str, Tensor]] = {}

    def score(self, group: GroupTensors) -> Tensor:
        """What is remembered of this group."""
        return self.scores[group.name]


@dataclass(frozen=True, eq=False)
class Adapted:
    """A dense network after its adaptation.

    Attributes:
        model: In eval mode.
        seconds: That the adaptation took.
        val: Its top-1 in percent on the held out images.
    """

    model: nn.Module
    seconds: float
    val: float


def adapted(folder: str, weights: Path, data: ImageData, budget: str, seed: int, steps: int) -> Adapted:
    """The adapted network, from the cache if it is there; `AdaptedOrder` answers with its order from then on.

    Args:
        folder: Of the pieces, within the cache.
        weights: Of the dense network.
        data: Its training images adapt.
        budget: MACs that may be kept, "50%": one network of each step keeps to it.
        seed: Of the scores and of the adaptation.
        steps: SGD steps.
    """
    name = f"{folder}/adapted-{steps}-{budget}-s{seed}"
    path = CACHE / f"{name}.safetensors"

    def make() -> dict[str, float]:
        problem = prepare(RunConfig.make(budget=f"macs<={budget}", seed=seed), dense_network(weights), data).problem
        space, begin = problem.space, time.perf_counter()
        model = dense_network(weights)
        settings = TrainingSettings(batch_size=BATCH, seed=seed + OTHER_IMAGES)
        method = Sandwich(Pruning(space, problem.scores, project=problem.project))
        finetune(model, data.without_test(), settings, steps=steps, method=method)
        seconds = time.perf_counter() - begin
        scores = {f"scores.{g.name}": torch.from_numpy(s) for g, s in zip(space.groups, problem.scores, strict=True)}
        save_file({k: v.contiguous() for k, v in {**model.state_dict(), **scores}.items()}, path)
        return {"seconds": seconds, "val": 100 * measure(model, data, "val")["top1"]}

    with claim(CACHE / f"{name}.lock", wait=True):
        once = piece(name, make)
    state = load_file(path)
    AdaptedOrder.scores = {k.removeprefix("scores."): state.pop(k) for k in list(state) if k.startswith("scores.")}
    model = dense_network(weights)
    model.load_state_dict(state)
    return Adapted(model, **once)
