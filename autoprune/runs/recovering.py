"""The winner's weights: reconstructed and fine-tuned, or from before that, or the finalist's, whichever are best."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.compute import Compute
from autoprune.config import RunConfig
from autoprune.config import replace as change
from autoprune.errors import CandidateFailed
from autoprune.evaluation import Evaluator, measure
from autoprune.labels import Labels
from autoprune.printable import decimals
from autoprune.problem import Trial
from autoprune.recovery import Reconstruction, reestimate_evenly
from autoprune.reference import broken_weight
from autoprune.report import RunProgress, apart
from autoprune.report.pace import Stopwatch
from autoprune.report.tables import seconds
from autoprune.runs.prepare import Prepared
from autoprune.runs.telling import TRAINING, curve
from autoprune.runs.trainer import TrainerRun, trained_by
from autoprune.runs.training import train
from autoprune.settings import TrainingSettings
from autoprune.tasks import Task, goal_of
from autoprune.training import steps_of
from autoprune.training.schedules import ADAPTIVE, adaptive_start
from search_spaces import Kept, copy_of, prune

# Once per run, so more than the search can afford for each candidate: on ResNet-20 at half its MACs 4,000 instead of
# 500 gave 0.4 points after an epoch.
FIT_SAMPLES = 4000
MINIMISED = "minimised"  # among what is measured of a network; it goes no further


def recover(
    config: RunConfig,
    prepared: Prepared,
    model: nn.Module,
    kept: Kept,
    progress: RunProgress,
    checkpoint: Path | None,
    finalist: Mapping[str, Tensor] | None = None,
) -> tuple[nn.Module, dict[str, dict[str, Any]]]:
    """Give a pruned network its accuracy back.

    A fine-tune may do harm, where there is little data or the learning rate is too high for it: what it started from,
    or the weights that won as a finalist, is delivered then, whichever is best by what the run minimises on the
    validation images, and the user is told. A run that was killed in the middle comes to the same: what was before is
    made and measured again, from the same images.

    Args:
        config: How long, at which rate.
        prepared: The problem.
        model: As `prune` made it; changed in place.
        kept: Per group the kept units it was made with.
        progress: Where to show progress.
        checkpoint: File that lets the fine-tune go on after a stop; None: none.
        finalist: The weights that the network was scored with after a short fine-tune; None: there was none.

    Returns:
        The network to deliver, and what was measured on the validation samples "before_finetune_val", "finalist_val"
        and "after_finetune_val", of those that there are: "loss", the task's scores, the run's metric, each if it is a
        finite number, and "delivered": whether it is that one; "training": the fine-tune's curve (see `telling`), and
        how much of its loss is the teacher's ("distill"). Nothing if there is no fine-tune and no finalist.

    Raises:
        Diverged: If the training loss becomes NaN or infinite.
    """
    task = prepared.task
    steps = steps_of(task, config)
    rival = None if finalist is None else _holding(model, finalist)
    if config.reconstruct and rival is None:
        _reconstruct(config, prepared, model, kept)
    if not steps and rival is None:
        _reestimate(model, task, config)
        return model, {}
    nets = {"before_finetune": copy_of(model) if steps else model}
    _reestimate(nets["before_finetune"], task, config)
    if rival is not None:
        nets["finalist"] = rival
    told: dict[str, dict[str, Any]] = {}
    found = {name: _validate(net, task, config) for name, net in nets.items()}
    for net in nets.values():
        net.cpu()
    if steps and rival is not None and _best(found, config) == "finalist":
        model.load_state_dict(rival.state_dict())  # goes on from there
    if steps and config.trainer:
        model = _by_trainer(config, prepared, model.cpu(), checkpoint, progress)
        nets["after_finetune"], found["after_finetune"] = model, _validate(model, task, config)
    elif steps:
        told[TRAINING] = _finetune(_adapted(config, prepared, kept), prepared, model, steps, checkpoint, progress)
        nets["after_finetune"], found["after_finetune"] = model, _settle(model, task, config)
    best = _best(found, config)
    if steps and best != "after_finetune":
        progress.say(_harm(best, found, config, task.labels()))
    told |= {f"{name}_val": {**_finite(said), "delivered": name == best} for name, said in found.items()}
    return nets[best], told


def _adapted(config: RunConfig, prepared: Prepared, kept: Kept) -> RunConfig:
    """With the peak rate that an adaptive schedule takes for this cut."""
    if config.lr_schedule != ADAPTIVE:
        return config
    dense = prepared.trained or prepared.model
    whole, left = (
        [p.detach() for p in net.parameters() if p.dim() > 1] for net in (dense, prune(dense, prepared.space, kept))
    )
    squares, counts = ([float(sum(f(p) for p in found)) for found in (whole, left)] for f in (_square, Tensor.numel))
    change_of_weights = math.sqrt(max(0.0, 1 - squares[1] / max(squares[0], 1e-30)))
    share = config.epochs / config.lr_original_epochs if config.lr_original_epochs else 0.0
    factor = adaptive_start(change_of_weights, 1 - counts[1] / counts[0], share)
    return change(config, lr=config.lr * factor)


def _square(weights: Tensor) -> float:
    return float(weights.double().square().sum())


def _finetune(
    config: RunConfig, prepared: Prepared, model: nn.Module, steps: int, checkpoint: Path | None, progress: RunProgress
) -> dict[str, Any]:
    """Train the network in place; the curve of its loss, and how much of that is the teacher's."""
    progress.begin("fine-tuning", steps)
    watch = Stopwatch(checkpoint)

    def listen(done: int, total: int, loss: float) -> None:
        left_s = watch(done, total).left_s
        progress.step(done, f"loss {decimals(loss)}", seconds(left_s) if left_s else "")

    teacher = prepared.model if config.distill else None
    task = prepared.task.without("test")
    log = train(config, model, task, steps=steps, teacher=teacher, checkpoint=checkpoint, listener=listen)
    progress.end()
    return {**curve(log.losses), "distill": config.distill}


def _by_trainer(
    config: RunConfig, prepared: Prepared, model: nn.Module, checkpoint: Path | None, progress: RunProgress
) -> nn.Module:
    """The network as the user's trainer gives it back."""
    progress.say(f"trainer '{config.trainer}' trains the network")
    with tempfile.TemporaryDirectory() as passing:  # for where nothing is kept
        folder = Path(passing) if checkpoint is None else checkpoint.with_suffix("")
        run = TrainerRun(
            prepared.task.without("test"), TrainingSettings.of(config), folder, prepared.model.cpu(), prepared.example
        )
        return trained_by(config.trainer, model, run, progress.say)


def finalist_weights(evaluate: Evaluator, trial: Trial, say: Callable[[str], None]) -> dict[str, Tensor] | None:
    """The weights that a trial was scored with, which whoever trained it has left; else it is trained once more."""
    gone = f"the weights that trial {trial.number} was scored with are not in this run's directory"
    again = f"{gone}: its {trial.fidelity} training is repeated"
    try:
        return evaluate.trained(trial.widths, trial.fidelity, lambda: say(again))
    except CandidateFailed as error:
        say(f"it failed, so they are not compared: {error}")
        return None


def _holding(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy with other weights."""
    net = copy_of(model)
    net.load_state_dict(weights)
    return net.eval()


def _best(found: Mapping[str, Mapping[str, float]], config: RunConfig) -> str:
    """The one whose metric is the lowest; of equals, and where none is a number, the one that was trained longest."""
    order = [name for name in ("after_finetune", "finalist", "before_finetune") if name in found]
    losses = {name: _minimised(found[name]) for name in order}
    return min(order, key=lambda name: math.inf if math.isnan(losses[name]) else losses[name])


def _harm(best: str, found: Mapping[str, Mapping[str, float]], config: RunConfig, labels: Labels) -> str:
    """What the fine-tune did, and what is delivered instead."""
    metric = labels.score(config.metric).minimised
    was, is_now = apart(*(_minimised(found[name]) for name in (best, "after_finetune")))
    if best == "before_finetune":
        return (
            f"the fine-tune raised the validation {metric} from {was} to {is_now}: the network from before it is "
            f"delivered; a smaller --lr than {config.lr:g} may help"
        )
    return (
        f"after the fine-tune the validation {metric} is {is_now}, and {was} with the weights that won as a finalist: "
        "those are delivered; more --epochs or a smaller --lr may help"
    )


def _reconstruct(config: RunConfig, prepared: Prepared, model: nn.Module, kept: Kept) -> None:
    """Fit the layers of the pruned network to the dense one's outputs, as the evaluator does, on more images."""
    compute = Compute.choose(config.device, config.amp)
    dense = compute.place(copy_of(prepared.model)).eval()
    fit = Reconstruction.on(dense, prepared.space, prepared.task, FIT_SAMPLES, compute, config.seed)
    with compute.placed(model) as net:
        fit(net.eval(), kept)
    prepared.task.forget()  # more samples than anything after it wants


def _reestimate(model: nn.Module, task: Task, config: RunConfig) -> None:
    """Batch-norm statistics as the evaluator takes them."""
    compute = Compute.choose(config.device, config.amp)
    task = task.without("test").on(compute)
    drawn = task.draw("calibration", config.bn_samples, config.seed)
    with compute.placed(model) as net:
        reestimate_evenly(net, task, drawn, config.batch_size, compute)


def _settle(model: nn.Module, task: Task, config: RunConfig) -> dict[str, float]:
    """Re-estimate batch-norm after a fine-tune, unless its own running averages validate better.

    They lag behind the weights: after six steps at momentum 0.1 half of what they hold belongs to the dense network.

    Returns:
        What is measured on the validation images then.
    """
    lagging = _validate(model, task, config)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return lagging
    running = [copy.deepcopy(dict(m.named_buffers())) for m in norms]
    _reestimate(model, task, config)
    settled = _validate(model, task, config)
    if not _is_worse(_minimised(settled), _minimised(lagging)):
        return settled
    for norm, buffers in zip(norms, running, strict=True):
        for name, buffer in norm.named_buffers():
            buffer.copy_(buffers[name])
    return lagging


def _validate(model: nn.Module, task: Task, config: RunConfig) -> dict[str, float]:
    """Everything that is measured, and what the run minimises as "minimised": NaN where a weight is, used or not."""
    found = measure(model, task, "val", metric=config.metric, device=config.device, amp=config.amp)
    worth = math.nan if broken_weight(model) else goal_of(config.metric, task).loss(found[config.metric])
    return {**found, MINIMISED: worth}


def _minimised(found: Mapping[str, float]) -> float:
    """The metric of the run, lower is better."""
    return found[MINIMISED]


def _is_worse(found: float, before: float) -> bool:
    """Whether it is higher than it was, or no longer a number."""
    return not (found <= before or math.isnan(before))


def _finite(found: Mapping[str, float]) -> dict[str, float]:
    """Without what no JSON can say."""
    return {name: value for name, value in found.items() if name != MINIMISED and math.isfinite(value)}
