"""A run's trials as a CSV table and as a text report."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.table import Table

from autoprune.files import write_text
from autoprune.problem import Trial, TrialState
from autoprune.schedule import ranked

COLUMNS = ("number", "state", "fidelity", "loss", "top1", "seconds", "worker", "error")


def write_csv(
    path: Path, trials: Iterable[Trial], costs: Mapping[int, Mapping[str, float]], groups: Sequence[str]
) -> None:
    """Write one row per trial: what became of it, its costs (by trial number), and one column of kept units per group.

    Raises:
        DiskError: If it cannot be written.
    """
    text = io.StringIO()
    names = list(next(iter(costs.values()), {}))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *names, *groups])
    for trial in trials:
        loss = f"{trial.loss:.6g}" if math.isfinite(trial.loss) else ""
        top1 = f"{trial.metrics['top1']:.6g}" if "top1" in trial.metrics else ""
        writer.writerow(
            [
                trial.number,
                trial.state.value,
                trial.fidelity,
                loss,
                top1,
                f"{trial.seconds:.3f}",
                trial.worker,
                trial.error,
                *(f"{costs[trial.number][n]:.12g}" for n in names),
                *trial.widths,
            ]
        )
    write_text(path, text.getvalue())


def best_table(trials: Sequence[Trial], shown: int = 10) -> Table:
    """The best trials of each fidelity, the trained ones first."""
    table = Table(title="best trials", title_justify="left")
    for column in ("trial", "fidelity", "loss", "top-1", "seconds", "widths"):
        table.add_column(column, justify="left" if column in ("fidelity", "widths") else "right")
    order = ranked(trials)
    for fidelity in ("short", "proxy"):
        for trial in [t for t in order if t.fidelity == fidelity][:shown]:
            widths = " ".join(map(str, trial.widths))
            table.add_row(
                str(trial.number),
                fidelity,
                f"{trial.loss:.4f}",
                f"{trial.metrics.get('top1', math.nan):.4f}",
                f"{trial.seconds:.1f}",
                widths if len(widths) <= 60 else f"{widths[:57]}...",
            )
    return table


def proxy_quality(trials: Iterable[Trial]) -> str:
    """How well the proxy ranked, on the run's own finalists: Spearman's rank correlation with the trained loss."""
    from scipy.stats import spearmanr

    losses: dict[str, dict[tuple[int, ...], float]] = {"proxy": {}, "short": {}}
    for trial in trials:
        if trial.state is TrialState.COMPLETE and trial.fidelity in losses:
            losses[trial.fidelity][trial.widths] = trial.loss
    both = [w for w in losses["short"] if w in losses["proxy"]]
    if len(both) < 3:
        return f"rank correlation of proxy and trained loss: not known from {len(both)} finalists"
    rho = float(spearmanr([losses["proxy"][w] for w in both], [losses["short"][w] for w in both]).statistic)
    return f"rank correlation of proxy and trained loss: {rho:.2f} (Spearman, {len(both)} finalists)"


def counts(trials: Iterable[Trial]) -> str:
    """How many trials ended how, on one line."""
    tally: dict[str, int] = {}
    for trial in trials:
        tally[trial.state.value] = tally.get(trial.state.value, 0) + 1
    words = {"complete": "complete", "pruned": "abandoned early", "fail": "failed", "running": "running"}
    return ", ".join(f"{tally[state]} {word}" for state, word in words.items() if state in tally) or "none yet"
