"""A result at a glance: dense against pruned, whether the budgets hold, and where it lies; as text and as HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from autoprune.config import RunConfig
from autoprune.labels import Labels
from autoprune.printable import decimals
from autoprune.problem import Trial
from autoprune.report.rows import rows_of
from autoprune.report.sheet import Sheet
from autoprune.report.tables import comparison_table, counted, number, removed
from objectives import parse
from search_spaces import SearchSpace, Widths

SHOWN = 20  # groups that were cut
TITLE = "dense and pruned"

Row = tuple[str, str, str, str]


class Origin(Protocol):
    """What a result was made from (see `autoprune.runs.Origin`)."""

    @property
    def config(self) -> RunConfig:
        """The settings of the run."""

    @property
    def architecture(self) -> Mapping[str, Any]:
        """The architecture.json of what was delivered."""


class Result(Protocol):
    """What is shown of a result (see `autoprune.SearchResult`)."""

    @property
    def widths(self) -> Widths:
        """Kept units per group."""

    @property
    def trial(self) -> Trial:
        """The trial that won."""

    @property
    def run_dir(self) -> Path:
        """The directory of the run."""

    @property
    def space(self) -> SearchSpace:
        """What could be pruned."""

    @property
    def model(self) -> nn.Module:
        """The pruned network."""

    @property
    def costs(self) -> Mapping[str, Mapping[str, float]]:
        """Per cost name, its "dense" and "pruned" value."""

    @property
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """What was measured."""

    @property
    def origin(self) -> Origin:
        """What it was made from."""


def text_of(result: Result) -> str:
    """A table and a few lines."""
    sheet = Sheet()
    sheet.print(comparison_table(TITLE, _rows(result)))
    facts = _facts(result)
    wide = max(map(len, facts))
    for name, value in facts.items():
        lines = value.replace("\n", f"\n{'':{wide}}  ")
        sheet.print(f"{name:{wide}}  {lines}", markup=False, soft_wrap=True)
    return repr(sheet)


def html_of(result: Result) -> str:
    """The same as a table of a notebook, escaped: names may hold anything."""
    head = "".join(f"<th>{_escaped(cell)}</th>" for cell in (TITLE, "dense", "pruned", ""))
    body = "".join(
        f"<tr><td>{_escaped(name)}</td>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in cells) + "</tr>"
        for name, *cells in _rows(result)
    )
    foot = "".join(
        f'<tr><td>{_escaped(name)}</td><td colspan="3" style="text-align: left">{value}</td></tr>'
        for name, fact in _facts(result).items()
        if (value := _escaped(fact).replace("\n", "<br>"))
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}{foot}</tbody></table>"


def _rows(result: Result) -> list[Row]:
    metrics, losses = result.metrics, []
    labels = Labels.of(result.run_dir)
    for split, where in (("val", f"validation {labels.samples}"), ("test", f"held-out test {labels.samples}")):
        dense, pruned = (metrics.get(f"{which}_{split}", {}).get("loss") for which in ("dense", "pruned"))
        if dense is not None and pruned is not None:
            change = f"{'+' * (pruned >= dense)}{decimals(pruned - dense)}"
            losses.append((f"loss, {where}", decimals(dense), decimals(pruned), change))
    shown = rows_of(metrics, result.costs, labels)
    return losses + shown if labels.scores else shown


def _facts(result: Result) -> dict[str, str]:
    """What no number of the table says, by name; a few lines of each."""
    budgets = [verdict(text, result.costs, result.metrics) for text in result.origin.config.budget]
    return {
        "budgets": "; ".join(budgets) or "none",
        "widths": "\n".join(_widths(result)),
        **({"removed": said} if (said := removed(result.space, result.widths)) else {}),
        "won": f"trial {result.trial.number}, {result.trial.fidelity} (result.trial)",
        "network": f"{type(result.model).__name__} (result.model), {result.run_dir / 'best'}",
        "run": str(result.run_dir),
    }


def _widths(result: Result) -> list[str]:
    """How many groups were cut, and a line for each of those."""
    groups = result.space.groups
    cut = [(g, width) for g, width in zip(groups, result.widths, strict=True) if width < g.size]
    longest = max((len(g.name) for g, _ in cut[:SHOWN]), default=0)
    return [
        f"{len(cut)} of {counted(len(groups), 'group')} cut (result.widths_by_group)",
        *(f"{g.name:{longest}}  {width} of {g.counted(g.size)}" for g, width in cut[:SHOWN]),
        *([f"and {len(cut) - SHOWN} more"] if len(cut) > SHOWN else []),
    ]


def verdict(text: str, costs: Mapping[str, Mapping[str, float]], metrics: Mapping[str, Any]) -> str:
    """A budget, and whether it holds: as it was measured, where it is on a latency that was."""
    try:
        budget = parse(text)
    except ValueError:  # of code that is not here
        return text
    said, cost = metrics.get(budget.metric, {}), costs.get(budget.metric, {})
    if "share" in said and "pruned_ms" in said:
        used, limit = (said["share"] if budget.relative else said["pruned_ms"]), budget.limit
        how = f"measured {100 * said['share']:.1f} %, {said['pruned_ms']:.3g} ms"
    elif {"dense", "pruned"} <= cost.keys():
        used, limit = cost["pruned"], budget.bound(cost["dense"])
        share = cost["pruned"] / cost["dense"] if cost["dense"] else math.nan
        how = f"{'predicted ' * bool(budget.target)}{f'{number(used)}, ' * (not budget.relative)}{100 * share:.1f} %"
    else:
        return text
    return f"{text} {'holds' if used <= limit * (1 + 1e-9) else 'does not hold'} ({how})"


def _escaped(cell: Any) -> str:
    return html.escape(str(cell))
