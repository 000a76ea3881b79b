"""A method finds the units that stay while the dense network trains; then the run is a search of one candidate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from autoprune.config import RunConfig
from autoprune.config import replace as change
from autoprune.criteria import score_all
from autoprune.criteria.saved import save_scores
from autoprune.reference import save_weights
from autoprune.report import RunProgress
from autoprune.runs.directory import RunDirectory
from autoprune.runs.driving import begin, pruning_of, train_with
from autoprune.runs.levels import levels_of
from autoprune.runs.prepare import Prepared
from autoprune.runs.telling import curve
from autoprune.training import Method
from autoprune.training.methods import METHODS, make
from autoprune.training.methods.sooner import Sooner
from autoprune.training.methods.waiting import WaitingUnits
from objectives import find
from search_spaces import NestedNetwork

ADAPTED = "adapted.safetensors"  # in the run: the dense weights that serve every width, and their scores beside
FINDING = ("greg2", "increg", "slimming", "polarization", "chex")


def phase_of(config: RunConfig) -> RunConfig:
    """The settings of the training in which units are found: no average of weights, some of which are half gone."""
    return change(config, epochs=config.epochs_with_method, ema=0.0, rescale=0)


def check_method(config: RunConfig, prepared: Prepared, *, begun: bool = False) -> str:
    """Check, before anything is spent, that the method of a run can find units in this network, in so many steps.

    Args:
        config: Of the run.
        prepared: The problem.
        begun: See `check_recovery`.

    Returns:
        What is to be said of it before the training, in a line; empty for nothing.

    Raises:
        ValueError: If not, or it does not fit the other settings.
    """
    if not config.method:
        return ""
    method = _made(config, prepared)
    if not method.finds:
        raise ValueError(f"method '{config.method}': is given the units that stay and finds none; use it as the "
                         f"--recovery of a search, or one that finds them, e.g. {', '.join(FINDING)}")  # fmt: skip
    begin(method, prepared, phase_of(config), begun=begun)
    return method.caveat()


def find_units(run: RunDirectory, prepared: Prepared, progress: RunProgress) -> Prepared:
    """The run with the network that its method has trained, and with the units that it found as the only candidate.

    What has been trained stands in the run's folder of checkpoints; a run that was delivered keeps what was found.

    Raises:
        Diverged: If the training loss becomes NaN or infinite; the run can be resumed.
    """
    config, method = run.config, _made(run.config, prepared)
    checkpoint = run.checkpoint / f"method-{config.method.replace(':', '-')}.pt"
    doing = f"training with {config.method}"
    net, losses = train_with(method, prepared, phase_of(config), checkpoint, doing, progress)
    steps, course = len(losses), curve(losses) if losses else {}
    kept = method.kept()
    assert kept is not None  # of a method that finds
    net, widths = net.eval(), tuple(len(k) for k in kept)
    if method.ordered:
        nested = net if isinstance(net, NestedNetwork) else None
        progress.say(f"trained with {config.method} in {steps} steps")
        if nested is not None:
            net = nested.spread(prepared.model)
        elif not (path := run.path / ADAPTED).exists():
            save_scores(path.with_suffix(".scores.safetensors"), prepared.space, prepared.problem.scores)
            save_weights(net, path)
            progress.say(f"other budgets: search the network that serves every width with --weights {path} --criterion "
                         f"{path.with_suffix('.scores.safetensors')}")  # fmt: skip
        problem, epochs = replace(prepared.problem, found=widths), config.method_epochs
        return replace(prepared, problem=problem, trained=net, nested=nested, method_epochs=epochs, course=course)
    norms = score_all("magnitude", net, prepared.space)
    # What is kept comes first; at another budget, the larger filters of it.
    scores = tuple(
        np.isin(np.arange(len(n)), k) + n / max(n.max(), 1e-30) / 2 for n, k in zip(norms, kept, strict=True)
    )
    early, settled = 0, ""
    if isinstance(method, (Sooner, WaitingUnits)):
        early = method.settled_after
        settled = (
            "; the choice had not settled and was made at the end (more method_epochs or a smaller 'last' may help)"
        )
        if early:
            settled = f"; the choice had settled after {early} of {config.method_epochs:g} epochs"
    epochs = early or config.method_epochs
    progress.say(f"{config.method} found {sum(widths)} of {sum(prepared.space.full)} units in {steps} steps{settled}")
    problem = replace(prepared.problem, scores=scores, norms=None, found=widths)
    spare = config.method_epochs - epochs
    told: dict[str, Any] = {"method_epochs": epochs, "spare": spare, "course": course}
    return replace(prepared, problem=problem, trained=net, units=kept, **told)


def _made(config: RunConfig, prepared: Prepared) -> Method:
    pruning = pruning_of(prepared, None)
    if config.is_nested:
        pruning = replace(pruning, levels=levels_of(config, prepared.problem))
    method = make(config.method, pruning, **config.method_args)
    if not config.prune_when:
        return method
    rules = {name: kind for name, kind in METHODS.items() if issubclass(kind, WaitingUnits)}
    find("prune_when", config.prune_when, rules)
    rule = make(config.prune_when, pruning, **config.prune_when_args)
    if not isinstance(rule, WaitingUnits):
        raise ValueError(
            f"prune_when '{config.prune_when}': must be a subclass of WaitingUnits; {', '.join(rules)} are"
        )
    return Sooner(method, rule)
