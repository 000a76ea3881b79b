"""Who becomes a finalist: the best of each kind of network before the second best of any, and other tools' networks.

Scores without training rank networks of one kind, not kinds (full streams with thin blocks against thin streams with
wide blocks): measured in results/benchmarks/quality.md. So kinds meet after training only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from autoprune.problem import Trial, TrialState
from autoprune.schedule import SEEN, ranked
from search_spaces import Widths

RADIUS = 0.3  # mean difference of log2(width) below which two networks are of one kind: a fifth more or less of a group
PEERS = 0.5  # of the finalists that may be peers' networks whatever their loss


@dataclass(frozen=True)
class Different:
    """Chooses the candidates that go on.

    Those that were abandoned early count, with what their loss seemed to be: without training no loss says that a kind
    is hopeless, and no place stays empty while there is a candidate.

    Attributes:
        peers: Widths by other tools' rules, the best-known first: these go on whatever their loss, up to half of all.
    """

    peers: tuple[Widths, ...] = ()
    _chosen: dict[tuple[int, ...], list[Trial]] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, below: Sequence[Trial], count: int) -> list[Trial]:
        """So many of the candidates of a rung.

        Args:
            below: Of one fidelity.
            count: How many go on.
        """
        if any(t.fidelity.trains for t in below):
            return ranked(below, *SEEN)[:count]  # trained: kinds compare
        order = [*ranked(below), *ranked(below, TrialState.PRUNED)]
        key = (count, *(t.number for t in order))
        if key not in self._chosen:
            self._chosen.clear()  # asked again and again, as long as nothing new has finished
            self._chosen[key] = self._choose(order, count)
        return self._chosen[key]

    def _choose(self, order: Sequence[Trial], count: int) -> list[Trial]:
        by_widths = {t.widths: t for t in reversed(order)}
        peers = [by_widths[w] for w in self.peers if w in by_widths][: math.ceil(PEERS * count)]
        leaders, others = list(peers), list[Trial]()
        for trial in order:
            if trial in peers:
                continue
            alone = all(apart(trial.widths, t.widths) > RADIUS for t in leaders)
            (leaders if alone else others).append(trial)
        best = order[:1]  # whatever it is like: a peer's network may stand beside it
        rest = (t for t in (*leaders[len(peers) :], *others) if t not in best)
        chosen = list({t.number: t for t in (*best, *peers, *rest)}.values())[:count]
        return sorted(chosen, key=lambda t: (t.loss, t.number))


def apart(first: Widths, second: Widths) -> float:
    """How far two networks are from being of one kind: the mean difference of log2(width), of 0 as of a half."""
    logs = np.log2(np.maximum([first, second], 0.5))
    return float(np.abs(logs[0] - logs[1]).mean()) if len(first) else 0.0
