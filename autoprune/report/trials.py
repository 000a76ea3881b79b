"""A run's trials as a CSV table and as a text report."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from autoprune.config import RunConfig
from autoprune.fidelity import FINAL
from autoprune.files import write_text
from autoprune.labels import TOP1, Score
from autoprune.printable import decimals
from autoprune.problem import Trial, TrialState
from autoprune.report.fitting import FittingTable
from autoprune.report.tables import counted, number, percent
from autoprune.schedule import is_cached, ranked
from objectives import Feasibility, is_latency

FEWEST = 3  # finalists whose order tells anything
COLUMNS = ("trial", "state", "fidelity", "seconds", "worker", "error")  # whatever scores, costs and layers are called
FORMULA = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\n",
    "＝",
    "＋",
    "－",
    "＠",
)  # with what a spreadsheet takes a text for a formula


def write_csv(
    path: Path,
    trials: Iterable[Trial],
    costs: Mapping[int, Mapping[str, float]],
    groups: Sequence[str],
    metric: str = "loss",
    score: Score = TOP1,
) -> None:
    """Write one row per trial: what became of it, its costs (by trial number), and one column of kept units per group.

    Texts that a spreadsheet would run begin with an apostrophe (see `quoted`). `metric` is what the loss is called; a
    score of the task stands beside it, if it is another number. No two columns have one name.

    Raises:
        DiskError: If it cannot be written.
    """
    text = io.StringIO()
    names = list(next(iter(costs.values()), {}))
    writer = csv.writer(text, lineterminator="\n")
    scores = score.beside(metric)
    taken = set(COLUMNS)
    minimised, *others = (
        _unlike(taken, name, kind)
        for kind, some in (
            ("minimised", [metric]),
            ("score", [s.name for s in scores]),
            ("cost", names),
            ("kept", groups),
        )
        for name in some
    )
    columns = [*COLUMNS[:3], minimised, *others[: len(scores)], *COLUMNS[3:], *others[len(scores) :]]
    writer.writerow(map(quoted, columns))
    for trial in trials:
        loss = f"{trial.loss:.6g}" if math.isfinite(trial.loss) else ""
        known = [each.number(trial.metrics) for each in scores]
        writer.writerow(
            [
                trial.number,
                trial.state.value,
                quoted(trial.fidelity),
                loss,
                *("" if math.isnan(value) else f"{value:.6g}" for value in known),
                f"{trial.seconds:.3f}",
                quoted(trial.worker),
                quoted(trial.error),
                *(f"{costs[trial.number][n]:.12g}" for n in names),
                *trial.widths,
            ]
        )
    write_text(path, text.getvalue())


def _unlike(taken: set[str], name: str, kind: str) -> str:
    """A name for a column that none before it has; its kind tells two apart that are called the same."""
    while name in taken:
        name = f"{name} ({kind})"
    taken.add(name)
    return name


def quoted(text: str) -> str:
    """A cell that no spreadsheet runs: an apostrophe before what looks like a formula; numbers stay as they are."""
    try:
        float(text)
    except ValueError:
        text = text.replace("\r\n", "\n").replace("\r", "\n")  # a bare one would begin a row
        return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text
    return text


def front_table(
    trials: Iterable[Trial], feasibility: Feasibility, name: str, metric: str = "loss", score: Score = TOP1
) -> FittingTable | None:
    """The trials that no other beats in both cost and loss, cheapest first; None if there are not more than two.

    Costs are taken in whole percents, rounded up: a search at one budget has no front worth a table.

    Args:
        trials: Of one fidelity: others do not compare.
        feasibility: Prices them.
        name: Of the cost.
        metric: What the loss is called.
        score: Of the task.
    """
    dense = feasibility.price(feasibility.space.full)[name]
    complete = ranked(trials)
    costs = {t.number: feasibility.price(t.widths)[name] for t in complete}
    best = by_percent(complete, {n: cost / dense for n, cost in costs.items()})
    if len(best) <= 2:
        return None
    table = FittingTable(title=f"front: {name} against {metric}", title_justify="left")
    for column in (
        "trial",
        f"{name}, predicted" if is_latency(name) else name,
        metric,
        *(s.label for s in score.beside(metric)),
    ):
        table.add_column(column, justify="right")
    for trial in best.values():
        share = f"{number(costs[trial.number])} ({percent(costs[trial.number], dense)})"
        also = [f"{each.number(trial.metrics):.4f}" for each in score.beside(metric)]
        table.add_row(str(trial.number), share, decimals(trial.loss), *also)
    return table


def by_percent(trials: Iterable[Trial], shares: Mapping[int, float]) -> dict[int, Trial]:
    """The trials that no other beats in cost and loss, cheapest first, by their cost in whole percents, rounded up.

    Args:
        trials: Of one fidelity.
        shares: Their costs as fractions of the dense network, by number.
    """
    best: dict[int, Trial] = {}
    for trial in sorted(trials, key=lambda t: (shares[t.number], t.loss)):
        if trial.loss < min((t.loss for t in best.values()), default=math.inf):
            best[math.ceil(100 * shares[trial.number] - 1e-9)] = trial  # replaces a worse one of this percent
    return best


def proxy_quality(trials: Iterable[Trial], metric: str = "loss") -> str:
    """How well the proxy ranked, on the run's own finalists: Spearman's rank correlation with the trained loss.

    The finalists are the best by proxy and few, so their order is the hardest to get right.
    """
    from scipy.stats import spearmanr

    first: dict[tuple[int, ...], float] = {}  # at the fidelity of the search
    short: dict[tuple[int, ...], float] = {}
    for trial in trials:
        if trial.state is TrialState.COMPLETE:
            if trial.fidelity == FINAL:
                short[trial.widths] = trial.loss
            else:
                first.setdefault(trial.widths, trial.loss)  # the lower rungs come later
    both = [w for w in short if w in first]
    what = f"rank correlation of the quick score and the {metric} after training"
    if len(both) < FEWEST:
        return f"{what}: not known from {counted(len(both), 'finalist')}"
    untrained, trained = ([losses[w] for w in both] for losses in (first, short))
    if min(len(set(untrained)), len(set(trained))) == 1:
        return f"{what}: none, the {len(both)} finalists all have the same"
    rho = float(spearmanr(untrained, trained).statistic)
    words = next(words for least, words in _RANKED if rho >= least)
    return f"{what}: {rho:.2f} (Spearman, {len(both)} finalists): the quick score ranked the finalists {words}"


_RANKED = (
    (0.7, "much as a short fine-tune does"),
    (0.3, "roughly as a short fine-tune does"),
    (-0.3, "no better than chance; the short fine-tune decided"),
    (-1.1, "backwards; the short fine-tune decided"),
)


def evaluated(trials: Iterable[Trial], config: RunConfig) -> str:
    """How many evaluations have really ended, by their kind: "6 candidates, 2 finalists"."""
    real = [t for t in trials if not is_cached(t) and t.state is not TrialState.RUNNING]
    kinds = dict.fromkeys(reversed(config.schedule.fidelities), 0)
    kinds |= Counter(t.fidelity for t in real)
    names = {FINAL: "finalist", config.schedule.first: "candidate"}
    said = [
        counted(count, names[kind]) if kind in names else f"{count} at {kind}" for kind, count in kinds.items() if count
    ]
    return ", ".join(said) or "no candidate yet"


def counts(trials: Iterable[Trial], live: bool = True) -> str:
    """How many evaluations ended how, on one line; what runs in a run that is not live was interrupted."""
    tally: dict[str, int] = {}
    for trial in trials:
        state = "repeat" if is_cached(trial) else trial.state.value
        tally[state] = tally.get(state, 0) + 1
    words = {"complete": "complete", "pruned": "abandoned early", "fail": "failed"}
    words["running"] = "running" if live else "interrupted, will be redone"
    words["repeat"] = "not evaluated: as an earlier trial"
    return ", ".join(f"{tally[state]} {word}" for state, word in words.items() if state in tally) or "none yet"
