"""The committed record of the grid, policies.csv: one row per policy, budget and seed, made from the pieces."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from protocol import claim as claim

from autoprune.files import write_text

Key = tuple[str, str, int]


@dataclass(frozen=True)
class Row:
    """One policy at one budget with one seed (of the search and of the fine-tuning).

    Attributes:
        policy: Its name.
        budget: MACs that may be kept, "50%".
        seed: Of the search and of the fine-tuning.
        evaluations: Candidates that were run, by proxy or after a short fine-tune.
        macs: Fraction kept, counted on the built network.
        val_loss: The winner's, at the fidelity it won at.
        test_bn: Test top-1 in percent, batch-norm re-estimated, not trained.
        test_epoch: Test top-1 in percent after the epoch.
        val_epoch: The same on the 5,000 validation images.
        test_fitted: Test top-1 in percent, layers reconstructed, not trained.
        test_delivered: Test top-1 in percent after the epoch that began there.
        wall_s: Seconds of the whole search.
        compute_s: Seconds of it in forward and backward passes.
        widths: Separated by spaces.
        curve: Where the best proxy loss fell: "evaluation:loss" separated by spaces; the last one is the end.
        machine: Where it ran.
        error: Why there is no network; empty if there is one.
    """

    policy: str
    budget: str
    seed: int
    evaluations: int = 0
    macs: float = math.nan
    val_loss: float = math.nan
    test_bn: float = math.nan
    test_epoch: float = math.nan
    val_epoch: float = math.nan
    test_fitted: float = math.nan
    test_delivered: float = math.nan
    wall_s: float = math.nan
    compute_s: float = math.nan
    widths: str = ""
    curve: str = ""
    machine: str = ""
    error: str = ""

    @property
    def key(self) -> Key:
        """What a row is the only one of."""
        return self.policy, self.budget, self.seed

    @property
    def points(self) -> list[tuple[int, float]]:
        """The curve as numbers."""
        return [(int(n), float(loss)) for n, _, loss in (p.partition(":") for p in self.curve.split())]


def piece_name(key: Key) -> str:
    """The stem of a piece's file."""
    return f"{key[0]}-{key[1]}-s{key[2]}"


def from_piece(
    found: dict[str, Any], epoch: dict[str, Any], machine: str, delivered: dict[str, Any] | None = None
) -> Row:
    """A row from the piece of the search and those of its epochs (empty where there is none)."""
    delivered = delivered or {}
    losses = found.get("losses", [])
    fidelities = found.get("fidelities", ["proxy"] * len(losses))
    proxy = [f == fidelities[0] for f in fidelities]  # at which the search scores; finalists come later
    probes = found.get("probes", [False] * len(losses))
    counted = [loss if use and not probe else math.inf for loss, use, probe in zip(losses, proxy, probes, strict=True)]
    last = max((n for n, use in enumerate(proxy, start=1) if use), default=0)
    return Row(
        policy=found["policy"],
        budget=found["budget"],
        seed=found["seed"],
        evaluations=found.get("evaluations", 0),
        macs=found.get("macs", math.nan),
        val_loss=found.get("val_loss", math.nan),
        test_bn=found.get("test_bn", math.nan),
        test_epoch=epoch.get("test", math.nan),
        val_epoch=epoch.get("val", math.nan),
        test_fitted=delivered.get("untrained", math.nan),
        test_delivered=delivered.get("test", math.nan),
        wall_s=found.get("wall_s", math.nan),
        compute_s=found.get("compute_s", math.nan),
        widths=" ".join(map(str, found.get("widths", []))),
        curve=" ".join(f"{n}:{loss:.4f}" for n, loss in best_so_far(counted[:last])),
        machine=found.get("machine", machine),
        error=found.get("error", ""),
    )


def best_so_far(losses: Sequence[float | None]) -> list[tuple[int, float]]:
    """Where the lowest loss fell, as (number of evaluations, loss), and how it stood in the end."""
    points: list[tuple[int, float]] = []
    for n, loss in enumerate(losses, start=1):
        if loss is not None and math.isfinite(loss) and (not points or loss < points[-1][1]):
            points.append((n, loss))
    if points and points[-1][0] < len(losses):
        points.append((len(losses), points[-1][1]))
    return points


def read(path: Path) -> dict[Key, Row]:
    """The rows of a record; none if there is no file."""
    if not path.is_file():
        return {}
    kinds = {f.name: {"int": int, "float": float}.get(str(f.type), str) for f in fields(Row)}
    rows = {}
    with path.open(newline="", encoding="utf-8") as file:
        for said in csv.DictReader(file):
            row = Row(**{k: kinds[k](v) for k, v in said.items() if k in kinds and v})
            rows[row.key] = row
    return rows


def add(path: Path, new: Iterable[Row], lock: Path) -> dict[Key, Row]:
    """Put rows into the record, in the place of older ones; two processes may do so at once."""
    with claim(lock, wait=True):
        rows = {**read(path), **{row.key: row for row in new}}
        rows = dict(sorted(rows.items(), key=lambda item: (item[0][0], -float(item[0][1].rstrip("%")), item[0][2])))
        text = io.StringIO()
        writer = csv.DictWriter(text, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in rows.values():
            writer.writerow({name: _cell(value) for name, value in asdict(row).items()})
        write_text(path, text.getvalue())
    return rows


def harvest(pieces: Path, known: dict[Key, Row], machine: str) -> list[Row]:
    """The rows of all finished pieces of a folder, whoever made them."""
    rows = []
    for path in sorted(pieces.glob("*.json")):
        try:
            found = json.loads(path.read_text())
        except json.JSONDecodeError:  # being written by someone less careful
            continue
        if not {"policy", "budget", "seed"} <= found.keys():
            continue
        key = (found["policy"], found["budget"], found["seed"])
        epoch, delivered = (pieces / f"{piece_name(key)}-{kind}-{key[2]}.json" for kind in ("epoch", "delivered"))
        where = known[key].machine if key in known else machine
        if "error" in found or epoch.is_file():
            rows.append(from_piece(found, _read(epoch), where, _read(delivered)))
    return rows


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}  # type: ignore[no-any-return]


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
