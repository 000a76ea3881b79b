"""Which groups live in one branch only: those without which the network still answers, and what they leave.

Group by group: where none of its channels is, what reads nothing else answers a constant (the biases and norms behind
it), up to where that meets something alive. What only serves this is dropped, and groups that only dropped layers make
go along.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search_spaces.branches.branch import Branch
from search_spaces.branches.emptied import CONST, Groups, Network, View
from search_spaces.branches.standing_in import Replacement, Unfollowed
from search_spaces.branches.trying import WithoutBranches
from search_spaces.graph import Named, references
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from search_spaces.recorder import Recorder


def with_branches(
    space: SearchSpace, rec: Recorder, group_of: NDArray[np.int64], without: WithoutBranches
) -> SearchSpace:
    """The space, with what is known of its branches.

    Args:
        space: As it was solved.
        rec: After the trace.
        group_of: Root of an id -> number of its group, -1: of none.
        without: Runs the network without some branches.
    """
    return Finder(space, Network(rec, group_of), without).found()


class OneStays(Exception):
    """Groups that must not go all at once.

    Args:
        groups: All of them; the last one stays.
        why: What is wrong without all of them.
    """

    def __init__(self, groups: Sequence[int], why: str) -> None:
        super().__init__(why)
        self.groups, self.why = groups, why


class Finder:
    """Finds what goes with each group, then what goes only where several are gone.

    Args:
        space: As it was solved.
        network: The graph of its trace.
        without: See `with_branches`.
    """

    def __init__(self, space: SearchSpace, network: Network, without: WithoutBranches) -> None:
        self._space, self._network, self._without = space, network, without
        self._reasons: dict[int, str] = {}  # why a group may not vanish
        self._views: dict[tuple[int, ...], View] = {}  # groups of a branch -> what is left without them
        self._constant: set[int] = set()  # nodes that are, without some of the branches

    def found(self) -> SearchSpace:
        """The space with its branches."""
        branches = self._alone()
        while True:
            try:
                joint = self._joint(branches)
                break
            except OneStays as error:
                branches = self._held(branches, error)
        known = tuple(
            replace(group, may_vanish=not self._reasons[g], stays_because=self._reasons[g])
            for g, group in enumerate(self._space.groups)
        )
        return replace(self._space, groups=known, branches=tuple(_named([*branches, *joint], self._space)))

    def _alone(self) -> list[Branch]:
        """Branches that go with one group."""
        found: dict[Groups, tuple[View, list[tuple[int, ...]]]] = {}
        for g in range(len(self._space.groups)):
            view = self._network.closed([g])
            self._reasons[g] = view.why_not
            if not view.why_not:
                found.setdefault(view.groups, (view, []))[1].append((g,))
        everything = self._network.closed(set().union(*found))
        views = [everything, *(view for view, _ in found.values())]
        self._constant = self._network.follow({n for v in views for n, status in v.status.items() if status == CONST})
        made: list[tuple[Branch, set[int]]] = []  # and the nodes that its code may not run without
        for view, causes in sorted(found.values(), key=lambda row: (len(row[0].groups), sorted(row[0].groups))):
            try:
                made.append(self._replaced(view, causes))
            except Unfollowed as error:
                self._reasons |= dict.fromkeys([g for (g,) in causes], str(error))
        runs = self._running([(branch, self._network.around(nodes)) for branch, nodes in made if nodes])
        branches: list[Branch] = []
        for branch, doubtful in made:
            try:
                if branch.groups not in runs:
                    self._check(branch, doubtful)
                branches.append(branch)
            except Unfollowed as error:
                self._reasons |= dict.fromkeys([g for (g,) in branch.causes], str(error))
        for number, branch in enumerate(branches):  # what may not go alone goes with the smallest branch around it
            inside = [g for g in branch.groups if self._reasons[g]]
            self._reasons |= dict.fromkeys(inside, "")
            branches[number] = replace(branch, causes=(*branch.causes, *((g,) for g in inside)))
        return branches

    def _replaced(self, view: View, causes: Sequence[tuple[int, ...]]) -> tuple[Branch, set[int]]:
        """What goes with a view, and the nodes that the network's code may not run without.

        Raises:
            Unfollowed: If what goes cannot be said.
        """
        found = Replacement(self._network, view, self._constant)
        branch = Branch("", tuple(sorted(view.groups)), tuple(causes), found.stand_ins())
        self._views[branch.groups] = view
        return branch, found.doubtful

    def _check(self, branch: Branch, doubtful: set[int]) -> None:
        """Run the network without a branch, if its code is doubtful.

        Raises:
            Unfollowed: If it does not run.
        """
        if not doubtful:
            return
        first = min(doubtful)
        if said := self._without.alone(self._space, branch, self._network.around([first])):
            where = self._network.where(first)
            raise Unfollowed(
                f"the code of {where} does not run without them ({said}); what is a module of its own may go"
            )

    def _running(self, made: Sequence[tuple[Branch, str]]) -> set[tuple[int, ...]]:
        """Groups of the branches without which the network runs, of those that can be left out many at once.

        Every second one is gone in one run, the others in another: so each is seen beside neighbours that are there,
        in two runs where all is well. Never are two gone that one module's code deals with. A run that fails says
        nothing of its branches.

        Args:
            made: Branches whose code is doubtful, and the module that it is in.
        """
        turns: tuple[list[list[tuple[Branch, str]]], ...] = ([], [])
        for number, row in enumerate(sorted(made, key=lambda row: row[0].groups)):
            for turn in turns[number % 2]:
                if all(_are_apart(*row, *other) for other in turn):
                    turn.append(row)
                    break
            else:
                turns[number % 2].append([row])
        runs = set[tuple[int, ...]]()
        for turn in (turn for each in turns for turn in each if len(turn) > 1):
            gone = [branch for branch, _ in turn]
            whole = not self._network.closed({g for b in gone for g in b.groups}).why_not
            if whole and not self._without(self._space, gone):
                runs.update(branch.groups for branch in gone)
        return runs

    def _joint(self, branches: list[Branch]) -> list[Branch]:
        """What goes only where several branches are gone.

        Raises:
            OneStays: If some must not go all at once.
        """
        may = {g for g, why in self._reasons.items() if not why}
        closures = {c[0]: b.groups for b in branches for c in b.causes if len(c) == 1}
        joint: dict[tuple[int, ...], Branch] = {}
        asked = {s for s in (*self._network.read.values(), *self._network.on) if len(s) > 1 and s <= may}
        for together in sorted(asked, key=lambda s: (len(s), sorted(s))):
            cause = tuple(sorted(together))
            if any(set(closures[g]) >= together for g in cause):
                continue
            view = self._network.closed({h for g in cause for h in closures[g]})
            if view.why_not:
                raise OneStays(cause, view.why_not)
            try:
                self._add(view, cause, joint, branches)
            except Unfollowed as error:
                raise OneStays(cause, str(error)) from error
        self._check_answer(branches)
        seen: dict[tuple[int, ...], Branch] = {}
        while more := self._shared([*branches, *joint.values(), *seen.values()], seen):
            for cause, view in more:
                seen[cause] = Branch("", tuple(sorted(view.groups)), (cause,), ())
                self._views.setdefault(seen[cause].groups, view)
                if self._is_worth(cause, view, branches):
                    with suppress(Unfollowed):  # then it stays where it is, and computes what it always does
                        self._add(view, cause, joint, branches)
        return list(joint.values())

    def _is_worth(self, cause: Sequence[int], view: View, branches: Sequence[Branch]) -> bool:
        """Does more go than where each group is gone by itself: a layer, or something else with weights?"""
        alone = set().union(*(self._views[b.groups].dropped for b in branches if set(cause).issuperset(b.causes[0])))
        nodes = (self._network.nodes[n] for n in view.dropped - alone)
        return any(isinstance(r, Named) for node in nodes for r in references((node.args, node.kwargs)))

    def _add(
        self, view: View, cause: tuple[int, ...], joint: dict[tuple[int, ...], Branch], branches: list[Branch]
    ) -> None:
        """Another set of groups that a view goes with."""
        groups = tuple(sorted(view.groups))
        numbers = {b.groups: number for number, b in enumerate(branches)}
        if groups in numbers:
            known = branches[numbers[groups]]
            branches[numbers[groups]] = replace(known, causes=(*known.causes, cause))
        elif groups in joint:
            joint[groups] = replace(joint[groups], causes=(*joint[groups].causes, cause))
        else:
            branch, doubtful = self._replaced(view, [cause])
            self._check(branch, doubtful)
            joint[groups] = branch

    def _check_answer(self, branches: Sequence[Branch]) -> None:
        """Something of the input must reach the answer where all goes that may.

        Raises:
            OneStays: Otherwise.
        """
        gone: set[int] = set()
        if not self._network.closed({g for b in branches for g in b.groups}).why_not:
            return
        for number, branch in enumerate(branches):
            gone.update(branch.groups)
            if why := self._network.closed(gone).why_not:
                raise OneStays([b.causes[0][0] for b in branches[: number + 1]], why)

    def _shared(
        self, branches: Sequence[Branch], seen: Container[tuple[int, ...]]
    ) -> list[tuple[tuple[int, ...], View]]:
        """What only serves several branches, or reads only what several leave; with the groups that are gone then."""
        dropped: dict[int, Branch] = {}
        constant: dict[int, Branch] = {}  # each node: the smallest branch with which it is that
        for branch in sorted(branches, key=lambda b: len(b.groups)):
            view = self._views[branch.groups]
            for n in view.dropped:
                dropped.setdefault(n, branch)
                if view.status.get(n) == CONST:
                    constant.setdefault(n, branch)
        found: dict[tuple[int, ...], View] = {}
        for n in self._network.consumers:
            for nodes, known in ((self._network.consumers[n], dropped), (self._network.nodes[n].reads, constant)):
                if not all(m in known for m in nodes) or dropped.get(n) in [known[m] for m in nodes]:
                    continue
                cause = tuple(sorted({g for m in nodes for g in known[m].causes[0]}))
                union = {g for m in nodes for g in known[m].groups}
                if len(cause) > 1 and cause not in found and cause not in seen:
                    view = self._network.closed(union)
                    if not view.why_not and n in view.dropped:
                        found[cause] = view
        return list(found.items())

    def _held(self, branches: Sequence[Branch], error: OneStays) -> list[Branch]:
        """The branches that are left where one group stays."""
        *others, last = error.groups
        dead = {c[0] for b in branches if last in b.groups for c in b.causes if len(c) == 1}
        names = ", ".join(f"'{self._space.groups[g].name}'" for g in others[:3])
        self._reasons |= dict.fromkeys(dead, f"without it and {names} {_nothing_left(error.why)}")
        alone = ((b, tuple(c for c in b.causes if len(c) == 1 and c[0] not in dead)) for b in branches)
        return [replace(b, causes=left) for b, left in alone if left]


def _are_apart(one: Branch, code: str, other: Branch, others_code: str) -> bool:
    """Have they no group in common, and is none's code within the module that the other's is in?"""
    outer, inner = sorted((f"{module}.".lstrip(".") for module in (code, others_code)), key=len)
    return not inner.startswith(outer) and not set(one.groups) & set(other.groups)


def _nothing_left(why: str) -> str:
    return "nothing is left" if why.startswith("the network's answer") else f"one of them must stay: {why}"


def _named(branches: Sequence[Branch], space: SearchSpace) -> list[Branch]:
    """Names for reports: the block where a branch is all that goes from it, else the module in which it begins."""
    blocks = [_block([s.module for s in b.stand_ins]) for b in branches]
    alone: dict[int, str] = {}  # the first group of a branch that goes with one -> its name
    named: list[Branch] = []
    for branch, block in zip(branches, blocks, strict=True):
        beside = [b for b, other in zip(branches, blocks, strict=True) if other == block]
        name, cause = block, branch.causes[0]
        if not block or any(not set(b.groups) <= set(branch.groups) for b in beside) or _goes_on(branch, block, space):
            first = space.groups[cause[0]].name.partition("#")[0]
            name = next((s.module for s in branch.stand_ins if f"{first}.".startswith(f"{s.module}.")), first)
            if len(cause) > 1:
                name = " and ".join(dict.fromkeys(alone.get(g, name) for g in cause))
        for g in cause if len(cause) == 1 else ():
            alone.setdefault(g, name)
        named.append(replace(branch, name=name))
    return named


def _goes_on(branch: Branch, block: str, space: SearchSpace) -> bool:
    """Are layers left in a block that are no shortcut, from one stream to the one that the branch was added to?"""
    inside = [x for x in space.layers if x.name.startswith(f"{block}.")]
    gone = set(branch.groups)
    added = {g for x in inside if branch.holds(x.name) for g, _ in x.makes.terms} - gone
    left = [x for x in inside if not branch.holds(x.name)]
    return any(not x.reads.terms or not x.makes.terms or not {g for g, _ in x.makes.terms} <= added for x in left)


def _block(modules: Sequence[str]) -> str:
    """The innermost module that is around all of these."""
    paths = [m.split(".")[:-1] for m in modules]
    shared: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
