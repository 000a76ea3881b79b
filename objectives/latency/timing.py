"""How often and in which order networks are run, and what is kept of it: they take turns, so that drift hits all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from objectives.products import Floats

Run = Callable[[], float]  # runs a network once, to its end, and says how many milliseconds that took
Around = Callable[[Callable[[], None]], None]  # called with each burst of measuring
_TURN_MS = 6.0  # how long the fastest network runs when it is its turn,
_ROUND_MS = 500.0  # and all of them together at most


@dataclass(frozen=True)
class Timing:
    """The latency of one network.

    Attributes:
        median: Milliseconds: the median over its turns of the best run in a turn (an interruption of the machine
            lengthens single runs, a slow minute whole turns).
        spread: Half the interquartile range of the same numbers, in milliseconds.
        n: Turns.
    """

    median: float
    spread: float
    n: int

    def __str__(self) -> str:
        return f"{self.median:.3g} ± {self.spread:.2g} ms"


def at_once(measure: Callable[[], None]) -> None:
    """Measure without further ado: the default of what is called around each burst."""
    measure()


def rounds(runs: Mapping[str, Run], turns: int, most: int = 20, around: Around = at_once) -> Floats:
    """Best milliseconds of a network in a turn: [turns, networks].

    The first run of every turn warms the caches and is not counted. All run equally often: the best of many runs is
    less than the best of few, so that a slow network would seem slower beside a fast one that runs more often.

    Args:
        runs: Name -> network.
        turns: How often each has its turn.
        most: Timed runs of one turn; 1: a run warms up and repeats by itself.
        around: Called with each round.
    """
    table = np.empty((turns, len(runs)))
    names, often = list(runs), [1]

    def begin() -> None:
        paces = [max(min(run(), run()), 1e-6) for run in runs.values()]  # the first run compiles and allocates
        often[0] = int(np.clip(min(_TURN_MS / min(paces), _ROUND_MS / sum(paces)), 2, most))

    if most > 1 and runs:
        around(begin)
    for turn in range(turns):

        def burst(turn: int = turn) -> None:
            for column in range(len(names))[:: 1 if turn % 2 == 0 else -1]:
                run = runs[names[column]]
                if most > 1:
                    run()
                table[turn, column] = min(run() for _ in range(often[0]))

        around(burst)
    return table


def take_turns(runs: Mapping[str, Run], *, turns: int = 5, most: int = 20) -> dict[str, Timing]:
    """Time networks that take turns.

    Args:
        runs: Name -> network.
        turns: How often each has its turn.
        most: As in `rounds`.
    """
    table = rounds(runs, turns, most)
    low, median, high = np.quantile(table, [0.25, 0.5, 0.75], axis=0)
    return {
        name: Timing(float(m), float((b - a) / 2), turns) for name, a, m, b in zip(runs, low, median, high, strict=True)
    }


def quietest(table: Floats) -> Floats:
    """Milliseconds of each network, [networks], in the round [turns, networks] that disturbed it least.

    What slows a machine down (neighbours on a shared core, cache and memory bus) does not slow all networks by the same
    factor, so there is no factor to divide by; but rounds are short and spread out, and one of them is quiet.
    """
    return np.asarray(table.min(axis=0))
