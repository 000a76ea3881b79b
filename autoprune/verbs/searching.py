"""`search`, `train`, `resume`: the verbs that train and evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from autoprune.config import SETTINGS, RunConfig, explained
from autoprune.config.keywords import (
    CriterionLike,
    MetricLike,
    ResumeKeywords,
    SearchKeywords,
    StrategyLike,
)
from autoprune.modes import with_gradients
from autoprune.report import RunProgress, showing
from autoprune.runs import SearchResult
from autoprune.search import resume as go_on
from autoprune.search import search as begin
from autoprune.verbs.settling import Budget, Data, Model, brought, names, settled
from objectives import offering

SCORING = ("metric", "val_samples", "bn_samples", "batch_size")  # of the settings of a search, what a training uses
ONCE = {"strategy": "uniform", "trials": 1, "finalists": 0, "rungs": 1, "fidelity": "proxy"}  # its one candidate


@explained(SearchKeywords)
@with_gradients
def search(
    model: Model | None = None,
    data: Data | None = None,
    budget: Budget | None = None,
    *,
    config: RunConfig | str | Path | None = None,
    trust: bool = False,
    example_inputs: Any = None,
    progress: RunProgress | bool | None = None,
    callbacks: Sequence[Any] = (),
    **settings: Unpack[SearchKeywords],
) -> SearchResult:
    """Search the widths of a trained network under budgets, fine-tune the winner and export it.

    Args:
        model: The dense network, a function that builds it, or its name, "package.module:factory" (with
            `weights="file"`). A run of an nn.Module object can be resumed by `resume(run, model=...)` only, since
            nothing on disk says how to build it; so it is with every object that no name finds again.
        data: "digits", "cifar10:DIR", "cifar100:DIR", "imagefolder:DIR" or "package.module:function"; (train, test),
            (train, val, test) or a dictionary of these names, each a pair (images [N, C, H, W], labels [N]), a data
            set of (image, class number) or a `DataLoader` of one; such a data set alone, part of which validates; a
            function that returns any of these; an `autoprune.data.ImageData`; or, of any task, an `autoprune.Task`
            (`Task.of(train=loader, val=loader, loss=...)`).
        budget: One or several that must all hold: "macs<=50%", "params<=1.5M" ...; default "macs<=50%", or none where
            the whole trade-off is searched (`front="macs"`).
        config: Settings, or a TOML file of them; what is given besides wins over it.
        trust: What the file of `config` names may be imported, run and connected to (see SECURITY.md).
        example_inputs: What the network is called with: a tensor, or a tuple or dictionary of tensors; default one
            training sample.
        progress: True (the default): a bar in a terminal or a notebook, elsewhere a line now and then; False: nothing;
            or where to show it.
        callbacks: Of `ray.tune` (Weights & Biases, MLflow ...), where Ray runs the workers (`cluster`).
        **settings: See below. The criterion may also be a subclass of `autoprune.criteria.Criterion`, an instance, or a
            function that gives a group's tensors [C] scores; the strategy a subclass of
            `autoprune.strategies.Strategy`, an instance, or a function of (problem, seed, num_trials) that gives one;
            the metric a function of (logits, labels), or a class or an instance that is called so.

    Returns:
        The winner; all of the run is in `result.run_dir`.

    Raises:
        ValueError: If something is wrong with what was given; nothing has been written then.
        SearchStopped: If too many candidates fail, or none holds a latency budget when it is measured; the run can be
            resumed.
        DeliveredElsewhere: If it joined (`join`) a search and another controller delivers the winner.

    Example:
        result = autoprune.search(model, "cifar10:data", budget="macs<=50%")
    """
    model, data, given = settled("search", config, model, data, budget, settings, trust)
    if name := next((n for n in ("method", "prune_when") if given.get(n)), ""):
        raise ValueError(f"{name}: '{given[name]}' trains one network instead of searching, so strategy and trials "
                         "would play no part; type train instead of search, with the same settings")  # fmt: skip
    with showing(progress) as shown:
        return begin(model, data, example_inputs=example_inputs, progress=shown, callbacks=callbacks, **given)


@explained(SearchKeywords)
@with_gradients
def train(
    model: Model | None = None,
    data: Data | None = None,
    budget: Budget | None = None,
    *,
    config: RunConfig | str | Path | None = None,
    trust: bool = False,
    example_inputs: Any = None,
    progress: RunProgress | bool | None = None,
    **settings: Unpack[SearchKeywords],
) -> SearchResult:
    """Let a method find the units that stay under budgets while the dense network trains; fine-tune and export it.

    It ends as a search of one candidate: `resume`, `status`, `report`, `compare`, `finetune` and `export` work on it.

    Args:
        model: As in `search`; trained or not.
        data: As in `search`.
        budget: As in `search`.
        config: As in `search`.
        trust: As in `search`.
        example_inputs: As in `search`.
        progress: As in `search`.
        **settings: See below: method, method_epochs (of its training), method_args, epochs (of the fine-tune after it).

    Returns:
        What is delivered; all of the run is in `result.run_dir`.

    Raises:
        ValueError: If something is wrong with what was given; nothing has been written then.
        Diverged: If the training loss becomes NaN or infinite; the run can be resumed.

    Example:
        result = autoprune.train(model, "cifar10:data", "macs<=30%", method="slimming", method_epochs=20)
    """
    model, data, given = settled("train", config, model, data, budget, settings, trust)
    if not given.get("method") and not given.get("prune_when"):
        raise ValueError(f"method: missing; {SETTINGS['method'].help}")
    made, usual = RunConfig.make(**given), RunConfig()
    idle = {name for name, about in SETTINGS.items() if about.group == "search" and name not in SCORING}
    said = [
        name for name in SETTINGS if name in idle and getattr(made, name) not in (ONCE.get(name), getattr(usual, name))
    ]
    given = {name: value for name, value in given.items() if name not in idle} | ONCE
    with showing(progress) as shown:
        if said:
            shown.say(f"a training searches nothing, so these settings play no part: {', '.join(said)}")
        return begin(model, data, example_inputs=example_inputs, progress=shown, **given)


@explained(ResumeKeywords, of_run=True)
@with_gradients
def resume(
    run: str | Path,
    model: Model | None = None,
    data: Data | None = None,
    *,
    criterion: CriterionLike | None = None,
    strategy: StrategyLike | None = None,
    metric: MetricLike | None = None,
    restart: bool = False,
    allow_version_change: bool = False,
    trust: bool = False,
    progress: RunProgress | bool | None = None,
    callbacks: Sequence[Any] = (),
    **settings: Unpack[ResumeKeywords],
) -> SearchResult:
    """Go on with a run, exactly where it was stopped.

    Args:
        run: Its directory, results/<run>.
        model: The dense network, if the run was started with an object; or a function that builds it, or its name (with
            `weights="file"`), which the run remembers if these are its weights.
        data: The data, if the run was started with an object; or what names them.
        criterion: The criterion, if the run was started with an object that no name finds again.
        strategy: Likewise.
        metric: Likewise.
        restart: Begin the search anew; all that it has made is kept in before-restart-1/ in the run.
        allow_version_change: Go on with other versions of torch, optuna or autoprune than so far; it is noted in the
            ledger and shown in the report.
        trust: What the run names may be imported, run and connected to, though you have not had it called on this
            machine before (see SECURITY.md), and is remembered.
        progress: As in `search`.
        callbacks: As in `search`.
        **settings: What may change; see below.

    Returns:
        The winner.

    Raises:
        NotTrusted: If it names what you have not had called on this machine before; nothing of it was imported then.
        ValueError: If it is no run, another problem, or is being written by another process.
        DeliveredElsewhere: If it joined others and one of them delivers the winner.

    Example:
        result = autoprune.resume("results/small18", trials=200)
    """
    told: dict[str, Any] = {"restart": restart, "allow_version_change": allow_version_change, "trust": trust}
    with showing(progress) as shown, offering(names(criterion, strategy, metric)):
        net, source = brought(run, model, data, settings)
        return go_on(run, net, source, progress=shown, callbacks=callbacks, **told, **settings)
