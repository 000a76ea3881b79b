"""Which trials ran side by side."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.problem import Trial


def waves(trials: Sequence[Trial], begin: int, last: bool) -> list[int]:
    """Where the waves end: the numbers of trials up to there. No worker stands twice in a wave.

    Args:
        trials: In the order of their numbers.
        begin: So many come before the first wave.
        last: Whether the last wave counts: nobody can join it any more.
    """
    ends: list[int] = []
    workers: set[str] = set()
    for count, trial in enumerate(trials[begin:], begin):
        if trial.worker in workers:
            ends.append(count)
            workers.clear()
        workers.add(trial.worker)
    return [*ends, len(trials)] if last and workers else ends
