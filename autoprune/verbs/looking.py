"""`profile`, `status`, `report`, `compare`: the verbs that only look, and what they give back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from autoprune.config import RunConfig, explained
from autoprune.config.keywords import SearchKeywords
from autoprune.files import DiskError, as_path, check_writable
from autoprune.modes import with_gradients
from autoprune.problem import Problem, Trial
from autoprune.report import RunProgress, Sheet, print_latency, print_profile, print_report, showing, stale
from autoprune.report.compare import print_compare, read_runs, run_table
from autoprune.report.page import check_installed, pages_wanted, write_charts, write_page
from autoprune.report.page.overlay import write_overlay
from autoprune.report.status import follow
from autoprune.report.status import status as seen
from autoprune.runs import RunDirectory, about_dense
from autoprune.runs.prepare import Prepared, expected_cost, prepare
from autoprune.trust import reading
from autoprune.verbs.settling import Budget, Data, Model, settled
from objectives import Reachable
from search_spaces import SearchSpace

if TYPE_CHECKING:
    import pandas


class Profile(Sheet):
    """What can be pruned, what it costs and which budgets can be reached; printing it shows the tables.

    Attributes:
        space: What may be pruned: `space.groups`; `space.frozen` with the reasons.
        problem: All that a strategy is given: space, budgets, scores.
        reachable: Per cost the smallest network, uniform widths at the budget, the dense network and the limit.
        cost: About how long the search will take here, in words.
        notes: What is said of the dense network and its data, a line each.
    """

    def __init__(self, prepared: Prepared, latency: bool = False) -> None:
        super().__init__()
        self.space: SearchSpace = prepared.space
        self.problem: Problem = prepared.problem
        self.reachable: tuple[Reachable, ...] = tuple(prepared.problem.feasibility.reachable())
        self.cost, self.notes = expected_cost(prepared), tuple(about_dense(prepared))
        print_profile(prepared, self.cost, self)
        for line in self.notes:
            self.print(line, markup=False, soft_wrap=True)
        if latency:
            print_latency(self, prepared)


class Status(Sheet):
    """How far a run is; printing it shows who does what.

    Attributes:
        run: Its directory.
        is_live: Whether anybody is at work on it.
        trials: All trials so far.
        best: The trial to deliver, of those so far; None before the first complete one.
        is_delivered: Whether the winner has been exported.
    """

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        view, self.is_live = seen(run)
        record = run.record()
        self.run, self.trials = run.path, tuple(record.trials)
        with reading():
            self.best: Trial | None = run.leader(record)
        self.is_delivered = (run.best / "architecture.json").is_file()
        self.print(view)


class Report(Sheet):
    """What a run did; printing it shows the tables.

    Attributes:
        run: Its directory.
        trials: The table of all trials, trials.csv.
        page: report.html; None: not written.
        charts: The charts as PNG files.
    """

    def __init__(self, run: RunDirectory, html: bool | None, png: bool) -> None:
        super().__init__()
        if png:
            check_installed()
        has_page = pages_wanted(html)
        print_report(run, self)
        self.run, self.trials = run.path, run.path / "trials.csv"
        self.page: Path | None = None
        try:
            self.page = write_page(run) if has_page else None
        except DiskError as error:
            if html:
                raise
            self.print(str(error), markup=False, soft_wrap=True)
        self.charts: tuple[Path, ...] = tuple(write_charts(run)) if png else ()
        if self.page:
            self.print(f"page: {self.page}", markup=False, soft_wrap=True)
        if self.charts:
            self.print(f"charts: {', '.join(map(str, self.charts))}", markup=False, soft_wrap=True)
        for line in stale(run):
            self.print(line, markup=False, soft_wrap=True)


class Comparison(Sheet):
    """Runs side by side; printing it shows the table.

    Attributes:
        columns: Of `rows`.
        rows: One per run, as text.
        page: The page with their charts overlaid; None: not written.
    """

    def __init__(self, runs: Sequence[RunDirectory], html: bool | None, to: str | Path | None) -> None:
        super().__init__()
        target = as_path("to", to or runs[0].path.resolve().parent / "compare.html")
        if has_page := pages_wanted(html):
            check_writable(target)
        found = read_runs(runs)
        self.columns, self.rows = run_table(found)
        print_compare(found, self)
        self.page: Path | None = write_overlay(found, target) if has_page else None
        if self.page:
            self.print(f"page: {self.page}", markup=False, soft_wrap=True)

    def to_pandas(self) -> pandas.DataFrame:
        """The table, one row per run."""
        import pandas

        return pandas.DataFrame(self.rows, columns=list(self.columns))


@explained(SearchKeywords)
@with_gradients
def profile(
    model: Model | None = None,
    data: Data | None = None,
    budget: Budget | None = None,
    *,
    latency: bool = False,
    config: RunConfig | str | Path | None = None,
    trust: bool = False,
    example_inputs: Any = None,
    progress: RunProgress | bool | None = None,
    **settings: Unpack[SearchKeywords],
) -> Profile:
    """What can be pruned, what it costs, which budgets can be reached, and about how long a search will take.

    Args:
        model: As in `search`.
        data: As in `search`.
        budget: As in `search`.
        latency: Also time the dense network, layer by layer on every backend that is installed.
        config: As in `search`.
        trust: As in `search`.
        example_inputs: As in `search`.
        progress: As in `search`; there is a line before something takes minutes.
        **settings: As in `search`; channels are scored once whatever `score_rounds` says.

    Raises:
        ValueError: If something is wrong with what was given, as `search`.

    Example:
        print(autoprune.profile(model, "cifar10:data"))
    """
    model, data, given = settled("profile", config, model, data, budget, settings, trust)
    named = {name: value for name, value in (("model", model), ("data", data)) if isinstance(value, str)}
    made = RunConfig.make(**named, **{**given, "score_rounds": 1})  # nothing is trained to look
    live_model, live_data = None if isinstance(model, str) else model, None if isinstance(data, str) else data
    with showing(progress) as shown:
        return Profile(prepare(made, live_model, live_data, example_inputs, say=shown.say), latency)


def status(run: str | Path, *, watch: bool = False, trust: bool = False) -> Status:
    """How far a run is, and who does what, also while it is running.

    Args:
        run: Its directory, results/<run>.
        watch: Show it anew every two seconds until the run ends or Ctrl-C; on a terminal only.
        trust: As in `resume`.

    Raises:
        ValueError: If it is no run.
    """
    directory = RunDirectory.open(run, trust)
    if watch:
        follow(directory)
    return Status(directory)


def report(run: str | Path, *, html: bool | None = None, png: bool = False, trust: bool = False) -> Report:
    """What a run did: its tables; writes its trials.csv and report.html.

    Args:
        run: Its directory, results/<run>.
        html: Write report.html, one page that needs nothing else; default where the extra "report" is installed.
        png: Write the charts of the page as PNG files, too, to charts/.
        trust: As in `resume`.

    Raises:
        ValueError: If it is no run, or there is nothing to draw with.

    Example:
        print(autoprune.report("results/small18").page)
    """
    return Report(RunDirectory.open(run, trust), html, png)


def compare(
    *runs: str | Path, html: bool | None = None, to: str | Path | None = None, trust: bool = False
) -> Comparison:
    """Runs side by side: a table, and a page with their charts overlaid.

    Args:
        *runs: Two directories or more.
        html: Write the page; default where the extra "report" is installed.
        to: Where the page goes; default compare.html beside the first run.
        trust: As in `resume`.

    Raises:
        ValueError: If there are not at least two different runs, or there is nothing to draw with.

    Example:
        autoprune.compare("results/a", "results/b").to_pandas()
    """
    return Comparison([RunDirectory.open(run, trust) for run in runs], html, to)
