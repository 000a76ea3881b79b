"""What was measured of a run's finalists, as the notes of its ledger say.

Notes are only ever added, and what follows from them is a function of them: a run that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any

from objectives import Budget
from objectives.latency import Comparison
from search_spaces import Widths

NOTE = "measured."  # a note's key, before its number


@dataclass(frozen=True)
class Measurement:
    """One network beside the dense one.

    Attributes:
        widths: Of the network.
        took: Metric -> what it took there.
        holds: Whether it held every budget on a latency.
    """

    widths: Widths
    took: Mapping[str, Comparison]
    holds: bool

    def to_json(self) -> dict[str, Any]:
        """As a note."""
        return {"widths": list(self.widths), "took": {m: asdict(c) for m, c in self.took.items()}, "holds": self.holds}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """The inverse of `to_json`."""
        took = {metric: Comparison(**said) for metric, said in data["took"].items()}
        return cls(tuple(data["widths"]), took, data["holds"])


def used(budget: Budget, took: Comparison, dense_ms: float) -> float:
    """How much of a latency budget a network uses up, allowing for the error of its measurement: at most 1 = it holds.

    The network and the dense one were measured in the same minutes, so a slow spell of the machine cancels in the
    share. A percentage is a limit of that share. Milliseconds are counted at the pace of the machine when the predictor
    was made, or as they are measured now, whichever is quicker: a machine that is slower today than it was then is not
    held against the network (the user is told how much slower), and one that is quicker is a gain: what takes 3 ms now
    holds a budget of 3 ms.

    Args:
        budget: On a latency.
        took: What was measured.
        dense_ms: What the dense network took when the predictor was made.
    """
    if budget.relative:
        return took.upper / budget.limit
    return took.upper * min(took.dense_ms, dense_ms) / budget.limit


@dataclass(frozen=True)
class Measurements:
    """All that was noted since the run last gave up.

    Attributes:
        every: The measurements, in the order they were made.
        closed: How many of them belong to rounds in which no network held: they correct the predictor.
        rounds: Such rounds.
        extra: Candidates that the corrected predictor asked for.
        num_notes: Notes read.
        past: The measurements from before it gave up.
    """

    every: tuple[Measurement, ...] = ()
    closed: int = 0
    rounds: int = 0
    extra: tuple[Widths, ...] = ()
    num_notes: int = 0
    past: tuple[Measurement, ...] = ()

    @classmethod
    def of(cls, notes: Mapping[str, Any]) -> Measurements:
        """From the notes of a ledger."""
        found = cls()
        for number in count():
            if (note := notes.get(f"{NOTE}{number}")) is None:
                return found
            found = replace(found, num_notes=number + 1)
            match note["kind"]:
                case "measured":
                    found = replace(found, every=(*found.every, Measurement.from_json(note)))
                case "none held":
                    found = replace(found, closed=len(found.every), rounds=found.rounds + 1)
                case "candidates":
                    found = replace(found, extra=(*found.extra, *map(tuple, note["widths"])))
                case "gave up":  # all is measured anew: the machine may be another by then
                    found = cls(extra=found.extra, num_notes=found.num_notes, past=(*found.past, *found.every))
        raise AssertionError  # not reached: the numbers never end

    @property
    def told(self) -> tuple[Measurement, ...]:
        """What corrects the predictor."""
        return self.every[: self.closed]

    @property
    def broken(self) -> frozenset[Widths]:
        """Networks of earlier rounds that did not hold: others are finalists in their place."""
        return frozenset(m.widths for m in self.told) - {m.widths for m in self.every if m.holds}

    @property
    def level(self) -> float:
        """Which quantile of their errors corrects it: the median at first, so that the budget is used up; then all."""
        return 0.5 if self.rounds == 1 else 1.0

    @property
    def open(self) -> int:
        """Measurements of the round that goes on."""
        return len(self.every) - self.closed

    def find(self, widths: Widths) -> Measurement | None:
        """The last measurement of a network; None if there is none."""
        return next((m for m in reversed(self.every) if m.widths == widths), None)

    def may_win(self, widths: Widths) -> bool:
        """Whether a network may be taken for the winner: one that held; before there is one, any that did not fail."""
        found = self.find(widths)
        if any(m.holds for m in self.every):
            return found is not None and found.holds
        return found is None and not any(m.widths == widths and not m.holds for m in self.past)
