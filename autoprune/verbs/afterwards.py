"""`finetune`, `export`, `attach`: what can be done with a run afterwards."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import Unpack

from autoprune import runs
from autoprune.config import explained
from autoprune.config.keywords import (
    AttachKeywords,
    CriterionLike,
    ExportKeywords,
    FinetuneKeywords,
    MetricLike,
    StrategyLike,
)
from autoprune.modes import with_gradients
from autoprune.report import RunProgress, showing
from autoprune.runs.trained import Trained
from autoprune.verbs.settling import Budget, Data, Model, brought, names
from objectives import offering


@explained(FinetuneKeywords, of_run=True)
@with_gradients
def finetune(
    run: str | Path,
    model: Model | None = None,
    data: Data | None = None,
    *,
    trial: int | None = None,
    to: str | Path | None = None,
    criterion: CriterionLike | None = None,
    strategy: StrategyLike | None = None,
    metric: MetricLike | None = None,
    trust: bool = False,
    progress: RunProgress | bool | None = None,
    **settings: Unpack[FinetuneKeywords],
) -> Path:
    """Fine-tune the winner of a run (or another trial) from the dense weights, with other settings, and export it.

    Args:
        run: Its directory, results/<run>.
        model: As in `resume`.
        data: As in `resume`.
        trial: Number of a trial; default the winner.
        to: Where the export goes; default finetuned/ in the run, or finetuned-N/.
        criterion: As in `resume`.
        strategy: As in `resume`.
        metric: As in `resume`.
        trust: As in `resume`.
        progress: As in `search`.
        **settings: What may change; see below.

    Returns:
        Where the export is: `autoprune.load` reads it.

    Raises:
        LedgerMismatch: If the model or the data is no longer what the run was begun with.
        ValueError: If it is no run, or something else is where the export should go.

    Example:
        directory = autoprune.finetune("results/small18", epochs=30, distill=0.5)
    """
    with showing(progress) as shown, offering(names(criterion, strategy, metric)):
        net, source = brought(run, model, data, settings)
        return runs.finetune(run, net, source, trial=trial, to=to, trust=trust, progress=shown, **settings)


@explained(ExportKeywords, of_run=True)
@with_gradients
def export(
    run: str | Path,
    model: Model | None = None,
    data: Data | None = None,
    *,
    trial: int | None = None,
    budget: Budget = (),
    to: str | Path | None = None,
    criterion: CriterionLike | None = None,
    strategy: StrategyLike | None = None,
    metric: MetricLike | None = None,
    trust: bool = False,
    progress: RunProgress | bool | None = None,
    **settings: Unpack[ExportKeywords],
) -> Path:
    """Export the winner of a run again (with ONNX, say), another trial of it, or its ranking cut at another budget.

    With a budget the winner's learnt ranking of all units is cut where the budget needs it, without a new search; the
    smaller of two networks from one trial is nested in the larger one. A search of a whole front evaluated candidates
    of all sizes: there it is the best one of them that holds the budget.

    Args:
        run: Its directory, results/<run>.
        model: As in `resume`.
        data: As in `resume`, for another trial or budget.
        trial: Number of a trial; default the winner, fine-tuned unless there is a budget.
        budget: One or several that must all hold, instead of the run's.
        to: Where the export goes; default best/ in the run, trial-N/, or a name made from the budget.
        criterion: As in `resume`.
        strategy: As in `resume`.
        metric: As in `resume`.
        trust: As in `resume`; nothing is called where the winner's files are copied.
        progress: As in `search`.
        **settings: What may change; see below. epochs (default 0: batch-norm is re-estimated), lr and distill are for
            another budget.

    Returns:
        Where the export is: `autoprune.load` reads it.

    Raises:
        InfeasibleBudget: If the smallest network exceeds the budget, or all that a front evaluated do.
        LedgerMismatch: If a network has to be made and the model or the data is not what the run was begun with.
        ValueError: If it is no run, or something else is where the export should go.

    Example:
        directory = autoprune.export("results/small18", budget="macs<=30%", epochs=5, onnx=True)
    """
    budgets = budget if isinstance(budget, str) else tuple(budget)
    with showing(progress) as shown, offering(names(criterion, strategy, metric)):
        net, source = brought(run, model, data, settings)
        return runs.export_run(
            run, net, source, trial=trial, budget=budgets, to=to, trust=trust, progress=shown, **settings
        )


@explained(AttachKeywords, of_run=True)
@with_gradients
def attach(
    run: str | Path,
    weights: Trained | str | Path,
    model: Model | None = None,
    data: Data | None = None,
    *,
    to: str | Path | None = None,
    criterion: CriterionLike | None = None,
    strategy: StrategyLike | None = None,
    metric: MetricLike | None = None,
    trust: bool = False,
    progress: RunProgress | bool | None = None,
    **settings: Unpack[AttachKeywords],
) -> Path:
    """Make a network that was trained elsewhere the one that a run delivers: `load(".../best")`, trained as you like.

    It is checked, measured on the validation and test samples, and exported with the formats that the run asked for or
    that are there. What was delivered before is kept beside it (best-replaced-1 ...). A process that dies in the middle
    leaves the old network or the new one.

    Args:
        run: Its directory, results/<run>.
        weights: A file (.safetensors or a torch state dict), a state dict, or the network itself: `result.model`,
            `load(".../best")`, also in a wrapper of torch (DistributedDataParallel, torch.compile, AveragedModel).
        model: As in `resume`; only its architecture is used.
        data: As in `resume`.
        to: Which export of the run gets the weights; default best/, what the run delivers.
        criterion: As in `resume`.
        strategy: As in `resume`.
        metric: As in `resume`.
        trust: As in `resume`.
        progress: As in `search`.
        **settings: What may change; see below.

    Returns:
        Where the export is: `autoprune.load` reads it.

    Raises:
        LedgerMismatch: If the data is not what the run was begun with.
        RunIsLive: If another process is writing the run.
        ValueError: If it is no run or has no winner yet, or the weights are not those of its network (of the dense one,
            of another trial, NaN ...).

    Example:
        autoprune.attach("results/small18", "mine.safetensors", onnx=True)
    """
    with showing(progress) as shown, offering(names(criterion, strategy, metric)):
        net, source = brought(run, model, data, settings)
        return runs.attach(run, weights, net, source, to=to, trust=trust, progress=shown, **settings)
