"""What a page says in words: what was asked, what came out, what went wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from autoprune.fidelity import FINAL
from autoprune.ledger.measurements import used as used_up
from autoprune.problem import Trial
from autoprune.report.gloss import scored
from autoprune.report.page.facts import Facts
from autoprune.report.page.measured import took_of
from autoprune.report.page.prices import amount
from autoprune.report.rows import attached_words
from autoprune.report.tables import counted, percent
from autoprune.report.trained import found, plan
from autoprune.report.trials import evaluated
from objectives import Budget
from search_spaces import Widths

ERRORS = 20  # different ones that are listed
LONGEST = 500  # characters of one


class Failure(NamedTuple):
    """Why trials failed, how many, and which."""

    reason: str
    times: int
    trials: str


class BudgetRow(NamedTuple):
    """A budget, "kept", "broken" or "unknown", and how much of it is used."""

    budget: str
    state: str
    used: str


def asked(facts: Facts) -> list[tuple[str, str]]:
    """What the run was told."""
    config = facts.config
    if facts.is_training:
        data = (config.data or config.task or "an object in Python") + left_out(facts)
        head = [("Network", facts.model), ("Data", data), ("Budget", config.goal)]
        return [*head, *plan(config), ("Seed", str(config.seed))]
    search = " over ".join(filter(None, (config.strategy, config.encoding)))
    rows = [
        ("Network", facts.model),
        ("Data", (config.data or config.task or "an object in Python") + left_out(facts)),
        ("Goal" if config.front else "Budget", config.goal),
        ("Strategy", f"{search} (proposes the widths to try)"),
        ("Criterion", f"{config.criterion} (says which channels of a layer go first)"),
        (
            "Candidates",
            f"{config.trials}, each scored {scored(config.fidelity, config, facts.space)} ('{config.fidelity}')",
        ),
    ]
    for count, fidelity in config.schedule.rungs:
        if count:
            name = "Finalists" if fidelity == FINAL else "Then"
            best = "the best" if count == 1 else f"the best {count}"
            rows.append((name, f"{best}, scored again {scored(fidelity, config, facts.space)} ('{fidelity}')"))
    return [*rows, ("Seed", str(config.seed))]


def left_out(facts: Facts) -> str:
    """How many damaged files the run did without; empty for none."""
    data = facts.export.get("provenance", {}).get("data", {}) if facts.export else {}
    count = data.get("skipped", 0) if isinstance(data, Mapping) else 0
    return f" ({counted(count, 'damaged file')} left out)" if count else ""


def summary(facts: Facts) -> str:
    """How far it is and how long it took, in a sentence."""
    if facts.is_training:
        return _trained(facts)
    much = f"{evaluated(facts.trials, facts.config)} evaluated in {duration(facts.seconds)}"
    if facts.failed:
        much += f", {len(facts.failed)} failed"
    if facts.interrupted:
        much += f", {facts.interrupted} interrupted"
    return {
        "running": f"Still running ({facts.writer}): {much}. The numbers are of the best candidate so far.",
        "stopped": f"Stopped before its end: {much}.",
        "finished": f"{much}; the winner is trial {_winner(facts.export or {})}.",
    }[facts.state]


def _trained(facts: Facts) -> str:
    """How far a training with a method is, or what came of it."""
    if facts.widths is None:
        state = f"Still running ({facts.writer})" if facts.state == "running" else "Stopped before its end"
        return f"{state}: training with {facts.config.method}."
    said = found(facts.config, facts.space, facts.widths, facts.export)
    if words := attached_words(facts.export or {}):
        return f"{said}; what is delivered was {words}."
    running = f"Still running ({facts.writer}): "
    return {"running": running, "stopped": "Stopped before its end: ", "finished": ""}[facts.state] + f"{said}."


def _winner(export: Mapping[str, Any]) -> str:
    number, words = export.get("provenance", {}).get("trial", "?"), attached_words(export)
    return f"{number}, {words}" if words else str(number)


def nothing(facts: Facts) -> str:
    """Why there is no number to show."""
    if facts.failed:
        return f"No candidate could be evaluated: {counted(len(facts.failed), 'evaluation')} failed; see why below."
    if facts.is_training:
        return "There is no network yet; make this page again later."
    if facts.measurements:
        return "No network that was measured has held the latency budget yet; see below. Make this page again later."
    return "No candidate has been evaluated yet, so there is nothing to show; make this page again later."


def failures(trials: Iterable[Trial]) -> list[Failure]:
    """The reasons, the most frequent first; at most `ERRORS`, each cut to `LONGEST` characters."""
    reasons: dict[str, list[int]] = {}
    for trial in trials:
        text = trial.error if len(trial.error) <= LONGEST else f"{trial.error[:LONGEST]}…"
        reasons.setdefault(text or "no reason was given", []).append(trial.number)
    order = sorted(reasons.items(), key=lambda item: -len(item[1]))
    return [Failure(text, len(n), _some(n)) for text, n in order[:ERRORS]]


def budgets(facts: Facts) -> list[BudgetRow]:
    """Every budget, whether the network is within it, and what it uses of it."""
    if not (widths := facts.widths):
        return []
    return [_budget_row(facts, *asked, widths) for asked in zip(facts.config.budget, facts.budgets, strict=True)]


def _budget_row(facts: Facts, text: str, budget: Budget, widths: Widths) -> BudgetRow:
    if not facts.can_price(budget.metric):
        why = "latency.json is missing, so nothing is predicted" if budget.target else "its code is not called here"
        return BudgetRow(text, "unknown", why)
    name, used, limit = budget.metric, facts.price(budget.metric, widths), facts.bound(budget)
    holds = used <= limit * (1 + 1e-9)
    words = f"{amount(name, used)} of {amount(name, limit)} allowed: {percent(used, limit)} of the budget is used"
    if took := took_of(facts, name, widths):
        holds = used_up(budget, took, facts.latency[name].dense) <= 1
        predicted = percent(used, facts.price(name, facts.space.full))
        words = f"{100 * took.share:.1f} ± {100 * took.share_error:.1f} % of the dense network, predicted {predicted}"
    elif budget.target:
        words += ", as predicted"
    return BudgetRow(text, "kept" if holds else "broken", words)


def no_ranking(facts: Facts) -> str:
    """Why there is no comparison of the cheap score with a fine-tune."""
    if (count := facts.config.finalists) < 2:
        return f"Not known: {counted(count, 'finalist')} cannot be ranked; --finalists 2 or more can."
    return "Not known yet: fewer than two finalists have been scored by both."


def duration(seconds: float) -> str:
    """In the units a person would say."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


def _some(numbers: list[int], shown: int = 8) -> str:
    more = f" and {len(numbers) - shown} more" if len(numbers) > shown else ""
    return ", ".join(map(str, numbers[:shown])) + more
