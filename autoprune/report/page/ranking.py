"""How well the cheap score ranked the finalists: against the loss that each has after a short fine-tune."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from autoprune.fidelity import FINAL
from autoprune.printable import decimals
from autoprune.problem import Trial, TrialState
from autoprune.report.page import drawing as ink
from autoprune.report.page.drawing import Chart, Tips
from autoprune.report.page.facts import Facts
from autoprune.report.tables import counted
from autoprune.report.trials import FEWEST

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def pairs(trials: Iterable[Trial], fidelity: str) -> list[tuple[Trial, Trial]]:
    """(as scored by the search, after the short fine-tune) of every candidate that has both."""
    first: dict[tuple[int, ...], Trial] = {}
    short: dict[tuple[int, ...], Trial] = {}
    for trial in trials:
        if trial.state is TrialState.COMPLETE and trial.fidelity in (fidelity, FINAL):
            (first if trial.fidelity == fidelity else short).setdefault(trial.widths, trial)
    return [(first[w], short[w]) for w in short if w in first]


def ranking_chart(facts: Facts) -> Chart | None:
    """The finalists' two losses against each other; None for fewer than two."""
    found = pairs(facts.trials, facts.config.fidelity)
    if len(found) < 2:
        return None
    untrained, trained = [a.loss for a, _ in found], [b.loss for _, b in found]

    def draw(axes: Axes, narrow: bool) -> Tips:
        axes.scatter(untrained, trained, color=ink.FINAL, marker="D", s=34).set_gid("pairs")
        for a, b in _apart(found):
            axes.annotate(str(b.number), (a.loss, b.loss), xytext=(6, 4), textcoords="offset points", color=ink.MUTED)
        axes.margins(0.15)
        axes.locator_params(axis="x", nbins=4 if narrow else 6)
        axes.set(xlabel=f"{facts.metric}, untrained ({facts.config.fidelity})", ylabel="after a short fine-tune")
        return {
            "pairs": [
                f"trial {a.number}, untrained: {decimals(a.loss)}; the same fine-tuned, "
                f"trial {b.number}: {decimals(b.loss)}"
                for a, b in found
            ]
        }

    order = sorted(found, key=lambda pair: pair[1].loss)
    rows = [(str(a.number), decimals(a.loss), str(b.number), decimals(b.loss)) for a, b in order]
    head = ("trial, untrained", facts.metric, "trial, fine-tuned", facts.metric)
    return Chart("ranking", "Quick score against fine-tuned", verdict(untrained, trained), 300, draw, head, rows)


def _apart(found: Sequence[tuple[Trial, Trial]]) -> list[tuple[Trial, Trial]]:
    """Those whose numbers have room beside them, the best first."""
    wide, high = (max(t.loss for t in some) - min(t.loss for t in some) or 1.0 for some in zip(*found, strict=True))
    named: list[tuple[Trial, Trial]] = []
    for a, b in sorted(found, key=lambda pair: pair[1].loss):
        if all(abs(a.loss - c.loss) > 0.15 * wide or abs(b.loss - d.loss) > 0.1 * high for c, d in named):
            named.append((a, b))
    return named


def verdict(untrained: Sequence[float], trained: Sequence[float]) -> str:
    """Spearman's rank correlation in words, with how much of it chance alone would give so few finalists."""
    from scipy.stats import spearmanr

    count = len(trained)
    if count < FEWEST:
        return f"No rank correlation: not known from {counted(count, 'finalist')}."
    if min(len(set(untrained)), len(set(trained))) == 1:
        return f"No rank correlation: the {count} finalists are all alike."
    text = f"Spearman {float(spearmanr(untrained, trained).statistic):.2f}, n = {count} finalists. "
    threshold = chance(count)
    if math.isnan(threshold):
        text += "So few that any order could be chance. "
    else:
        text += f"Chance alone reaches ±{threshold:.2f} one time in twenty. "
    return text + "Finalists are the best by the quick score, so alike that their order is the hardest to get right."


def chance(count: int) -> float:
    """The |Spearman| that `count` unrelated pairs reach with probability at most 5 %; NaN if even 1.0 is likelier.

    Exact up to 7 pairs, by all permutations; beyond by the normal approximation 1.96 / sqrt(n - 1).
    """
    if count > 7:
        return min(1.0, 1.96 / math.sqrt(count - 1))
    ranks = range(count)
    scale = count * (count**2 - 1) or 1
    values = sorted(
        (
            abs(1 - 6 * sum((a - b) ** 2 for a, b in zip(ranks, p, strict=True)) / scale)
            for p in itertools.permutations(ranks)
        ),
        reverse=True,
    )
    reached = [v for v in sorted(set(values)) if sum(x >= v - 1e-12 for x in values) <= 0.05 * len(values)]
    return reached[0] if reached else math.nan
