"""trials.csv: the candidates of a run as a table, for people and spreadsheets."""

from __future__ import annotations

from autoprune.files import DiskError
from autoprune.ledger import Ledger
from autoprune.report import RunProgress, is_current, write_csv
from autoprune.runs.directory import RunDirectory
from autoprune.runs.prepare import Prepared


def write_table(run: RunDirectory, prepared: Prepared, ledger: Ledger, progress: RunProgress) -> None:
    """Write trials.csv if it is not what the ledger says; all of it stands there, so a full disk is no error."""
    table = run.path / "trials.csv"
    if not run.path.exists() or is_current(table, ledger.trials):
        return
    costs = {t.number: prepared.problem.feasibility.price(t.widths) for t in ledger.trials}
    try:
        write_csv(table, ledger.trials, costs, list(ledger.groups), run.metric, run.labels.headline)
    except DiskError as error:
        progress.say(f"{error}; `autoprune report {run.path}` writes it anew")
