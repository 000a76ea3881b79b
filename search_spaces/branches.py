"""Which groups live in one branch only: those without which the network still answers, and what they leave.

Group by group: where none of its channels is, what reads nothing else answers a constant (the biases and norms behind
it), up to where that meets something alive. What only serves this is dropped, and groups that only dropped layers make
go along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search_spaces.branch import Branch
from search_spaces.emptied import Groups, Network, View
from search_spaces.space import SearchSpace
from search_spaces.standing_in import Unfollowed, stand_ins

if TYPE_CHECKING:
    from search_spaces.recorder import Recorder


def with_branches(space: SearchSpace, rec: Recorder, group_of: NDArray[np.int64]) -> SearchSpace:
    """The space, with what is known of its branches.

    Args:
        space: As it was solved.
        rec: After the trace.
        group_of: Root of an id -> number of its group, -1: of none.
    """
    network = Network(rec, group_of)
    reasons: dict[int, str] = {}
    found: dict[Groups, tuple[View, list[tuple[int, ...]]]] = {}
    for g in range(len(space.groups)):
        view = network.closed([g])
        reasons[g] = view.why_not
        if not view.why_not:
            found.setdefault(view.groups, (view, []))[1].append((g,))
    branches: list[Branch] = []
    for groups, (view, causes) in sorted(found.items(), key=lambda item: (len(item[0]), sorted(item[0]))):
        try:
            spots = stand_ins(network, view)
        except Unfollowed as error:
            for (g,) in causes:
                reasons[g] = str(error)
            continue
        branches.append(Branch("", tuple(sorted(groups)), tuple(causes), spots))
    branches, reasons = _together(network, branches, reasons, space)
    known = tuple(
        replace(group, may_vanish=not reasons[g], stays_because=reasons[g]) for g, group in enumerate(space.groups)
    )
    return replace(space, groups=known, branches=tuple(_named(branches, space)))


def _together(
    network: Network, branches: list[Branch], reasons: dict[int, str], space: SearchSpace
) -> tuple[list[Branch], dict[int, str]]:
    """What goes only where several branches are gone; and those that must not go all at once."""
    while True:
        may = {g for g, why in reasons.items() if not why}
        closures = {c: b.groups for b in branches for (c,) in b.causes}
        asked = {s for s in (*network.read.values(), *network.on) if len(s) > 1 and s <= may}
        more: dict[tuple[int, ...], Branch] = {}
        known = {b.groups for b in branches}
        for together in sorted(asked, key=lambda s: (len(s), sorted(s))):
            cause = tuple(sorted(together))
            union = {h for g in cause for h in closures[g]}
            if any(set(closures[g]) >= together for g in cause):
                continue
            view = network.closed(union)
            why = view.why_not
            if not why:
                try:
                    spots = stand_ins(network, view)
                except Unfollowed as error:
                    why = str(error)
            if why:
                last = cause[-1]
                others = ", ".join(f"'{space.groups[g].name}'" for g in cause[:-1][:3])
                dead = {c for c, groups in closures.items() if last in groups}
                reasons |= dict.fromkeys(dead, f"without it and {others} {_nothing_left(why)}")
                branches = [
                    replace(b, causes=left)
                    for b in branches
                    if (left := tuple(c for c in b.causes if c[0] not in dead))
                ]
                break
            groups = tuple(sorted(view.groups))
            if groups not in known:
                causes = (*more[groups].causes, cause) if groups in more else (cause,)
                more[groups] = Branch("", groups, causes, spots)
        else:
            return [*branches, *more.values()], reasons


def _nothing_left(why: str) -> str:
    return "nothing is left" if why.startswith("the network's answer") else f"one of them must stay: {why}"


def _named(branches: Sequence[Branch], space: SearchSpace) -> list[Branch]:
    """Names for reports: the block where a branch is all that goes from it, else the module in which it begins."""
    blocks = [_block([s.module for s in b.stand_ins]) for b in branches]
    named: list[Branch] = []
    for branch, block in zip(branches, blocks, strict=True):
        beside = [b for b, other in zip(branches, blocks, strict=True) if other == block]
        name = block
        if not block or any(not set(b.groups) <= set(branch.groups) for b in beside):
            first = space.groups[branch.groups[0]].name.partition("#")[0]
            name = next((s.module for s in branch.stand_ins if f"{first}.".startswith(f"{s.module}.")), first)
        named.append(replace(branch, name=name))
    return named


def _block(modules: Sequence[str]) -> str:
    """The innermost module that is around all of these."""
    paths = [m.split(".")[:-1] for m in modules]
    shared: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
