"""The pieces that quality.py has kept, as its tables read them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Piece = Mapping[str, Any]
Pieces = dict[str, dict[str, Piece]]  # measure -> allocation -> piece
DENSE = "dense.json"  # of a network: what it is before anything goes
WORDS = {
    "train:351": "1 epoch",
    "train:1755": "5 epochs",
    "train:3510": "10 epochs",
    "proxy": "batch-norm re-estimated",
    "reconstructed": "layers reconstructed",
}


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


def kind_of(name: str, kinds: Mapping[str, str]) -> str:
    """What the networks of an allocation look like; of a search, that it is one."""
    return kinds.get(name, name.split()[0])


def number(value: float) -> str:
    """To two places; NaN is not measured."""
    return "" if value != value else f"{value:.2f}"
