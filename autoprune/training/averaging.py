"""The moving average of the weights, which is what is delivered then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from autoprune.compute import Compute
from autoprune.recovery import reestimate_evenly
from autoprune.tasks import Task

BN_SAMPLES = 1000  # statistics of the averaged weights are measured on so many
PREFIX = "module."  # of `AveragedModel`


class Average:
    """Exponential moving average of all parameters and buffers (Polyak & Juditsky 1992; Tarvainen & Valpola 2017).

    In step t the decay is at most (1 + t) / (10 + t), so that a short training is not held by where it began; as in
    https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage, `num_updates`.

    Args:
        model: On the device.
        decay: Of the average, 0 to 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay, self._steps = decay, 0
        self._model = AveragedModel(model, multi_avg_fn=self._mix, use_buffers=True)

    def update(self, model: nn.Module) -> None:
        """After a step."""
        self._steps += 1
        self._model.update_parameters(model)

    def _mix(self, averaged: Any, new: Any, count: Any) -> None:
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        get_ema_multi_avg_fn(decay)(averaged, new, count)

    def deliver(self, model: nn.Module, task: Task, seed: int, batch: int, compute: Compute) -> None:
        """Put the average into the model, with batch-norm statistics that are measured of it.

        The average of what was seen under other weights is not what these see.
        """
        model.load_state_dict(self._model.module.state_dict())
        if any(isinstance(m, _BatchNorm) and m.track_running_stats for m in model.modules()):
            reestimate_evenly(model, task, task.draw("calibration", BN_SAMPLES, seed), batch, compute)

    def state(self) -> dict[str, Any]:
        """All of it."""
        return {"steps": self._steps, "model": self._model.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._steps = state["steps"]
        self._model.load_state_dict(state["model"])


def averaged(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in a checkpoint that would be delivered: the average's, where there is one."""
    if not (found := state.get("average")):
        return dict(state["model"])
    return {name.removeprefix(PREFIX): value for name, value in found["model"].items() if name.startswith(PREFIX)}
