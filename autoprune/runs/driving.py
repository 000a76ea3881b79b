"""What happens to a network before the cut: a method drives out the units that will go, while it trains."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from autoprune.compute import Compute
from autoprune.config import RunConfig
from autoprune.config import replace as change
from autoprune.printable import decimals
from autoprune.report import RunProgress
from autoprune.report.pace import Stopwatch
from autoprune.report.tables import seconds
from autoprune.runs.levels import check_levels
from autoprune.runs.prepare import Prepared
from autoprune.runs.training import train
from autoprune.training import Method, Pruning, TrainingSettings, check_strength, plan_of, steps_of
from autoprune.training.methods import make
from search_spaces import Kept, NestedNetwork, copy_of

CUT = "cut"  # the method that does nothing: then all epochs come after the cut


def phase_of(config: RunConfig) -> RunConfig:
    """The settings of the part of the final training in which a method drives units out: at a constant rate."""
    part = config.epochs * config.prune_share
    # an average has units that are half gone; weights are rescaled once what goes is gone
    return change(config, epochs=part, lr_schedule="constant", ema=0.0, rescale=0)


def afterwards(config: RunConfig, spare: float = 0.0) -> RunConfig:
    """The settings of what is left of it after the cut; layers are not fitted to a network that has changed.

    Args:
        config: Of the run.
        spare: Epochs that a method was given and did not need.
    """
    if config.method:
        return change(config, epochs=config.epochs + spare, reconstruct=False)
    if not drives(config):
        return config
    return change(config, epochs=config.epochs * (1 - config.prune_share), reconstruct=False)


def drives(config: RunConfig) -> bool:
    """Whether a method works before the cut."""
    return config.recovery != CUT and config.epochs > 0


def check_recovery(config: RunConfig, prepared: Prepared, *, begun: bool = False) -> None:
    """Check, before anything is spent, that the method of `config.recovery` can drive units out in so many steps.

    Args:
        config: Of the run.
        prepared: The problem.
        begun: Whether the run is gone on with: then its method's strength is what it is.

    Raises:
        ValueError: If not, or there is none of that name.
    """
    if not drives(config):
        make(config.recovery, **config.recovery_args)
        return
    space, problem = prepared.space, prepared.problem
    pruning = pruning_of(prepared, space.kept(problem.project(space.full), problem.scores))
    method = make(config.recovery, pruning, **config.recovery_args)
    if method.finds:
        raise ValueError(f"recovery '{config.recovery}': finds the units that stay by itself, where a search has found "
                         "them before; use greg1, tpp, sfp, asfp, srfp, asrfp, iss or orthoreg")  # fmt: skip
    begin(method, prepared, phase_of(config), begun=begun)


def begin(method: Method, prepared: Prepared, config: RunConfig, *, begun: bool = False) -> None:
    """Let a method begin on a copy of the network: what it refuses, it refuses now; `begun`: see `check_recovery`."""
    plan, _ = plan_of(prepared.task, TrainingSettings.of(config), Compute.choose("cpu"))
    net = method.network(copy_of(prepared.model).train())
    if isinstance(net, NestedNetwork):
        check_levels(net, prepared.example)
    method.begin(net, plan)
    if not begun:
        check_strength(net, method, plan)


def drive_out(
    config: RunConfig, prepared: Prepared, kept: Kept, progress: RunProgress, checkpoint: Path | None
) -> tuple[nn.Module, Kept]:
    """Train the dense network with the method of `config.recovery` until what is not kept has no effect.

    Args:
        config: Which method, how long, at which rate.
        prepared: The problem.
        kept: Per group the units that stay.
        progress: Where to show progress.
        checkpoint: File of the training after the cut; that of this one stands beside it.

    Returns:
        The dense network, and the units that stay by now: as many, but some methods choose them anew.

    Raises:
        Diverged: If the training loss becomes NaN or infinite.
    """
    method = make(config.recovery, pruning_of(prepared, kept), **config.recovery_args)
    own = None if checkpoint is None else beside(checkpoint, config.recovery)
    dense, _ = train_with(method, prepared, phase_of(config), own, f"driving out ({config.recovery})", progress)
    return dense, method.kept() or kept


def train_with(
    method: Method, prepared: Prepared, phase: RunConfig, checkpoint: Path | None, doing: str, progress: RunProgress
) -> tuple[nn.Module, tuple[float, ...]]:
    """Train a copy of the dense network with a method.

    Args:
        method: Takes part.
        prepared: The problem.
        phase: The settings of this training.
        checkpoint: File that lets it go on after a stop; None: none.
        doing: What the user is told.
        progress: Where to show it.

    Returns:
        The network on the CPU, and the training loss of each step.

    Raises:
        Diverged: If the training loss becomes NaN or infinite.
    """
    task, net = prepared.task.without("test"), method.network(copy_of(prepared.model))
    steps = steps_of(task, phase)
    progress.begin(doing, steps)
    watch = Stopwatch(checkpoint)

    def listen(done: int, total: int, loss: float) -> None:
        left_s = watch(done, total).left_s
        progress.step(done, f"loss {decimals(loss)}", seconds(left_s) if left_s else "")

    log = train(
        phase,
        net,
        task,
        steps=steps,
        teacher=prepared.model if phase.distill else None,
        method=method,
        checkpoint=checkpoint,
        listener=listen,
    )
    progress.end()
    watch.over()
    prepared.model.cpu()
    return net.cpu(), log.losses


def beside(checkpoint: Path, method: str) -> Path:
    """Where the state of a method's training stands, beside that of the one after the cut."""
    return checkpoint.with_name(f"{checkpoint.stem}-{method.replace(':', '-')}{checkpoint.suffix}")


def pruning_of(prepared: Prepared, kept: Kept | None) -> Pruning:
    """What a method may prune in a run."""
    problem = prepared.problem
    return Pruning(problem.space, problem.scores, kept, problem.project, problem)
