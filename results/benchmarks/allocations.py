"""Allocations of every kind for one network and budget: named builders, so that a kind is one line.

A *stream* is a group that many layers add to (`autoprune.allocation.streams`); the other groups are *inner* ones. No
builder names a layer: where one speaks of a stage, it means the inner groups whose readers make the same stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoprune.allocation import equal_loss, exemplars, global_ranking, knapsack, uniform
from autoprune.allocation.streams import between, holding, streams
from autoprune.problem import Problem
from search_spaces import SearchSpace, Widths

ProblemOf = Callable[[str], Problem]  # by criterion
Build = Callable[[ProblemOf], Widths]
FISHER = "group_fisher"
IN_ROUNDS = " in rounds"  # of a criterion: scored while the network is pruned and trained, as a search does
ROUNDS = FISHER + IN_ROUNDS


@dataclass(frozen=True)
class Allocation:
    """One way to choose the widths.

    Attributes:
        kind: What such networks look like, in a word or three.
        build: Makes the widths, from the problem of each criterion.
        units: The criterion that says which units stay.
    """

    kind: str
    build: Build
    units: str = FISHER


def stages(space: SearchSpace) -> dict[int, list[int]]:
    """Stream -> the inner groups whose readers make it, in order."""
    found: dict[int, list[int]] = {s: [] for s in streams(space)}
    for layer in space.layers:
        for s in (g for g, _ in layer.makes.terms if g in found):
            found[s] += [g for g, _ in layer.reads.terms if g not in found and g not in found[s]]
    return found


def shaped(problem: Problem, sizes: Mapping[int, float], shares: Sequence[float] | None = None) -> Widths:
    """Some groups at given sizes, the others from their floor towards their shares (default: all of them alike)."""
    full, floor = problem.space.full, problem.space.floor
    top = [size * share for size, share in zip(full, shares or [1.0] * len(full), strict=True)]
    low, high = ([sizes.get(g, ends[g]) for g in range(len(full))] for ends in (floor, top))
    held = holding(problem, [g for g, size in sizes.items() if size == full[g]])
    return between(held, low, high)


def whole(space: SearchSpace) -> dict[int, float]:
    """The streams at their full size."""
    return {s: float(space.full[s]) for s in streams(space)}


def kept(rule: Callable[[Problem], Widths], criterion: str = FISHER) -> Build:
    """A rule with the streams at their full size."""
    return lambda of: rule(holding(of(criterion), streams(of(criterion).space)))


def free(rule: Callable[[Problem], Widths], criterion: str = FISHER) -> Build:
    """A rule over the whole space."""
    return lambda of: rule(of(criterion))


def ramp(early: float, late: float, keep: bool) -> Build:
    """Shares that go evenly from the first group to the last."""

    def build(of: ProblemOf) -> Widths:
        space = of(FISHER).space
        shares = np.linspace(early, late, len(space.groups)).tolist()
        return shaped(of(FISHER), whole(space) if keep else {}, shares)

    return build


def streams_at(share: float) -> Build:
    """Every stream at one share, the inner groups alike."""

    def build(of: ProblemOf) -> Widths:
        space = of(FISHER).space
        return shaped(of(FISHER), {s: round(share * space.full[s]) for s in streams(space)})

    return build


def without(stage: int | None, every: int = 1, keep: bool = True) -> Build:
    """Inner groups of a stage (or of all) at their floor, but for its first; every second one with `every=2`."""

    def build(of: ProblemOf) -> Widths:
        space = of(FISHER).space
        sizes = whole(space) if keep else {}
        for number, inner in enumerate(stages(space).values()):
            if stage in (None, number):
                sizes |= {g: space.floor[g] for g in inner[1:][every - 1 :: every]}
        return shaped(of(FISHER), sizes)

    return build


def raw_ranking(problem: Problem) -> Widths:
    """One threshold through the scores as they are."""
    return global_ranking(problem, normaliser="none")


def rounds(problem: Problem) -> Widths:
    """Ten thresholds, the mean of each group taken anew."""
    return global_ranking(problem, rounds=10)


def told(widths: str) -> Build:
    """Widths that somebody else found; refused where they are not of this space."""
    return lambda of: of(FISHER).space.check(tuple(map(int, widths.split())))


ALLOCATIONS: dict[str, Allocation] = {
    "uniform": Allocation("uniform, all groups", free(uniform)),
    "uniform, streams kept": Allocation("uniform, streams kept", kept(uniform)),
    "uniform, streams kept, units by norms": Allocation("uniform, streams kept", kept(uniform), "magnitude"),
    "ranking": Allocation("global ranking", free(global_ranking)),
    "ranking, streams kept": Allocation("global ranking, streams kept", kept(global_ranking)),
    "raw ranking": Allocation("global ranking", free(raw_ranking)),
    "raw ranking, streams kept": Allocation("global ranking, streams kept", kept(raw_ranking)),
    "l2 ranking": Allocation("global ranking", free(global_ranking, "l2")),
    "l2 ranking, streams kept": Allocation("global ranking, streams kept", kept(global_ranking, "l2")),
    "l2 ranking and units, streams kept": Allocation("global ranking, streams kept", kept(global_ranking, "l2"), "l2"),
    "taylor ranking, streams kept": Allocation("global ranking, streams kept", kept(global_ranking, "taylor")),
    "equal loss": Allocation("equal loss", free(equal_loss)),
    "equal loss, units by norms": Allocation("equal loss", free(equal_loss), "magnitude"),
    "equal loss, units in rounds": Allocation("equal loss", free(equal_loss), ROUNDS),
    "equal loss, streams kept": Allocation("equal loss, streams kept", kept(equal_loss)),
    "equal loss by taylor, streams kept": Allocation("equal loss, streams kept", kept(equal_loss, "taylor")),
    "norms in rounds": Allocation("ranking in rounds", free(rounds, "magnitude")),
    "norms in rounds, streams kept": Allocation("ranking in rounds, streams kept", kept(rounds, "magnitude")),
    "ranking in rounds, streams kept": Allocation("ranking in rounds, streams kept", kept(rounds)),
    "knapsack": Allocation("knapsack", free(knapsack)),
    "knapsack, streams kept": Allocation("knapsack, streams kept", kept(knapsack)),
    "exemplars": Allocation("exemplar counts", free(exemplars)),
    "exemplars, streams kept": Allocation("exemplar counts, streams kept", kept(exemplars)),
    "streams at 75 %": Allocation("streams thinned", streams_at(0.75)),
    "streams at 50 %": Allocation("streams thinned", streams_at(0.5)),
    "streams at 30 %": Allocation("thin streams, wide blocks", streams_at(0.3)),
    "no blocks in stage 1": Allocation("blocks nearly removed", without(0)),
    "no blocks in stage 2": Allocation("blocks nearly removed", without(1)),
    "no blocks in stage 3": Allocation("blocks nearly removed", without(2)),
    "every second block": Allocation("blocks nearly removed", without(None, 2)),
    "no blocks, streams free": Allocation("wide streams, thin blocks", without(None, 1, keep=False)),
    "early thin": Allocation("early thin", ramp(0.1, 1.0, keep=True)),
    "late thin": Allocation("late thin", ramp(1.0, 0.1, keep=True)),
    "early thin, all groups": Allocation("early thin", ramp(0.1, 1.0, keep=False)),
    "late thin, all groups": Allocation("late thin", ramp(1.0, 0.1, keep=False)),
}
FASTNAS = told("16 1 1 2 1 1 1 2 6 1 16 32 2 2 2 2 2 2 2 2 22 64 16 3 6 10 16 22 13 26")
TORCH_PRUNING = told("16 1 1 2 1 1 1 3 2 2 3 32 2 2 4 4 1 6 4 4 18 64 23 15 29 18 16 9 4 7")
SEARCHED = told("10 4 3 2 1 1 2 4 5 2 17 20 6 6 6 6 5 6 6 2 35 56 13 13 6 15 14 12 15 27")
ROUND_VALUES = told("13 2 2 5 8 24 3 2 24 42 9 20")  # each score that of the round in which its unit goes
EARLY = told("15 1 2 1 1 1 1 4 5 1 16 31 1 1 1 1 1 1 1 1 39 61 20 15 17 17 17 15 9 15")
FOUND: dict[tuple[str, str], dict[str, Allocation]] = {  # (network, budget) -> what peers and searches have found
    ("resnet20", "15%"): {
        "FastNAS": Allocation("peer", told("16 1 1 2 6 32 2 2 26 64 6 16")),
        "FastNAS, units by norms": Allocation("peer", told("16 1 1 2 6 32 2 2 26 64 6 16"), "magnitude"),
        "FastNAS, units in rounds": Allocation("peer", told("16 1 1 2 6 32 2 2 26 64 6 16"), ROUNDS),
        "default search before kinds": Allocation("search", told("12 1 1 4 7 24 4 3 25 36 23 30")),
        "default search before kinds s1": Allocation("search", told("8 1 1 5 14 27 5 2 28 44 13 20")),
        "default search before kinds s2": Allocation("search", told("10 1 2 4 8 21 2 5 30 40 29 19")),
        "annealing before kinds s2": Allocation("search", told("8 1 2 5 11 16 2 4 33 50 21 20")),
        "default search with kinds": Allocation("search", told("10 1 1 3 6 29 1 1 46 29 25 51")),
        "default search, first by 100 steps": Allocation("search", told("12 1 1 4 5 25 6 2 23 47 14 25")),
        "default search, refined by 22 steps": Allocation("search", told("11 2 2 4 8 22 3 5 21 44 16 22")),
        "equal loss, values in rounds": Allocation("equal loss", ROUND_VALUES, ROUNDS),
        "equal loss, values in rounds, units at once": Allocation("equal loss", ROUND_VALUES),
        "default search, values in rounds": Allocation("search", told("9 1 3 6 15 17 4 3 47 30 13 29"), ROUNDS),
        "without bottlenecks, by reconstruction": Allocation("search", told("12 1 1 4 6 24 2 2 26 51 14 26")),
    },
    ("resnet20", "50%"): {
        "equal loss, values in rounds": Allocation("equal loss", told("15 5 8 9 18 30 16 13 47 58 39 43"), ROUNDS),
    },
    ("resnet56", "15%"): {
        "FastNAS": Allocation("peer", FASTNAS),
        "FastNAS, units by norms": Allocation("peer", FASTNAS, "magnitude"),
        "Torch-Pruning L2": Allocation("peer", TORCH_PRUNING, "magnitude"),
        "Torch-Pruning L2, units by Fisher": Allocation("peer", TORCH_PRUNING),
        "default search before kinds": Allocation("search", SEARCHED),
        "default search, first by 22 steps": Allocation("search", EARLY),
    },
}


def of(network: str, budget: str) -> dict[str, Allocation]:
    """All allocations of a network and a budget."""
    return {**FOUND.get((network, budget), {}), **ALLOCATIONS}


def problem_with(problem: Problem, scores: Sequence[object]) -> Problem:
    """The same problem with another criterion's scores."""
    return replace(problem, scores=tuple(np.asarray(s, dtype=np.float64) for s in scores))
