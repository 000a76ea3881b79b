"""What a page says in words: what was asked, what came out, what went wrong."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import NamedTuple

from autoprune.problem import Trial
from autoprune.report.page.dots import top1
from autoprune.report.page.facts import Facts, cost_label
from autoprune.report.tables import counted, number, percent

ERRORS = 20  # different ones that are listed
LONGEST = 500  # characters of one


class Tile(NamedTuple):
    """One number that a reader came for: its name, the number, what it was before, how much it changed."""

    label: str
    value: str
    before: str
    change: str = ""


class Failure(NamedTuple):
    """Why trials failed, how many, and which."""

    reason: str
    times: int
    trials: str


def asked(facts: Facts) -> list[tuple[str, str]]:
    """What the run was told."""
    config = facts.config
    search = " over ".join(filter(None, (config.strategy, config.encoding)))
    plan = f"{search}, {counted(config.trials, 'candidate')} scored by '{config.fidelity}'"
    return [
        ("Network", facts.model),
        ("Data", config.data or "an ImageData object"),
        ("Budget", ", ".join(map(str, facts.budgets))),
        ("Search", f"{plan}, {counted(config.finalists, 'finalist')}"),
        ("Criterion", config.criterion),
        ("Seed", str(config.seed)),
    ]


def tiles(facts: Facts) -> list[Tile]:
    """What came out, most wanted first: accuracy, costs, size."""
    found = [_accuracy(facts)] if facts.winner or facts.export else []
    if facts.widths:
        names = dict.fromkeys(["macs", "params", *(b.metric for b in facts.budgets)])
        for name in names:
            (share,) = facts.priced(name, [facts.widths])
            was = facts.price(name, facts.space.full)
            label = cost_label(name)
            found.append(
                Tile(label[0].upper() + label[1:], f"{100 * share:.1f} %", f"{number(share * was)} of {number(was)}")
            )
    weights = facts.path / "best" / "weights.safetensors"
    if facts.export and weights.is_file():
        found.append(Tile("Size on disk", f"{number(weights.stat().st_size)}B", "weights.safetensors"))
    return found


def _accuracy(facts: Facts) -> Tile:
    for split, images in (("test", "test images"), ("val", "validation images")):
        pruned, dense = facts.measured("pruned", split), facts.measured("dense", split)
        if "top1" in pruned and "top1" in dense:
            change = f"{100 * (pruned['top1'] - dense['top1']):+.2f} points".replace("-", "−")
            return Tile(f"Top-1, {images}", top1(pruned), f"dense {top1(dense)}", change)
    assert facts.winner, "nothing was found yet"
    trial = facts.winner
    if "top1" not in trial.metrics:
        return Tile(f"Best {facts.metric} so far", f"{trial.loss:.4f}", f"trial {trial.number}, {trial.fidelity}")
    return Tile("Top-1 so far, validation images", top1(trial.metrics), f"trial {trial.number}, {trial.fidelity}")


def summary(facts: Facts) -> str:
    """How far it is and how long it took, in a sentence."""
    much = f"{counted(len(facts.trials), 'evaluation')} in {duration(facts.seconds)} of evaluation time"
    if facts.failed:
        much += f", {len(facts.failed)} failed"
    return {
        "running": f"Still running ({facts.writer}): {much}. The numbers are of the best candidate so far.",
        "stopped": f"Stopped before its end: {much}. autoprune resume {shlex.quote(str(facts.path))} goes on.",
        "finished": f"{much}; the winner is trial {(facts.export or {}).get('provenance', {}).get('trial', '?')}.",
    }[facts.state]


def failures(trials: Iterable[Trial]) -> list[Failure]:
    """The reasons, the most frequent first; at most `ERRORS`, each cut to `LONGEST` characters."""
    reasons: dict[str, list[int]] = {}
    for trial in trials:
        text = trial.error if len(trial.error) <= LONGEST else f"{trial.error[:LONGEST]}…"
        reasons.setdefault(text or "no reason was given", []).append(trial.number)
    order = sorted(reasons.items(), key=lambda item: -len(item[1]))
    return [Failure(text, len(n), _some(n)) for text, n in order[:ERRORS]]


def budget_rows(facts: Facts) -> list[tuple[str, str, str, str]]:
    """Every budget, what the network uses, and whether that is within."""
    if not facts.widths:
        return []
    rows = []
    for budget in facts.budgets:
        used, limit = facts.price(budget.metric, facts.widths), facts.bound(budget)
        held = "kept" if used <= limit * (1 + 1e-9) else "broken"
        rows.append((str(budget), f"{number(used)} of {number(limit)}", percent(used, limit), held))
    return rows


def duration(seconds: float) -> str:
    """In the units a person would say."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


def _some(numbers: list[int], shown: int = 8) -> str:
    more = f" and {len(numbers) - shown} more" if len(numbers) > shown else ""
    return ", ".join(map(str, numbers[:shown])) + more
