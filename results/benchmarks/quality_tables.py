"""quality.md: what the pieces of quality.py say. Pure arithmetic on what was measured; nothing is run.

Letters: `A` allocations.
"""

from __future__ import annotations

import json
import re
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import allocations
from protocol import HERE, spread
from scipy.stats import spearmanr

from autoprune.files import write_text

Piece = Mapping[str, Any]
Pieces = dict[str, dict[str, Piece]]  # measure -> allocation -> piece
JUDGED = "train:3510"  # ten epochs
TRUTHS = ("train:351", "train:1755")  # one epoch and five, from weights as cut, without distillation
LEAST = 5  # allocations that a correlation needs
WORDS = {
    "train:351": "1 epoch",
    "train:1755": "5 epochs",
    "train:3510": "10 epochs",
    "proxy": "batch-norm re-estimated",
    "reconstructed": "layers reconstructed",
}
HEAD = """
Made by `quality.py`. Machines: {machines}, one thread. CIFAR-10 as JPEG; the plain protocol: SGD with Nesterov
momentum .9, weight decay 5e-4, .02 with cosine decay to 0 over all steps, batch 128, crop and flip, bf16 (marked f32:
one seed or more in float32, on a processor that has no bf16), from the weights as cut, no distillation. Columns of
epochs are top-1 in percent on test, mean ± standard deviation (seeds of the training; one: seed 0); *NAME (2)*: other
widths of the same name (a search on another machine found another network). The others are the loss on 2,000 held out
images. *train:N* is N steps (351: an epoch); *K steps of train:N* a look at that training after K steps, batch-norm
re-estimated. Units by `group_fisher` unless the builder says otherwise. *Points lost*: the best of the allocations in
common against the one with the lowest loss.
"""
JUDGEMENT = """
The network that the default search finds (search seed 0), the best network of another tool and the better of the
uniform prunings, top-1 in percent on test: mean ± standard deviation, and of how many seeds of the training. "units
by norms": the widths of the tool with the units that the norms choose, where its own were not kept. "!": no more than
the larger spread, or of too few seeds to say so.
"""
CONCLUDED = "## What a fair reader concludes so far"  # kept by hand


def read(pieces: Path) -> Pieces:
    """The pieces of one network and budget.

    A name may stand for several widths (a search that was made twice has found two networks): the second is "NAME (2)".
    """
    found: Pieces = {}
    known: dict[str, list[list[int]]] = {}  # name -> the widths that it stood for
    for path in sorted(pieces.glob("*.json")):
        piece = json.loads(path.read_text())
        if "what" not in piece:  # a peer's own
            continue
        widths = known.setdefault(piece["name"], [])
        if piece["widths"] not in widths:
            widths.append(piece["widths"])
        number = widths.index(piece["widths"]) + 1
        name = piece["name"] if number == 1 else f"{piece['name']} ({number})"
        found.setdefault(piece["what"], {})[name] = piece
    return found


def scores(found: Pieces) -> dict[str, dict[str, tuple[float, float]]]:
    """Candidate for a fidelity -> allocation -> (loss, processor seconds): the measures, and the looks at trainings."""
    judged = {what: {n: (p["loss"], p["compute_s"]) for n, p in of.items()} for what, of in found.items()}
    for what, of in found.items():
        for name, piece in of.items():
            total = int(what.split(":")[1]) if what.startswith("train:") else 0
            for step, seen in piece.get("looks", {}).items():
                key = f"{step} steps of {what}"
                judged.setdefault(key, {})[name] = (seen["loss"], piece["compute_s"] * int(step) / total)
    return judged


def agreement(judged: Mapping[str, float], truth: Mapping[str, float]) -> tuple[int, float, float, str]:
    """How well losses choose: allocations in common, rank correlation, points lost by the chosen one, its name."""
    names = [n for n in truth if n in judged]
    chosen = min(names, key=lambda n: judged[n])
    lost = max(truth[n] for n in names) - truth[chosen]
    rank = float(spearmanr([-judged[n] for n in names], [truth[n] for n in names]).statistic)
    return len(names), rank, lost, chosen


def top1(of: Mapping[str, Piece], split: str) -> dict[str, float]:
    """Allocation -> percent."""
    return {name: 100 * p[f"{split}_top1"] for name, p in of.items() if f"{split}_top1" in p}


def by_training(found: Pieces) -> dict[str, dict[str, list[Piece]]]:
    """Training -> allocation -> its pieces with top-1 on test, one for each seed; the shortest training first."""
    trained = sorted((w for w in found if w.startswith("train:")), key=lambda w: (int(w.split(":")[1]), w))
    seeds: dict[str, dict[str, list[Piece]]] = {}
    for what in trained:
        for name in top1(found[what], "test"):
            seeds.setdefault(re.sub(r":s\d+", "", what), {}).setdefault(name, []).append(found[what][name])
    return seeds


def cell(pieces: Sequence[Piece]) -> str:
    """Mean and spread in percent, and of how many seeds where there are several."""
    if not pieces:
        return ""
    seeds = f" ({len(pieces)})" if len(pieces) > 1 else ""
    return f"{spread([100 * p['test_top1'] for p in pieces])}{seeds}{precision(pieces)}"


def table(found: Pieces, kinds: Mapping[str, str]) -> list[str]:
    """Every allocation, the best after the longest training first."""
    known = by_training(found)
    plain = [w for w in found if not top1(found[w], "test")]
    names = {name for of in found.values() for name in of}

    def order(name: str) -> tuple[float, ...]:
        return tuple(-statistics.mean([p["test_top1"] for p in known[w].get(name, ())] or [0.0]) for w in known)[::-1]

    titles = [WORDS.get(w, w) for w in (*plain, *known)]
    lines = [f"| allocation | kind | {' | '.join(titles)} | widths |", "|" + "---|" * (3 + len(titles))]
    for name in sorted(names, key=lambda n: (order(n), n)):
        cells = [f"{found[w][name]['loss']:.3f}" if name in found[w] else "" for w in plain]
        cells += [cell(known[w].get(name, ())) for w in known]
        widths = next(of[name]["widths"] for of in found.values() if name in of)
        lines.append(f"| {name} | {kind_of(name, kinds)} | {' | '.join(cells)} | {' '.join(map(str, widths))} |")
    return lines


def judgement(found: Mapping[tuple[str, str], Pieces], kinds: Mapping[tuple[str, str], Mapping[str, str]]) -> list[str]:
    """The default search, the best peer and the better uniform pruning, after ten epochs of the same training.

    Args:
        found: By network and budget.
        kinds: Likewise, allocation -> kind.
    """
    lines = [
        "| network | MACs kept | autoprune | best peer | which | uniform | before the peer | before uniform |",
        "|" + "---|" * 8,
    ]
    for (network, budget), pieces in found.items():
        trained = by_training(pieces).get(JUDGED, {})
        rows = [rivals(trained, kinds[network, budget], who) for who in ("search", "peer", "uniform")]
        if not all(rows):
            continue
        first_first = sorted(rows[0], key=lambda row: row[0])  # of networks with as many seeds, not the better on test
        ours, (peer, theirs), (_, uniform) = max(first_first, key=lambda row: len(row[1]))[1], rows[1][0], rows[2][0]
        told = [cell(ours), cell(theirs), peer.removesuffix(" s0").removeprefix("peer "), cell(uniform)]
        told += [before(ours, theirs), before(ours, uniform)]
        lines.append(f"| {network} | {budget} | {' | '.join(told)} |")
    return lines


def rivals(
    trained: Mapping[str, Sequence[Piece]], kinds: Mapping[str, str], who: str
) -> list[tuple[str, Sequence[Piece]]]:
    """Allocations of a kind, the best first; of searches only the default."""
    own = {n: of for n, of in trained.items() if kind_of(n, kinds).startswith(who)}
    if who == "search":
        own = {n: of for n, of in own.items() if n.startswith("search combined s0")}
    return sorted(own.items(), key=lambda row: -statistics.mean(p["test_top1"] for p in row[1]))


def before(ours: Sequence[Piece], theirs: Sequence[Piece]) -> str:
    """Points between the means; "!" where they are no more than the larger of the spreads, or nobody knows it."""
    a, b = ([100 * p["test_top1"] for p in of] for of in (ours, theirs))
    gap = statistics.mean(a) - statistics.mean(b)
    spreads = [statistics.stdev(of) for of in (a, b) if len(of) > 1]
    return f"{gap:+.2f}" + ("" if len(spreads) == 2 and abs(gap) > max(spreads) else " !")


def precision(pieces: Sequence[Piece]) -> str:
    """What marks trainings of which one was in float32."""
    return "" if all(p.get("amp", True) for p in pieces) else " f32"


def kind_of(name: str, kinds: Mapping[str, str]) -> str:
    """What the networks of an allocation look like; of a search, that it is one."""
    return kinds.get(name, name.split()[0])


def judges(found: Pieces, kinds: Mapping[str, str]) -> list[str]:
    """Every candidate for a fidelity against every truth that there is."""
    lines: list[str] = []
    for what in (w for w in TRUTHS if len(found.get(w, {})) >= LEAST):
        truth = top1(found[what], "test")
        rows = []
        for judge, of in scores(found).items():
            losses = {n: loss for n, (loss, _) in of.items()}
            if judge == what or len(truth.keys() & losses.keys()) < LEAST:
                continue
            count, rank, lost, chosen = agreement(losses, truth)
            apart = best_of_kinds(truth, kinds)
            between = agreement(losses, apart)[1] if len(apart.keys() & losses.keys()) >= LEAST else float("nan")
            seconds = statistics.median(s for n, (_, s) in of.items() if n in truth)
            rows.append((lost, -rank, f"| {judge} | {count} | {rank:.2f} | {_number(between)} | {lost:.2f} | {chosen} "
                                      f"| {seconds:.0f} |"))  # fmt: skip
        lines += [
            "", f"### What ranks like {WORDS[what]}", "",
            "| loss after | allocations | rank correlation | the best of each kind only | points lost by its choice "
            "| its choice | processor s |",
            "|" + "---|" * 7, *(row for _, _, row in sorted(rows)),
        ]  # fmt: skip
    return lines


def best_of_kinds(truth: Mapping[str, float], kinds: Mapping[str, str]) -> dict[str, float]:
    """The best allocation of each kind."""
    best: dict[str, str] = {}
    for name in truth:
        kind = kind_of(name, kinds)
        if kind not in best or truth[name] > truth[best[kind]]:
            best[kind] = name
    return {name: truth[name] for name in best.values()}


def write(pieces: Path, networks: Iterable[str], target: Path = HERE / "quality.md") -> str:
    """Write quality.md from all pieces that are there; what is concluded in it is written by hand, and stays."""
    parts: list[str] = []
    before = target.read_text() if target.is_file() else ""
    concluded = CONCLUDED + before.partition(CONCLUDED)[2].partition("\n## ")[0].rstrip()
    machines: set[str] = set()
    found, kinds = {}, {}
    for network in networks:
        for folder in sorted((p for p in (pieces / network).glob("*") if p.is_dir()), key=lambda p: -float(p.name)):
            if of := read(folder):
                found[network, f"{folder.name}%"] = of
    for (network, budget), of in found.items():
        kinds[network, budget] = own = {name: a.kind for name, a in allocations.of(network, budget).items()}
        machines |= {f"{p['machine']}, torch {p['torch']}" for each in of.values() for p in each.values()}
        counts = ", ".join(f"{len(each)} by {what}" for what, each in of.items())
        parts += ["", f"## {network} at {budget} of the MACs", "", f"Pieces: {counts}.", "", *table(of, own)]
        parts += judges(of, own)
    lines = [
        "# Allocations of every kind, and what tells them apart",
        "",
        *textwrap.wrap(HEAD.strip().format(machines="; ".join(sorted(machines)) or "none yet"), 120),
        "",
        "## The judgement: ten epochs of the plain protocol, weights as cut",
        "",
        *textwrap.wrap(JUDGEMENT.strip(), 120),
        "",
        *judgement(found, kinds),
        "",
        concluded,
        *parts,
    ]
    text = "\n".join([*lines, ""])
    write_text(target, text)
    return text


def _number(value: float) -> str:
    return "" if value != value else f"{value:.2f}"
