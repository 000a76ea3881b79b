"""The least loss for the budgets, by a knapsack that takes one width of every group.

Letters: `G` groups, `K` budgets, `V` choices of all groups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

from autoprune.allocation.loads import loads
from autoprune.allocation.sensitivity import Drops, threshold
from autoprune.problem import Problem
from search_spaces import SearchSpace, Widths
from search_spaces.encodings import Floats

ROUNDS = 4  # of linearisation; eight give the same (12, 20 and 36 groups, measured)
MOST_CHOICES = 32  # of one group: a wide group's are thinned out, and projection fills what that leaves
GAP = 1e-3  # relative, from the best sum; a proof to the last digit takes up to three times as long


def multiple_choice(problem: Problem, drops: Drops) -> Widths:
    """One width of every group, so that the sum of the loss rises is least and the budgets hold.

    The multiple-choice knapsack (Sinha & Zoltners 1979, https://doi.org/10.1287/opre.27.3.503), solved as an integer
    programme with one row per budget. A layer's cost is a product of two widths, so the costs are linear only around a
    point: each group's choices are priced with all others as they are in the last answer, from the `threshold` answer
    on, until an answer comes back. Of all answers, projected, the one with the least sum is given. Where costs are
    additive and no group has more than 32 legal widths, it is the best there is, to 0.1 %.

    A width of 0 is a choice like any other, with the whole cost of what goes with the group; groups that go together
    are at 0 together.

    Args:
        problem: Space and budgets.
        drops: Rise of the loss at every legal width of each group, as `loss_rises` gives them.
    """
    choices = [np.array(g.choices()) for g in problem.space.groups]

    def total(widths: Widths) -> float:
        return float(sum(d[np.searchsorted(c, w)] for d, c, w in zip(drops, choices, widths, strict=True)))

    answers = [threshold(problem, drops)]
    for _ in range(ROUNDS):
        picked = _knapsack(problem, drops, choices, answers[-1])
        answer = problem.project(picked) if picked else answers[-1]
        if answer in answers:
            break
        answers.append(answer)
    return min(answers, key=total)


def _knapsack(problem: Problem, drops: Drops, choices: list[NDArray[np.int64]], here: Widths) -> Widths | None:
    """The best choice by the costs around `here`; None if no choice keeps to these."""
    rungs = [_thinned(len(c), int(np.searchsorted(c, w))) for c, w in zip(choices, here, strict=True)]
    group = np.repeat(np.arange(len(here)), [len(r) for r in rungs])  # [V] the group of each choice
    width = np.concatenate([c[r] for c, r in zip(choices, rungs, strict=True)])  # [V]
    rises = np.concatenate([d[r] for d, r in zip(drops, rungs, strict=True)])  # [V]
    table = np.tile(np.array(here), (len(group), 1))
    table[np.arange(len(group)), group] = width
    together = _together(problem.space, group, width)
    if together is not None:
        rises, table = _led(problem.space, group, width, rises, table, here)
    now = loads(problem, np.array([here]))[0]  # [K]
    more = loads(problem, table) - now  # [V, K] what each choice alone adds
    one_each = csr_matrix((np.ones(len(group)), (group, np.arange(len(group)))))
    rules = [LinearConstraint(one_each, 1, 1)]
    if more.size:
        rules.append(LinearConstraint(more.T, -np.inf, 1 + 1e-12 - now))
    if together is not None:
        rules.append(LinearConstraint(together, -np.inf, 0))
    whole = np.ones(len(group), dtype=np.int64)
    found = milp(rises, integrality=whole, bounds=Bounds(0, 1), constraints=rules, options={"mip_rel_gap": GAP})
    return None if found.x is None else tuple(int(w) for w in width[found.x > 0.5])


def _together(space: SearchSpace, group: NDArray[np.int64], width: NDArray[np.int64]) -> Any:
    """Rows [rules, V]: a group at 0 takes those along that go with it; None where nothing may vanish."""
    zero = {int(g): v for v, (g, w) in enumerate(zip(group, width, strict=True)) if w == 0}
    rows = [
        (zero[c], zero[g])
        for b in space.branches
        for (c, *others) in b.causes
        for g in b.groups
        if not others and g != c and c in zero and g in zero
    ]
    if not rows:
        return None if not zero else csr_matrix((1, len(group)))
    table = np.zeros((len(rows), len(group)))
    for row, (cause, along) in enumerate(rows):
        table[row, cause], table[row, along] = 1, -1
    return csr_matrix(table)


def _led(
    space: SearchSpace, group: NDArray[np.int64], width: NDArray[np.int64], rises: Floats, table: NDArray[np.int64],
    here: Widths,
) -> tuple[Floats, NDArray[np.int64]]:  # fmt: skip
    """Of groups that go together, the first has the cost of all at its 0; where any is at 0 now, it is as if it stood.

    The costs of choices are taken beside the other groups as they are: beside groups at 0 a wider one of the same
    branch would cost nothing, so a branch that is shut is priced beside its narrowest widths.
    """
    assert space.vanishing is not None
    standing = np.where(np.array(here) == 0, space.standing.floor, here)
    for v, (g, w) in enumerate(zip(group, width, strict=True)):
        own = {h for b in space.branches if (g,) in b.causes for (h, *more) in b.causes if not more}
        if w == 0:
            leads = not own or g == min(own)
            table[v] = space.settled(np.where(np.arange(len(here)) == g, 0, here).tolist()) if leads else here
        elif here[g] == 0:
            beside = np.array(here)
            lacking = space.vanishing.needed(int(g), beside)
            beside[lacking] = standing[lacking]
            beside[g] = w
            table[v] = beside
    return rises, table


def _thinned(count: int, current: int) -> NDArray[np.int64]:
    """At most `MOST_CHOICES` of the rungs 0..count-1, evenly, and the current one."""
    even = np.round(np.linspace(0, count - 1, min(count, MOST_CHOICES))).astype(np.int64)
    return np.union1d(even, [current])
