"""quality.md: what the pieces of quality.py say. Pure arithmetic on what was measured; nothing is run.

Letters: `A` allocations.
"""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import allocations
from protocol import HERE
from scipy.stats import spearmanr

from autoprune.files import write_text

Piece = Mapping[str, Any]
Pieces = dict[str, dict[str, Piece]]  # measure -> allocation -> piece
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
float32, on a processor that has no bf16), from the weights as cut, no distillation, seed 0. Columns of epochs are
top-1 in percent on test; the others the loss on 2,000 held out images. *train:N* is N steps (351: an epoch); *K steps
of train:N* a look at that training after K steps, batch-norm re-estimated. Units by `group_fisher` unless the builder
says otherwise. *Points lost*: the best of the allocations in common against the one with the lowest loss.
"""
CONCLUSION = """
## What a fair reader concludes so far

One training seed unless said otherwise; one epoch of training unless said otherwise; ResNet-20 and ResNet-56 at 15 %,
ResNet-20 at 50 %. The grid is not full: which pieces there are is told below, and `quality.py` goes on where it was
stopped.

- **Which units stay matters more than how many.** Scores of the dense network take every unit alone; of two that make
  up for each other both are cheap, and both go. Scored in rounds instead (`--score-rounds 4`: cut a quarter of the way
  by `equal_loss`, train 60 steps, score what is left; the weights are thrown away), the units of `equal_loss`, with the
  weights that they have in the dense network and the widths of the dense scores, end on ResNet-20 at 15 % at
  **70.7 ± 0.2** (three seeds) where the same widths with units of the dense network's scores end at 65.7, FastNAS at
  63.4 and the best search with dense scores at 67.9.
- **The widths are better from the dense scores.** The rounds can say how wide a group should be, too ("values in
  rounds": a unit's score is that of the round in which it goes). Those widths end at 69.9 ± 0.1 at 15 % (63.0 with the
  units of the dense scores), and at 83.8 at 50 %, where the widths of the dense scores end at 84.4, whether units are
  scored in rounds or not (Torch-Pruning 84.6 ± 0.1, policies.md). So rounds give the order of units, and the dense
  scores their values. On ResNet-56 at 15 % only values in rounds are measured: **78.9**, above everything there
  (`equal_loss` with units of the norms 78.7, FastNAS with its own units 78.2, Torch-Pruning 77.2), but by less than two
  seeds may differ.
- **The default search, run to its end on ResNet-20 at 15 % (seed 0, 114 trainings and candidates in 18 minutes of one
  core), ends at 71.1** after the epoch from weights as cut, with values in rounds at 71.2: 0.4 above the closed form,
  3.2 above the best search before, 7.7 above FastNAS. After ten epochs it ends at 80.9, FastNAS's widths with units by
  norms at 79.0, uniform widths at 77.8 (one seed each): a long training makes the differences smaller.
- How many rounds and steps (ResNet-20, loss after 100 steps from weights as cut; the dense scores 1.18): 4 rounds of 60
  steps 1.02 and 1.02 (two seeds), 2 of 60 1.03, 3 of 60 1.07, 4 of 120 1.06, 8 of 30 1.08, 8 of 100 1.09; 8 rounds
  without training, batch-norm re-estimated, 1.15. So most of it is the training, and more of it adds nothing.
- Whole blocks (`--depth on`) do not help the closed form at 15 % of the MACs of ResNet-56: in rounds the rule removes
  one of 27 (loss after 100 steps 0.76 against 0.74), with branch scores three (0.80). The default search with blocks
  that may go (114 trainings and candidates, 27 minutes of one core, seed 0) removes eleven and ends at **79.1**: above
  FastNAS (78.2), the old search (77.1) and the closed form (78.9). The same search without blocks has not been run.
- **By dense scores, `equal_loss` is the best closed form on both networks**, and costs nothing beyond the scores:
  78.2 on ResNet-56, where the default search before it knew kinds (93 evaluations) ends at 77.1 and Torch-Pruning at
  77.2; 65.7 on ResNet-20, where FastNAS had 63.4 (policies.md). Its widths are near FastNAS's there: streams whole or
  nearly, many blocks of one channel. With the streams frozen it is no better (64.3 on ResNet-20): the rule keeps them
  by itself. After five epochs on ResNet-56, with the units of the norms: 84.3; Torch-Pruning 84.0 and the old search
  83.5 were measured elsewhere under the same protocol (their one epoch comes out here as there, to 0.1).
- **No loss without training tells kinds apart**: batch-norm re-estimation has a rank correlation of about 0 with the
  epoch on ResNet-20, and would choose uniform widths. A training of 25 to 50 steps at the rate of the long one, then
  batch-norm, has 0.8 to 0.9 there, and its choice loses at most 0.5 points on either network; 200 steps lose nothing.
  ResNet-56's first ten allocations lie within 3.6 points, so that its correlations say less (0.5 to 0.9).
- **Units by norms or by Fisher is a matter of the network**: norms win on ResNet-56 for FastNAS's widths (+1.5) and
  those of `equal_loss` (+0.5), not for Torch-Pruning's (+0.2); on ResNet-20 no finalist of a search wanted them.
  Finalists therefore try both.
- FastNAS's widths end at 75.9 and 77.4 here, with Fisher's units and those of the norms. With its own units 78.2 was
  measured elsewhere under the same protocol; they were not kept.
- What loses: rankings through raw scores (45 to 48 on ResNet-20), L2 in one threshold (48 with the streams kept),
  norms in rounds over the whole space (48.8 on ResNet-20: it thins the first stream to one channel), Taylor in place
  of Fisher under the same rule (75.8 against 78.2 on ResNet-56, 58.9 against 64.3 on ResNet-20).
- **Early steps rank kinds, not neighbours.** On ResNet-20 the search before kinds is ahead of `equal_loss` at 25, 50,
  100 and 200 steps (1.62, 1.45, 1.16, 0.98 against 1.68, 1.46, 1.19, 1.04), as after the epoch: a comparison from the
  weights as cut would have chosen it, and the default with kinds (65.8) seems not to have proposed that kind: since
  the floor fell from a twentieth of a group to one unit, evolution by reconstruction ends in bottlenecks of one
  channel, which least squares bridge and training does not; and it judged its finalists from reconstructed layers.
  But 24 networks near the best of the first rung, chosen by 22 steps, led to one that is ahead at 25 steps (1.55) and
  behind at 100 (1.20), 200 (1.05) and in the end: **64.3**, behind the warm start. That refinement has been taken out
  again. On ResNet-56 it is the same to a lesser degree: the first of the first rung is ahead of `equal_loss` at 25
  steps (1.17 against 1.20), level at 50 (0.95) and 100 (0.80), and ends at 77.6: above Torch-Pruning (77.2), behind
  `equal_loss` (78.2) and FastNAS (78.2 with its own units).
- Hence the default now: rungs from the weights as cut, at the rate of a long training, of 33, 100 and 300 steps, only
  the last from the best start; half of evolution without bottlenecks (a twentieth of each group at least), in place
  of the half that kept whole streams, a kind that loses to `equal_loss` on both networks. Of 64 candidates on
  ResNet-20 (a run without finalists) the best by reconstruction without bottlenecks is 12 1 1 4 6 24 2 2 26 51 14 26,
  near the networks that the search before kinds found, and yet behind them: 1.74, 1.56 and 1.34 after 25, 50 and 100
  steps, where the training was stopped. So reconstruction does not choose within that kind either; which of the
  others training would choose is open. All this was found with dense scores.
- float32 in place of bf16 changes nothing that matters: the search before kinds ends at 67.85 (bf16: 67.94),
  `equal_loss` with the units of the norms has 1.25, 0.94, 0.79 after 25, 50, 100 steps (bf16: 1.29, 0.95, 0.79).

Not measured: the bars of the judgement (three seeds, ten epochs, four networks), other trainings than the plain one,
30 %, ResNet-56 at 50 %, VGG and MobileNet (networks.py trains them; their weights are not at hand), Ray.
"""  # kept by hand


def read(pieces: Path) -> Pieces:
    """The pieces of one network and budget; those of widths that an allocation no longer has are left out by name."""
    found: Pieces = {}
    for path in sorted(pieces.glob("*.json")):
        piece = json.loads(path.read_text())
        found.setdefault(piece["what"], {})[piece["name"]] = piece
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


def table(found: Pieces, kinds: Mapping[str, str]) -> list[str]:
    """Every allocation, the best after the longest training first."""
    trained = sorted((w for w in found if w.startswith("train:")), key=lambda w: (int(w.split(":")[1]), w))
    known = {w: top1(found[w], "test") for w in trained if top1(found[w], "test")}
    plain = [w for w in found if w not in known]
    names = {name for of in found.values() for name in of}

    def order(name: str) -> tuple[float, ...]:
        return tuple(-known[w].get(name, 0.0) for w in reversed(known))

    titles = [WORDS.get(w, w) for w in (*plain, *known)]
    lines = [f"| allocation | kind | {' | '.join(titles)} | widths |", "|" + "---|" * (3 + len(titles))]
    for name in sorted(names, key=lambda n: (order(n), n)):
        cells = [f"{found[w][name]['loss']:.3f}" if name in found[w] else "" for w in plain]
        cells += [f"{known[w][name]:.2f}{precision(found[w][name])}" if name in known[w] else "" for w in known]
        widths = next(of[name]["widths"] for of in found.values() if name in of)
        lines.append(f"| {name} | {kind_of(name, kinds)} | {' | '.join(cells)} | {' '.join(map(str, widths))} |")
    return lines


def precision(piece: Piece) -> str:
    """What marks a training in float32."""
    return "" if piece.get("amp", True) else " f32"


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
    """Write quality.md from all pieces that are there."""
    parts: list[str] = []
    machines: set[str] = set()
    for network in networks:
        for folder in sorted((p for p in (pieces / network).glob("*") if p.is_dir()), key=lambda p: -float(p.name)):
            budget, found = f"{folder.name}%", read(folder)
            if not found:
                continue
            kinds = {name: a.kind for name, a in allocations.of(network, budget).items()}
            machines |= {f"{p['machine']}, torch {p['torch']}" for of in found.values() for p in of.values()}
            counts = ", ".join(f"{len(of)} by {what}" for what, of in found.items())
            parts += ["", f"## {network} at {budget} of the MACs", "", f"Pieces: {counts}.", "", *table(found, kinds)]
            parts += judges(found, kinds)
    lines = [
        "# Allocations of every kind, and what tells them apart",
        "",
        *textwrap.wrap(HEAD.strip().format(machines="; ".join(sorted(machines)) or "none yet"), 120),
        *CONCLUSION.rstrip().splitlines(),
        *parts,
    ]
    text = "\n".join([*lines, ""])
    write_text(target, text)
    return text


def _number(value: float) -> str:
    return "" if value != value else f"{value:.2f}"
