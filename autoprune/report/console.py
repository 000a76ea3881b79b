"""What the commands print: a profile, a result, the report of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.architecture import read_architecture
from autoprune.files import DiskError
from autoprune.labels import Labels
from autoprune.ledger import Record, writers
from autoprune.problem import Trial
from autoprune.report.activity import Activity
from autoprune.report.best import best_table, verdicts_of
from autoprune.report.dense_latency import print_quality
from autoprune.report.ending import ending
from autoprune.report.fronts import print_front
from autoprune.report.gloss import key
from autoprune.report.result import Result
from autoprune.report.rows import attached_words, rows_of
from autoprune.report.sheet import Out, console
from autoprune.report.tables import (
    branches_table,
    comparison_table,
    counted,
    frozen_table,
    groups_table,
    number,
    reachable_table,
    removed,
)
from autoprune.report.took import took
from autoprune.report.trained import found, plan
from autoprune.report.trials import counts, evaluated, front_table, proxy_quality, write_csv
from autoprune.report.workers import failures_table
from autoprune.schedule import is_cached
from autoprune.trust import reading
from objectives import Feasibility, parse
from objectives.guard import may_find

if TYPE_CHECKING:
    from autoprune.runs.directory import RunDirectory
    from autoprune.runs.prepare import Prepared


def print_profile(prepared: Prepared, cost: str, out: Out | None = None) -> None:
    """Groups, frozen groups, what can be reached, what the run will cost."""
    out = out or console()
    out.print(groups_table(prepared.space))
    if prepared.space.frozen:
        out.print(frozen_table(prepared.space))
    if prepared.space.vanishing is not None:
        out.print(branches_table(prepared.space))
    out.print(reachable_table(prepared.problem.feasibility))
    print_quality(out, prepared)
    if prepared.divisors:
        out.print(prepared.divisors, markup=False, soft_wrap=True)
    out.print(cost, markup=False, soft_wrap=True)


def print_result(result: Result) -> None:
    """The winner against the dense network, and where its files are."""
    out = console()
    _print_source(out, result.origin.architecture)
    labels = Labels.of(result.run_dir)
    out.print(comparison_table("dense and pruned", rows_of(result.metrics, result.costs, labels)))
    out.print(f"run     {result.run_dir}", markup=False, soft_wrap=True)
    _print_files(out, result.run_dir / "best")


def print_export(directory: str | Path) -> None:
    """What an export holds against the dense network, and its files.

    Args:
        directory: What `autoprune.exporting.export` wrote.
    """
    out, directory = console(), Path(directory)
    data = read_architecture(directory)
    _print_source(out, data)
    labels = Labels.of(directory.parent)
    out.print(comparison_table("dense and pruned", rows_of(data["metrics"], data["costs"], labels)))
    _print_files(out, directory)


@reading()
def print_report(run: RunDirectory, out: Out | None = None) -> None:
    """What a run did; writes its trials.csv anew from the ledger, or says why that cannot be."""
    out = out or console()
    record, metric, score = run.record(), run.metric, run.labels.headline
    trials, activity = record.trials, Activity.of(record)
    space = run.space()
    latency = run.latency()
    out.print(f"{run.path}: {run.config.model or 'an nn.Module object'}, {run.config.goal}", markup=False)
    is_live = bool(writers(run.path, record, run.config.ledger, run.study))
    if run.config.method:
        _print_training(out, run, record)
        _print_time(out, run, trials)
        _print_end(out, run, record, is_live)
        _print_delivered(out, run)
        _print_faults(out, run, activity)
        if trials:
            _print_table(out, run, trials, "costs and widths as a table")
        return
    out.print(f"evaluated: {evaluated(trials, run.config)} ({counts(trials, live=is_live)})", markup=False)
    _print_time(out, run, trials)
    if activity.pace:
        out.print(f"pace: {activity.pace}, by {counted(len(activity.workers), 'worker')}")
    _print_end(out, run, record, is_live)
    out.print(best_table(trials, metric, verdicts_of(run, record), score=score))
    out.print(key(run.config, space), markup=False)
    out.print(proxy_quality(trials, metric), markup=False)
    if run.config.front:
        print_front(out, run, record)
    elif (first := parse(run.config.budget[0])).metric in latency or (
        not first.target and may_find("cost", first.metric)
    ):
        candidates = [t for t in trials if t.fidelity == run.config.fidelity]
        if front := front_table(candidates, Feasibility(space, (first,), costs=latency), first.metric, metric, score):
            out.print(front)
    _print_delivered(out, run)
    _print_faults(out, run, activity)
    _print_table(out, run, trials, "all trials")


def _print_time(out: Out, run: RunDirectory, trials: list[Trial]) -> None:
    """How long what took; how much of the evaluations is in the network."""
    export = read_architecture(run.best) if (run.best / "architecture.json").is_file() else None
    if said := took(trials, export):
        out.print(f"took: {said}", markup=False, soft_wrap=True)
    spent = sum(t.seconds for t in trials)
    compute = sum(float(t.metrics.get("seconds_compute", 0)) for t in trials if not is_cached(t))
    if spent and not run.config.method:
        out.print(f"evaluations: {100 * compute / spent:.0f} % of their time in forward and backward passes")


def _print_training(out: Out, run: RunDirectory, record: Record) -> None:
    """What a training with a method was told, and what it removed."""
    for label, text in plan(run.config):
        out.print(f"{label.lower()}: {text}", markup=False, soft_wrap=True)
    export = read_architecture(run.best) if (run.best / "architecture.json").is_file() else None
    if leader := run.leader(record):
        said = found(run.config, run.space(), export["widths"] if export else leader.widths, export)
        out.print(f"found: {said}", markup=False, soft_wrap=True)


def _print_end(out: Out, run: RunDirectory, record: Record, is_live: bool) -> None:
    """With which versions it ran, and why it does not go on."""
    from autoprune.ledger.versions import seen_by, told

    if others := told(seen_by(record)):
        out.print(f"versions: {others}", markup=False, soft_wrap=True)
    if end := ending(run, record, is_live):
        out.print(f"{end.label}: {end}", markup=False, soft_wrap=True)


def _print_faults(out: Out, run: RunDirectory, activity: Activity) -> None:
    """What failed, and what was left out because the user has not allowed it."""
    from autoprune.config.calls import not_called

    if activity.failures:
        out.print(failures_table(activity))
    if names := not_called(run.config):
        out.print(f"not called here, as you have not had it called before (--trust): {names}", markup=False)


def _print_delivered(out: Out, run: RunDirectory) -> None:
    """The network that was delivered, if one was, against the dense one."""
    if not (run.best / "architecture.json").is_file():
        return
    data, space = read_architecture(run.best), run.space()
    out.print(groups_table(space, data["widths"]))
    if said := removed(space, data["widths"]):
        out.print(f"removed: {said}", markup=False, soft_wrap=True)
    _print_source(out, data)
    out.print(comparison_table("dense and pruned", rows_of(data["metrics"], data["costs"], run.labels)))


def _print_table(out: Out, run: RunDirectory, trials: list[Trial], title: str) -> None:
    """Write trials.csv, and say where it is or why it could not be written."""
    space = run.space()
    feasibility = Feasibility(space, (), costs=run.latency())
    costs = {t.number: feasibility.price(t.widths) for t in trials}
    table = f"{title}: {run.path / 'trials.csv'}"
    try:
        write_csv(
            run.path / "trials.csv", trials, costs, [g.name for g in space.groups], run.metric, run.labels.headline
        )
    except DiskError as error:  # a run on a full or read-only disk can be looked at all the same
        table = str(error)
    out.print(table, markup=False, soft_wrap=True)


def _print_source(out: Out, architecture: Mapping[str, Any]) -> None:
    if words := attached_words(architecture):
        out.print(f"network: {words}", markup=False, soft_wrap=True)


def _print_files(out: Out, directory: Path) -> None:
    """Where an export is, what it consists of, and the line that loads it."""
    files = ", ".join(f"{p.name} ({number(p.stat().st_size)}B)" for p in sorted(directory.iterdir()))
    needed = "" if read_architecture(directory)["model"].get("factory") else ", model=your_dense_network"
    out.print(f"export  {directory}: {files}", markup=False, soft_wrap=True)
    out.print(f'load    autoprune.load("{directory}"{needed})', markup=False, soft_wrap=True)
