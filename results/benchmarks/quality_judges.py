"""What ranks networks as a training of theirs does: pure arithmetic on what quality.py has measured.

A judge gives each allocation a loss, the lowest for the network that it would choose: a measure, a look at a training
on its way, a curve through such looks, or a model fitted on other networks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import numpy as np
from quality_pieces import WORDS, Pieces, by_training, kind_of, number
from scipy.stats import rankdata, spearmanr

Judged = dict[str, dict[str, tuple[float, float]]]  # judge -> allocation -> (loss, processor seconds)
Network = tuple[str, str]  # its name and the budget
TRUTHS = ("train:351", "train:1755", "train:3510")  # from weights as cut, without distillation
LEAST = 5  # allocations that a correlation needs
FEATURES = ("25 steps of train:351", "50 steps of train:351", "100 steps of train:351")  # of the fitted model
RIDGE = 0.1  # of the fitted model, for each allocation


def scores(found: Pieces) -> Judged:
    """What each judge says: the measures, the looks at trainings, and curves through these."""
    judged = {what: {n: (p["loss"], p["compute_s"]) for n, p in of.items()} for what, of in found.items()}
    for what, of in found.items():
        for name, piece in of.items():
            total = int(what.split(":")[1]) if what.startswith("train:") else 0
            looks = {int(step): seen["loss"] for step, seen in piece.get("looks", {}).items()}
            for step, loss in looks.items():
                key = f"{step} steps of {what}"
                judged.setdefault(key, {})[name] = (loss, piece["compute_s"] * step / total)
            if {25, 50, 100} <= looks.keys():
                for curve, loss in curves(looks[25], looks[50], looks[100], total / 100).items():
                    judged.setdefault(f"{curve} of {what}", {})[name] = (loss, piece["compute_s"] * 100 / total)
    return judged


def curves(first: float, second: float, third: float, further: float) -> dict[str, float]:
    """What three losses, each after twice the steps of the one before, say of the loss at the end.

    Args:
        first: Loss after 25 steps.
        second: After 50.
        third: After 100.
        further: How many times as many steps as the third the end is.
    """
    before, last = first - second, second - third
    doublings = math.log2(further)
    ratio = max(0.0, last / before) if before > 0 else 0.0
    more = doublings if ratio == 1 else ratio * (1 - ratio**doublings) / (1 - ratio)  # falls yet to come, in `last`
    return {
        "slope from 50 to 100 steps": -last,
        "line through 50 and 100 steps": third - last * doublings,
        "power law through 25, 50, 100 steps": third - max(0.0, last) * more,
    }


def fitted(judged: Mapping[Network, Judged], truth: Mapping[Network, Mapping[str, float]]) -> dict[Network, Judged]:
    """A linear model of ranks, fitted on the other networks: loss after 25, 50 and 100 steps -> top-1.

    Ranks are centred within each network and scaled to [-1, 1]; ridge regression, no network sees itself.
    """
    tables = {}
    for network, of in judged.items():
        names = [n for n in truth[network] if all(n in of.get(feature, {}) for feature in FEATURES)]
        if len(names) >= LEAST:
            columns = [_ranked([of[feature][n][0] for n in names]) for feature in FEATURES]
            tables[network] = names, np.stack(columns, 1), _ranked([-truth[network][n] for n in names])
    said: dict[Network, Judged] = {}
    for network, (names, features, _) in tables.items():
        if others := [table for other, table in tables.items() if other != network]:
            x, y = np.concatenate([o[1] for o in others]), np.concatenate([o[2] for o in others])
            weights = np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), x.T @ y)
            seconds = judged[network][FEATURES[-1]]
            losses = zip(names, (features @ weights).tolist(), strict=True)
            said[network] = {"a model of 25, 50, 100 steps, fitted on the other networks":
                             {name: (loss, seconds[name][1]) for name, loss in losses}}  # fmt: skip
    return said


def agreement(judged: Mapping[str, float], truth: Mapping[str, float]) -> tuple[int, float, float, str]:
    """How well losses choose: allocations in common, rank correlation, points lost by the chosen one, its name."""
    names = [n for n in truth if n in judged]
    chosen = min(names, key=lambda n: judged[n])
    lost = max(truth[n] for n in names) - truth[chosen]
    rank = float(spearmanr([-judged[n] for n in names], [truth[n] for n in names]).statistic)
    return len(names), rank, lost, chosen


def tables(found: Mapping[Network, Pieces], kinds: Mapping[Network, Mapping[str, str]]) -> dict[Network, list[str]]:
    """Every judge against every truth that there is, for each network.

    Args:
        found: By network and budget.
        kinds: Likewise, allocation -> kind.
    """
    judged = {network: scores(of) for network, of in found.items()}
    lines: dict[Network, list[str]] = {network: [] for network in found}
    for what in TRUTHS:
        trained = {network: by_training(of).get(what, {}) for network, of in found.items()}
        truth = {network: {n: 100 * statistics.mean(p["test_top1"] for p in of) for n, of in known.items()}
                 for network, known in trained.items()}  # fmt: skip
        models = fitted(judged, truth)
        for network, known in truth.items():
            if len(known) >= LEAST:
                said = {**judged[network], **models.get(network, {})}
                lines[network] += table(what, said, known, kinds[network])
    return lines


def table(what: str, judged: Judged, truth: Mapping[str, float], kinds: Mapping[str, str]) -> list[str]:
    """Every judge against one truth, the one that loses least first."""
    rows, apart = [], best_of_kinds(truth, kinds)
    for judge, of in judged.items():
        losses = {n: loss for n, (loss, _) in of.items()}
        if judge == what or len(truth.keys() & losses.keys()) < LEAST:
            continue
        count, rank, lost, chosen = agreement(losses, truth)
        between = agreement(losses, apart)[1] if len(apart.keys() & losses.keys()) >= LEAST else float("nan")
        seconds = statistics.median(s for n, (_, s) in of.items() if n in truth)
        rows.append((lost, -rank, f"| {judge} | {count} | {rank:.2f} | {number(between)} | {lost:.2f} | {chosen} "
                                  f"| {seconds:.0f} |"))  # fmt: skip
    return [
        "", f"### What ranks like {WORDS[what]}", "",
        "| loss after | allocations | rank correlation | the best of each kind only | points lost by its choice "
        "| its choice | processor s |",
        "|" + "---|" * 7, *(row for _, _, row in sorted(rows)),
    ]  # fmt: skip


def best_of_kinds(truth: Mapping[str, float], kinds: Mapping[str, str]) -> dict[str, float]:
    """The best allocation of each kind."""
    best: dict[str, str] = {}
    for name in truth:
        kind = kind_of(name, kinds)
        if kind not in best or truth[name] > truth[best[kind]]:
            best[kind] = name
    return {name: truth[name] for name in best.values()}


def _ranked(values: list[float]) -> np.ndarray:
    """Ranks, centred, the highest value at 1."""
    ranks = rankdata(values) - 1
    return np.asarray(2 * ranks / max(1, len(values) - 1) - 1)
