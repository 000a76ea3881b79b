"""quality.md: what the pieces of quality.py say. Pure arithmetic on what was measured; nothing is run.

Letters: `A` allocations.
"""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import allocations
import quality_judges
import trainability
from protocol import HERE, spread
from quality_pieces import DENSE, WORDS, Piece, Pieces, by_training, kind_of, read, top1

from autoprune.files import write_text

JUDGED = "train:3510"  # ten epochs
HEAD = """
Made by `quality.py`. Machines: {machines}, one thread. CIFAR-10 as JPEG; the plain protocol: SGD with Nesterov
momentum .9, weight decay 5e-4, .02 with cosine decay to 0 over all steps, batch 128, crop and flip, bf16 (marked f32:
one seed or more in float32, on a processor that has no bf16), from the weights as cut, no distillation. Columns of
epochs are top-1 in percent on test, mean ± standard deviation (seeds of the training; one: seed 0); *NAME (2)*: other
widths of the same name (a search on another machine found another network). The others are the loss on 2,000 held out
images. *train:N* is N steps (351: an epoch); *K steps of train:N* a look at that training after K steps, batch-norm
re-estimated; lines, slopes and power laws go through such looks, and *a model* is a linear one of ranks at 25, 50 and
100 steps. Units by `group_fisher` unless the builder says otherwise. *Points lost*: the best of the allocations in
common against the one with the lowest loss.
"""
JUDGEMENT = """
The network that the default search finds (search seed 0), the best network of another tool and the better of the
uniform prunings, top-1 in percent on test: mean ± standard deviation, and of how many seeds of the training. "units
by norms": the widths of the tool with the units that the norms choose, where its own were not kept. "!": no more than
the larger spread, or of too few seeds to say so. The last column is of the two on the 5,000 validation images, of which
autoprune and FastNAS have searched on 2,000.
"""
CONCLUDED = "## What a fair reader concludes so far"  # kept by hand


def cell(pieces: Sequence[Piece]) -> str:
    """Mean and spread in percent, and of how many seeds where there are several."""
    if not pieces:
        return ""
    seeds = f" ({len(pieces)})" if len(pieces) > 1 else ""
    return f"{spread([100 * p['test_top1'] for p in pieces])}{seeds}{precision(pieces)}"


def table(found: Pieces, kinds: Mapping[str, str]) -> list[str]:
    """Every allocation, the best after the longest training first."""
    known = by_training(found)
    plain = [w for w in found if w not in trainability.MEASURES and not top1(found[w], "test")]
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


def judgement(
    found: Mapping[tuple[str, str], Pieces],
    kinds: Mapping[tuple[str, str], Mapping[str, str]],
    dense: Mapping[str, float],
) -> list[str]:
    """The default search, the best peer and the better uniform pruning, after ten epochs of the same training.

    Args:
        found: By network and budget.
        kinds: Likewise, allocation -> kind.
        dense: Network -> top-1 on test before anything goes, in percent, where it is known.
    """
    lines = [
        "| network | dense | MACs kept | autoprune | best peer | which | uniform | before the peer | before uniform | "
        "both on validation |",
        "|" + "---|" * 10,
    ]
    for (network, budget), pieces in found.items():
        trained = by_training(pieces).get(JUDGED, {})
        rows = [rivals(trained, kinds[network, budget], who) for who in ("search", "peer", "uniform")]
        if not all(rows):
            continue
        first_first = sorted(rows[0], key=lambda row: row[0])  # of networks with as many seeds, not the better on test
        ours, (peer, theirs), (_, uniform) = max(first_first, key=lambda row: len(row[1]))[1], rows[1][0], rows[2][0]
        told = [cell(ours), cell(theirs), peer.removesuffix(" s0").removeprefix("peer "), cell(uniform)]
        told += [before(ours, theirs), before(ours, uniform), " : ".join(map(on_validation, (ours, theirs)))]
        whole = f"{dense[network]:.2f}" if network in dense else ""
        lines.append(f"| {network} | {whole} | {budget} | {' | '.join(told)} |")
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


def on_validation(pieces: Sequence[Piece]) -> str:
    """Mean in percent; "" where it was not measured."""
    known = [100 * p["val_top1"] for p in pieces if "val_top1" in p]
    return f"{statistics.mean(known):.2f}" if known else ""


def precision(pieces: Sequence[Piece]) -> str:
    """What marks trainings of which one was in float32."""
    return "" if all(p.get("amp", True) for p in pieces) else " f32"


def write(pieces: Path, networks: Iterable[str], target: Path = HERE / "quality.md") -> str:
    """Write quality.md from all pieces that are there; what is concluded in it is written by hand, and stays."""
    parts = {}
    before = target.read_text() if target.is_file() else ""
    concluded = CONCLUDED + before.partition(CONCLUDED)[2].partition("\n## ")[0].rstrip()
    machines: set[str] = set()
    found, kinds, dense = {}, {}, {}
    for network in networks:
        if (own := pieces / network / DENSE).is_file():
            dense[network] = 100 * json.loads(own.read_text())["test_top1"]
        for folder in sorted((p for p in (pieces / network).glob("*") if p.is_dir()), key=lambda p: -float(p.name)):
            if of := read(folder):
                found[network, f"{folder.name}%"] = of
    for (network, budget), of in found.items():
        kinds[network, budget] = own = {name: a.kind for name, a in allocations.of(network, budget).items()}
        machines |= {f"{p['machine']}, torch {p['torch']}" for each in of.values() for p in each.values()}
        counts = ", ".join(f"{len(each)} by {what}" for what, each in of.items())
        parts[network, budget] = [
            "",
            f"## {network} at {budget} of the MACs",
            "",
            f"Pieces: {counts}.",
            "",
            *table(of, own),
        ]
    judged = quality_judges.tables(found, kinds)
    lines = [
        "# Allocations of every kind, and what tells them apart",
        "",
        *textwrap.wrap(HEAD.strip().format(machines="; ".join(sorted(machines)) or "none yet"), 120),
        "",
        "## The judgement: ten epochs of the plain protocol, weights as cut",
        "",
        *textwrap.wrap(JUDGEMENT.strip(), 120),
        "",
        *judgement(found, kinds, dense),
        "",
        concluded,
        *(line for network, lines in parts.items() for line in [*lines, *judged[network]]),
    ]
    text = "\n".join([*lines, ""])
    write_text(target, text)
    return text
