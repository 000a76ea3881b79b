"""The best trials of a run as a table, and what became of those that were to be delivered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from autoprune.labels import TOP1, Score
from autoprune.ledger import Record
from autoprune.printable import decimals
from autoprune.problem import Trial
from autoprune.report.fitting import FittingTable
from autoprune.schedule import ranked

if TYPE_CHECKING:
    from autoprune.runs.directory import RunDirectory


def best_table(
    trials: Sequence[Trial],
    metric: str = "loss",
    verdicts: Mapping[int, str] | None = None,
    shown: int = 10,
    score: Score = TOP1,
) -> FittingTable:
    """The best trials of each fidelity, the trained ones first, and all on which there is a verdict.

    Args:
        trials: Of the run.
        metric: What their loss is called.
        verdicts: By the trial's number, see `verdicts_of`.
        shown: How many of each fidelity.
        score: Of the task.
    """
    verdicts = verdicts or {}
    table = FittingTable(title="best trials", title_justify="left")
    for column in (
        "trial",
        "fidelity",
        metric,
        *(s.label for s in score.beside(metric)),
        "seconds",
        *["verdict"] * bool(verdicts),
    ):
        table.add_column(column, justify="left" if column in ("fidelity", "verdict") else "right")
    table.add_column("widths", no_wrap=True, min_width=11)  # the first of them tell candidates apart
    order = ranked(trials)
    for fidelity in sorted({t.fidelity for t in order}, reverse=True):
        for place, trial in enumerate(t for t in order if t.fidelity == fidelity):
            if place >= shown and trial.number not in verdicts:
                continue
            widths = " ".join(map(str, trial.widths))
            table.add_row(
                str(trial.number),
                fidelity,
                decimals(trial.loss),
                *(f"{each.number(trial.metrics):.4f}" for each in score.beside(metric)),
                f"{trial.seconds:.1f}",
                *[verdicts.get(trial.number, "")] * bool(verdicts),
                widths if len(widths) <= 60 else f"{widths[:57]}...",
            )
    return table


def verdicts_of(run: RunDirectory, record: Record) -> dict[int, str]:
    """By its number, which trial won, or leads so far, and which broke a latency budget when they were measured.

    A network that was evaluated more than once counts as its last complete trial.

    Raises:
        ValueError: If the export cannot be read.
    """
    from autoprune.exporting import read_architecture
    from autoprune.ledger.measurements import Measurements

    numbers = {t.widths: t.number for t in sorted(ranked(record.trials), key=lambda t: t.number)}
    measured = Measurements.of(record.notes)
    holds = {m.widths: m.holds for m in (*measured.past, *measured.every)}  # as it was measured last
    said = {numbers[w]: "broke a latency budget" for w, held in holds.items() if not held and w in numbers}
    if leader := run.leader(record):
        said[leader.number] = "leads"
    if (run.best / "architecture.json").is_file():
        won = read_architecture(run.best).get("provenance", {}).get("trial")
        said |= {won: "winner"} if won is not None else {}
    return said
