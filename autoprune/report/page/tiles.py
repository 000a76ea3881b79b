"""The few numbers that a reader came for: what the network is worth, and what it costs."""

from __future__ import annotations

from typing import NamedTuple

from autoprune.printable import decimals
from autoprune.report.page.facts import Facts
from autoprune.report.page.measured import took_of
from autoprune.report.page.prices import amount, cost_label, milliseconds
from autoprune.report.tables import number, percent
from objectives import is_latency
from search_spaces import Widths


class Tile(NamedTuple):
    """One number that a reader came for: its name, the number, what it was before, how much it changed."""

    label: str
    value: str
    before: str
    change: str = ""


def tiles(facts: Facts) -> list[Tile]:
    """What came out, most wanted first: accuracy, costs, size."""
    found = [_accuracy(facts)] if facts.winner or facts.export else []
    if facts.widths:
        for name in dict.fromkeys(["macs", *(b.metric for b in facts.budgets), *facts.config.front, "params"]):
            if facts.can_price(name):
                found.append(_cost(facts, name, facts.widths))
    weights = facts.path / "best" / "weights.safetensors"
    if facts.export and weights.is_file():
        found.append(Tile("Size on disk", f"{number(weights.stat().st_size)}B", "weights.safetensors"))
    return found


def _cost(facts: Facts, name: str, widths: Widths) -> Tile:
    label = cost_label(name)
    label = label[:1].upper() + label[1:]
    if took := took_of(facts, name, widths):
        ms = f"{milliseconds(took.pruned_ms)} of {amount(name, took.dense_ms)}, measured"
        return Tile(label, f"{100 * took.share:.1f} %", ms)
    used, was = facts.price(name, widths), facts.price(name, facts.space.full)
    before = f"{amount(name, used).removesuffix(' ms')} of {amount(name, was)}"
    return Tile(label, percent(used, was), before + ", predicted" * is_latency(name))


def _accuracy(facts: Facts) -> Tile:
    score, samples = facts.labels.headline, facts.labels.samples
    title = score.label[:1].upper() + score.label[1:]
    for split, where in (("test", f"test {samples}"), ("val", f"validation {samples}")):
        pruned, dense = facts.measured("pruned", split), facts.measured("dense", split)
        if score.name in pruned and score.name in dense:
            change = score.change(dense[score.name], pruned[score.name]).replace("-", "−")
            return Tile(f"{title}, {where}", score.shown(pruned), f"dense {score.shown(dense)}", change)
    assert facts.winner, "nothing was found yet"
    trial = facts.winner
    where = "after the cut" if facts.is_training else f"trial {trial.number}, {trial.fidelity}"
    if score.name not in trial.metrics or score.name == "loss":
        return Tile(f"Best {facts.metric} so far", decimals(trial.loss), where)
    return Tile(f"{title} so far, validation {samples}", score.shown(trial.metrics), where)
