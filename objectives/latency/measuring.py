"""Measuring a device for a search: candidates are sampled and measured beside the dense network, then fitted."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from objectives.budget import Budget
from objectives.feasibility import Feasibility
from objectives.latency.backend import Backend, rebatched
from objectives.latency.predictor import Latency, fit
from objectives.latency.sites import Site, sites_of
from objectives.latency.timing import Around, at_once, quietest, rounds
from search_spaces import SearchSpace, Widths

CHUNK = 24  # candidates that take turns, all in memory at once
SECONDS = 150.0  # of measuring
LEAST, MOST = 48, 144  # candidates
_STEPS = (1, 1, 8, 16)  # what sampled widths are rounded to: half of a search's users round


_SCHEME = 3  # how candidates are chosen and measured: a cache of another one is not read


@dataclass
class Measured:
    """What sampled candidates took.

    Attributes:
        dense: Milliseconds of the dense network, one per chunk of candidates.
        widths: The candidates.
        shares: What they took, as shares of the dense network's in the same rounds.
        latest: What was learnt from them so far, while it goes on.
    """

    dense: list[float] = field(default_factory=list)
    widths: list[Widths] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    latest: Latency | None = None


def sample(space: SearchSpace, number: int) -> Widths:
    """The candidate that is measured as the `number`-th: any size, any shape, as a search would propose them."""
    rng = np.random.default_rng([20, number])
    scale, step = rng.uniform(0.1, 1.0), int(rng.choice(_STEPS))
    shares = np.clip(scale + rng.uniform(-0.25, 0.25, len(space.groups)), 0.03, 1)
    wished = (max(step, step * round(g.size * share / step)) for g, share in zip(space.groups, shares, strict=True))
    return space.clip(wished)


def proposal(space: SearchSpace, latency: Latency | None, number: int) -> Widths:
    """The candidate that is measured as the `number`-th.

    Once there is a first fit, two of three are what a search would propose: brought to a budget by that very fit. They
    are the places where it is too hopeful, and plain samples do not show them.
    """
    if latency is None or number % 3 == 0:
        return sample(space, number)
    rng = np.random.default_rng([21, number])
    low, high = latency(np.array([space.floor, space.full]))
    limit = max(low, low + rng.uniform(0.05, 1) * (high - low))
    budget = Budget(latency.name, float(limit))
    wish = space.sample(rng) if number % 3 == 1 else sample(space, number)
    return Feasibility(space, [budget], costs={latency.name: latency}).project(wish)


def study(
    backend: Backend,
    name: str,
    model: nn.Module,
    space: SearchSpace,
    example: Any,
    *,
    seconds: float = SECONDS,
    most: int = MOST,
    folder: Path | None = None,
    around: Around = at_once,
) -> Latency:
    """The predictor of a network on a device; measured once, then read from the cache.

    Args:
        backend: Where.
        name: The metric.
        model: The dense network.
        space: Its search space.
        example: One batch as the model is called with.
        seconds: How long to measure at most, at least `LEAST` candidates.
        most: How many candidates at most.
        folder: The cache; default `cache_folder()`.
        around: Called with each burst of measuring (a benchmark that shares a machine rests in between).

    Raises:
        ValueError: If the backend refuses the network.
    """
    example = rebatched(example, backend.setting.batch)
    sites = sites_of(model, space, example)
    about = backend.about
    path = (folder or cache_folder()) / f"{key(about, sites, space)}.json"
    known, started = _read(path), time.monotonic()
    if known is None:
        known = Measured()
        for _ in _measure(known, backend, model, space, example, most, around):
            dense = float(np.median(known.dense))
            if len(known.shares) >= most or (len(known.shares) >= LEAST and time.monotonic() - started > seconds):
                break
            known.latest = fit(name, sites, np.array(known.widths), np.array(known.shares) * dense, dense, about)
        _write(path, known, about)
    dense = float(np.median(known.dense))
    return fit(name, sites, np.array(known.widths), np.array(known.shares) * dense, dense, about)


def _measure(
    found: Measured, backend: Backend, model: nn.Module, space: SearchSpace, example: Any, most: int, around: Around
) -> Iterator[None]:
    """Measure chunk after chunk into `found`."""
    with backend.ready():
        build = backend.candidates(model, space, example)
        dense = build(space.full)
        while True:
            first = len(found.shares)
            numbers = range(first, min(first + CHUNK, most))
            chunk = [proposal(space, found.latest, number) for number in numbers]
            runs = {str(i): build(widths) for i, widths in enumerate(chunk)}
            often = {"dense at first": dense, **runs, "dense at last": dense}
            table = rounds(often, backend.turns, backend.runs, around)
            took = quietest(table)
            found.dense.append(float(np.median(took[[0, -1]])))
            found.widths.extend(chunk)
            found.shares.extend((took[1:-1] / np.sqrt(took[0] * took[-1])).tolist())
            yield


def cache_folder() -> Path:
    """Where measurements are kept: $AUTOPRUNE_CACHE, or autoprune/latency in the user's cache."""
    if own := os.environ.get("AUTOPRUNE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoprune" / "latency"


def key(about: dict[str, str], sites: tuple[Site, ...], space: SearchSpace) -> str:
    """The name of a measurement: device, backend, versions, and every layer's signature and sides."""
    legal = [[g.choices()[0], g.size, g.divisor] for g in space.groups]
    said = json.dumps([about, [s.to_json()[1:] for s in sites], legal, _STEPS, _SCHEME], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:24]


def _read(path: Path) -> Measured | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Measured(data["dense"], [tuple(w) for w in data["widths"]], data["shares"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or half of it: measured anew


def _write(path: Path, measured: Measured, about: dict[str, str]) -> None:
    scratch = path.with_suffix(f".{os.getpid()}")
    with suppress(OSError):  # a cache that cannot be written costs time, nothing else
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {"about": about, "dense": measured.dense, "widths": measured.widths, "shares": measured.shares}
        scratch.write_text(json.dumps(data), encoding="utf-8")
        scratch.replace(path)
