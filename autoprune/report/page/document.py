"""Pages: charts and words in one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import autoprune
from autoprune.files import disk, write_text
from autoprune.report.freshness import PAGE, TABLE, stamp
from autoprune.report.page import origin, words
from autoprune.report.page.classes import classes_chart
from autoprune.report.page.drawing import PALETTE, Chart, check_installed, png
from autoprune.report.page.facts import Facts
from autoprune.report.page.front import front_charts
from autoprune.report.page.history import history_chart
from autoprune.report.page.hypervolume import hypervolume_chart
from autoprune.report.page.inline import svg
from autoprune.report.page.measured import measured_chart
from autoprune.report.page.network import cost_chart, widths_chart
from autoprune.report.page.predictor import cards, predictor_chart
from autoprune.report.page.prices import cost_label
from autoprune.report.page.ranking import ranking_chart
from autoprune.report.page.tiles import tiles
from autoprune.report.page.training import method_chart, training_chart
from autoprune.report.rows import rows_of
from autoprune.report.tables import number
from autoprune.trust import reading
from objectives import is_latency

if TYPE_CHECKING:
    from markupsafe import Markup

    from autoprune.runs.directory import RunDirectory

LONG = 13  # letters of a word that may be broken


def pages_wanted(asked: bool | None) -> bool:
    """Whether to write a page; where nobody said so and there is nothing to draw with, say how to get one.

    Args:
        asked: `--html` True, `--no-html` False, neither None.

    Raises:
        ValueError: If it was asked for and there is nothing to draw with.
    """
    if asked is None:
        try:
            check_installed()
        except ValueError as error:
            print(f"no page: {error}")
            return False
    elif asked:
        check_installed()
    return asked is not False


@reading()
def write_page(run: RunDirectory) -> Path:
    """Write report.html into the run's directory.

    Raises:
        ValueError: If the run cannot be read, or there is nothing to draw with.
        DiskError: If it cannot be written.
    """
    check_installed()
    seen = stamp(run, run.record())  # before anything is read: a page of a moment later is written once too often
    facts = Facts.of(run)
    export = facts.export and {
        "path": str(run.best),
        "files": [(p.name, f"{number(p.stat().st_size)}B") for p in sorted(run.best.iterdir())],
        "load": f"autoprune.load({str(run.best)!r}{'' if facts.export['model'].get('factory') else ', model=dense'})",
        "rows": [_row(*row) for row in rows_of(facts.export["metrics"], facts.export["costs"], facts.labels)],
    }
    config = (run.path / "config.toml").read_text(encoding="utf-8")
    return write_html(
        run.path / PAGE,
        "report.html",
        stamp=seen,
        facts=facts,
        export=export,
        words=words,
        tiles=tiles(facts),
        origin=origin,
        config=config,
        groups=grouped(facts),
        predictors=cards(facts),
        csv=TABLE if (run.path / TABLE).is_file() else "",
    )


@reading()
def write_charts(run: RunDirectory) -> list[Path]:
    """Write the charts of the page as PNG files into charts/ of the run's directory.

    Raises:
        ValueError: If the run cannot be read, or there is nothing to draw with.
        DiskError: If they cannot be written.
    """
    check_installed()
    facts = Facts.of(run)
    return save_charts(run.path / "charts", [chart for group in grouped(facts).values() for chart in group])


def save_charts(directory: Path, charts: Sequence[Chart]) -> list[Path]:
    """Write charts as PNG files named after them."""
    with disk(directory):
        directory.mkdir(parents=True, exist_ok=True)
        for chart in charts:
            (directory / f"{chart.name}.png").write_bytes(png(chart))
    return [directory / f"{chart.name}.png" for chart in charts]


def _row(name: str, *cells: str) -> tuple[str, ...]:
    """A row of the result: a number stays with its unit where a line ends."""
    unit = " (ms)" if is_latency(name) and "ms" not in cells[0] else ""
    return cost_label(name) + unit, *(re.sub(r"(?<=\d) (?=[kMG%m])", "\u00a0", cell) for cell in cells)


def grouped(facts: Facts) -> dict[str, list[Chart]]:
    """The charts that there is something to draw for, by the part of the page that shows them, in its order."""
    search = [history_chart(facts), *front_charts(facts), hypervolume_chart(facts)]
    made = {
        "search": [*([method_chart(facts)] if facts.is_training else search), training_chart(facts)],
        "network": [widths_chart(facts), *(cost_chart(facts, name) for name in facts.costs)],
        "ranking": [ranking_chart(facts)],
        "classes": [classes_chart(facts)],
        "latency": [make(facts, name) for name in facts.latency for make in (predictor_chart, measured_chart)],
    }
    return {group: [chart for chart in charts if chart] for group, charts in made.items()}


def breakable(text: Any) -> Markup:
    """The text, escaped; where a long word does not fit, a line ends after one of _ . / - : or a comma in it."""
    from markupsafe import Markup, escape

    marked = re.sub(rf"\S{{{LONG},}}", lambda word: re.sub(r"(?<=[_./:,-])(?=\w)", "\0", word[0]), str(text))
    return Markup(str(escape(marked)).replace("\0", "<wbr>"))


def write_html(path: Path, template: str, **content: Any) -> Path:
    """Fill a template of this package; whatever is put in is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("autoprune.report.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breaks"] = breakable
    environment.filters["svg"] = lambda chart, narrow: Markup(svg(chart, narrow))  # its texts are escaped by the writer
    made = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z} by autoprune {autoprune.__version__}"
    write_text(path, environment.get_template(template).render(palette=PALETTE, made=made, **content))
    return path
