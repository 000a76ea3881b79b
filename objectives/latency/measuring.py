"""Measuring a device for a search: candidates are sampled and measured beside the dense network, then fitted."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from objectives.latency.backend import Backend, Build, rebatched
from objectives.latency.predictor import Latency, fit
from objectives.latency.sampling import STEPS, proposal
from objectives.latency.sites import Site, operations, sites_of
from objectives.latency.timing import Around, Run, at_once, quietest, rounds
from objectives.presence import Presence
from search_spaces import SearchSpace, Widths

CHUNK = 24  # candidates that take turns, all in memory at once
SECONDS = 150.0  # of measuring
LEAST, MOST = 48, 144  # candidates
AGAIN = 12  # that are measured twice
OLD_S = 3600.0  # half-written measurements of that age belong to nobody
_SCHEME = 6  # how candidates are chosen and measured: a cache of another one is not read

Measure = Callable[[Sequence[Widths]], tuple[float, list[float]]]


@dataclass
class LatencySamples:
    """What sampled candidates took.

    Attributes:
        dense: Milliseconds of the dense network as it would be delivered, one per chunk of candidates.
        widths: The candidates.
        shares: What they took, as shares of the dense network's in the same rounds.
    """

    dense: list[float] = field(default_factory=list)
    widths: list[Widths] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)


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
    say: Callable[[str], None] | None = None,
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
        say: Called with a line before anything is measured.

    Raises:
        ValueError: If the backend refuses the network.
    """
    example = rebatched(example, backend.setting.batch)
    sites = sites_of(model, space, example)
    presence = Presence.of(space, [site.name for site in sites])
    about = backend.about
    path = (folder or cache_folder()) / f"{key(about, sites, space, operations(model, example))}.json"

    def learn(known: LatencySamples) -> Latency:
        dense = float(np.median(known.dense))
        return fit(name, sites, np.array(known.widths), np.array(known.shares) * dense, dense, about, presence)

    known = _read(path)
    if known is None:
        if say:
            more = f", and at least {min(LEAST, most)} of them {backend.builds}" if backend.builds else ""
            about_it = f"up to {most}, about {seconds:.0f} s{more}; then kept"
            say(f"measuring networks for the predictor of {name} ({about_it}) ...")
        known = LatencySamples()
        with backend.ready():
            build = backend.candidates(model, space, example)
            dense = delivered = build(space.full)
            if not backend.alike:
                delivered = backend.candidates(model, space, example, delivered=True)(space.full)
            measure = _beside_dense(backend, build, dense, delivered, around)
            end = time.monotonic() + seconds
            while len(known.shares) < most and (len(known.shares) < LEAST or time.monotonic() < end):
                latency = learn(known) if known.shares else None
                numbers = range(len(known.shares), min(len(known.shares) + CHUNK, most))
                chunk = [proposal(space, latency, number) for number in numbers]
                ms, shares = measure(chunk)
                known.dense.append(ms)
                known.widths.extend(chunk)
                known.shares.extend(shares)
                if say:
                    say(f"{len(known.shares)} networks measured")
            _look_again(known, learn(known), measure)
        _write(path, known, about)
    return learn(known)


def _beside_dense(backend: Backend, build: Build, dense: Run, delivered: Run, around: Around) -> Measure:
    """What measures candidates in turns with the dense network: its milliseconds, and their shares of it.

    The milliseconds are those of the dense network as it would be delivered; the shares are of files of one kind.
    """

    def measure(candidates: Sequence[Widths]) -> tuple[float, list[float]]:
        runs = {str(i): build(widths) for i, widths in enumerate(candidates)}
        often = {"delivered": delivered, "dense at first": dense, **runs, "dense at last": dense}
        ms, first, *others, last = quietest(rounds(often, backend.turns, backend.runs, around))
        return float(ms), (np.array(others) / np.sqrt(first * last)).tolist()

    return measure


def _look_again(known: LatencySamples, latency: Latency, measure: Measure) -> None:
    """Measure once more what was slower than learnt: the machine disturbed, or the device? The quicker one counts."""
    predicted = latency(np.array(known.widths)) / latency.dense
    doubtful = np.argsort(predicted / known.shares)[:AGAIN].tolist()
    _, shares = measure([known.widths[i] for i in doubtful])
    for i, share in zip(doubtful, shares, strict=True):
        known.shares[i] = min(known.shares[i], share)


def cache_folder() -> Path:
    """Where measurements are kept: $AUTOPRUNE_CACHE, or autoprune/latency in the user's cache."""
    if own := os.environ.get("AUTOPRUNE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoprune" / "latency"


def key(about: dict[str, str], sites: tuple[Site, ...], space: SearchSpace, operations: Sequence[str] = ()) -> str:
    """The name of a measurement: device, backend, versions, every layer's signature and sides, and all operations."""
    legal = [[g.choices()[0], g.size, g.divisor] for g in space.groups]
    said = [about, [s.to_json()[1:] for s in sites], legal, list(operations), STEPS, _SCHEME]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:24]


def _read(path: Path) -> LatencySamples | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return LatencySamples(data["dense"], [tuple(w) for w in data["widths"]], data["shares"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or half of it: measured anew


def _write(path: Path, measured: LatencySamples, about: dict[str, str]) -> None:
    data = {"about": about, "dense": measured.dense, "widths": measured.widths, "shares": measured.shares}
    with suppress(OSError):  # a cache that cannot be written costs time, nothing else
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.stem}.*"):  # by a process that died in the instant between
            if time.time() - left.stat().st_mtime > OLD_S:
                left.unlink()
        scratch = path.with_name(f".{path.stem}.{secrets.token_hex(8)}")  # process numbers repeat in containers
        try:
            scratch.write_text(json.dumps(data), encoding="utf-8")
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
