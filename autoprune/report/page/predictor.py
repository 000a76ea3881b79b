"""How far the predicted milliseconds can be trusted: the predictor's error on candidates held out of its fit."""

from __future__ import annotations

from typing import NamedTuple

from autoprune.report.page.facts import Facts
from autoprune.report.page.measured import points
from autoprune.report.page.prices import amount, cost_label
from autoprune.report.tables import counted
from objectives.latency import Target

SETTINGS = ("backend", "command", "device", "threads", "system")  # of `Latency.about`; the rest are versions
ACCURATE, RANKED = 8.0, 0.95  # an error in percent, and a rank correlation, that are good enough to search with


class Card(NamedTuple):
    """What is known of one predictor: its name, whether it is good enough, and lines of a name and words."""

    title: str
    verdict: str
    lines: list[tuple[str, str]]


def cards(facts: Facts) -> list[Card]:
    """One for every latency that the run predicts."""
    return [_card(facts, metric) for metric in facts.latency]


def _card(facts: Facts, metric: str) -> Card:
    latency, target = facts.latency[metric], Target.parse(metric)
    quality, about = latency.quality, latency.about
    dense = amount(metric, facts.price(metric, facts.space.full))
    lines = [
        ("Error", f"{quality.mape:.1f} % on average, {quality.worst:.1f} % at worst"),
        ("Rank correlation", f"{quality.spearman:.3f} (Spearman)"),
        ("Candidates", f"{quality.candidates} measured; each predicted by a fit that had not seen it"),
        ("Dense network", f"{amount(metric, latency.dense)} measured, {dense} predicted"),
        ("Backend", f"{target.backend}, batch {target.batch}, {counted(target.threads, 'thread')}, {target.device}"),
        ("Device", ", ".join(about[k] for k in ("device", "system") if about.get(k))),
        ("Command", about.get("command", "")),
        ("Versions", ", ".join(f"{k} {v}" for k, v in about.items() if k not in SETTINGS and v)),
    ]
    words = verdict(quality.mape, quality.spearman)
    off = [100 * abs(p.took.share / p.predicted - 1) for p in points(facts, metric)]
    if not off:
        words += " No network of this run has been measured beside the dense one."
    elif (mean := sum(off) / len(off)) > ACCURATE:
        words += f" But it was {mean:.0f} % off, on average, on the networks that this run measured: trust those."
    label = cost_label(metric)
    return Card(label[0].upper() + label[1:], words, [(name, value) for name, value in lines if value])


def verdict(mape: float, spearman: float) -> str:
    """Whether a search may rely on such a predictor, in words.

    Args:
        mape: Mean absolute error on held-out candidates, in percent.
        spearman: Rank correlation on them.
    """
    faults = [f"is off by more than {ACCURATE:.0f} %"] * (not mape <= ACCURATE)
    faults += [f"orders candidates with a rank correlation below {RANKED}"] * (not spearman >= RANKED)
    if not faults:
        return f"Good on held-out candidates (error at most {ACCURATE:.0f} %, rank correlation at least {RANKED})."
    return f"Not good enough to rely on: it {' and '.join(faults)} on held-out candidates."
