"""Which schedule picks the best network for its seconds? Replayed on what proxies.py has measured: nothing is run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

Rungs = Sequence[tuple[str, float]]  # what scores, and the share of all candidates that come so far
Measured = Mapping[str, Mapping[int, Mapping[str, float]]]  # what -> number -> {"loss", "seconds"}
SCHEDULES: dict[str, Rungs] = {
    "batch-norm": [("proxy:1000", 1)],
    "reconstruction": [("reconstructed", 1)],
    "50 steps": [("short:50", 1)],
    "200 steps": [("short:200", 1)],
    "reconstruction, then finalists of 50 steps": [("reconstructed", 1), ("short:50", 0.15)],
    "reconstruction, then finalists of 200 steps": [("reconstructed", 1), ("short:200", 0.15)],
    "halving: batch-norm of 256 and 4,000 images, 50, 200 steps": [
        ("proxy:256", 1), ("proxy:4000", 0.5), ("short:50", 0.25), ("short:200", 0.1),
    ],
    "halving: batch-norm of 256 images, reconstruction, 50, 200 steps": [
        ("proxy:256", 1), ("reconstructed", 0.5), ("short:50", 0.25), ("short:200", 0.1),
    ],
    "halving: reconstruction, 50, 200 steps": [("reconstructed", 1), ("short:50", 0.25), ("short:200", 0.1)],
}  # fmt: skip
SAME = 20  # candidates of each draw
SECONDS = (60, 300)  # or as many as fit into these
DRAWS = 2000


def replay(rungs: Rungs, numbers: Sequence[int], measured: Measured) -> tuple[int, float]:
    """The candidate that a schedule picks, and the seconds it takes."""
    alive, seconds = list(numbers), 0.0
    for what, share in rungs:
        alive = alive[: max(1, round(share * len(numbers)))]
        seconds += sum(measured[what][n]["seconds"] for n in alive)
        alive.sort(key=lambda n: measured[what][n]["loss"])
    return alive[0], seconds


def most(rungs: Rungs, seconds: float, measured: Measured, limit: int) -> int:
    """How many candidates a schedule takes in at most so many seconds; at least one, at most `limit`."""
    price = {what: statistics.mean(m["seconds"] for m in measured[what].values()) for what, _ in rungs}

    def cost(count: int) -> float:
        return sum(price[what] * max(1, round(share * count)) for what, share in rungs)

    return max((n for n in range(1, limit + 1) if cost(n) <= seconds), default=1)


def table(measured: Measured, truth: Mapping[int, float]) -> list[str]:
    """What the schedules pick: mean truth of the winner over random draws of the candidates.

    Args:
        measured: What proxies.py knows; schedules that need more are left out.
        truth: Per candidate, top-1 in percent after the epoch.
    """
    wanted = {name: rungs for name, rungs in SCHEDULES.items()
              if all(measured.get(what, {}).keys() >= truth.keys() for what, _ in rungs)}  # fmt: skip
    if len(truth) < SAME or not wanted:
        return []
    lines = [
        "## Which schedule",
        "",
        f"Replayed on these measurements, not run: of random draws of the {len(truth)} candidates ({DRAWS:,}, without "
        "repetition), the mean truth of the one that the schedule picks. Finalists are the best 15 % (at least one); "
        "halving lets all, 50 or 25 % and 10 % of them through. On the right as many candidates are drawn as the "
        f"schedule has done with in so many seconds ({len(truth)} at most).",
        "",
        f"| schedule | {SAME} candidates: seconds | its pick | "
        + " | ".join(f"in {s} s: candidates | its pick" for s in SECONDS)
        + " |",
        "|" + "---|" * (3 + 2 * len(SECONDS)),
    ]
    for name, rungs in wanted.items():
        cells = []
        for count in (SAME, *(most(rungs, s, measured, len(truth)) for s in SECONDS)):
            rng = np.random.default_rng(count)
            found = [replay(rungs, rng.permutation(list(truth))[:count].tolist(), measured) for _ in range(DRAWS)]
            top1 = statistics.mean(truth[pick] for pick, _ in found)
            cells.append(
                f"{statistics.mean(s for _, s in found):.0f} | {top1:.2f}" if not cells else f"{count} | {top1:.2f}"
            )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    rng = np.random.default_rng(SAME)
    best = statistics.mean(max(truth[n] for n in rng.permutation(list(truth))[:SAME]) for _ in range(DRAWS))
    return [*lines, "", f"The best of {SAME} candidates: {best:.2f} % in the mean.", ""]
