"""`verified`: branches that cannot go as the trace believed are held back, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from search_spaces.branches.branch import Branch
from search_spaces.preserving import preserved
from search_spaces.space import Kept, SearchSpace
from search_spaces.tracing import slow_path
from search_spaces.verify import SEEDS, TOLERANCE, Subject, VerificationError, random_kept, subject_of, verify


def verified(model: nn.Module, space: SearchSpace, example_inputs: Any) -> SearchSpace:
    """The space, held to `verify`; a branch that cannot go as the trace believed has to stay.

    Raises:
        VerificationError: See `verify`; what is wrong while all branches stay.
    """
    try:
        verify(model, space, example_inputs)
        return space
    except VerificationError:
        if space.vanishing is None:
            raise
    verify(model, space.standing, example_inputs)
    while True:
        before = space
        for seed in SEEDS:
            with preserved(model) as written, written, torch.no_grad(), slow_path():
                model.eval()
                space = _mended(subject_of(model, example_inputs, seed, TOLERANCE), space, seed)
        try:
            verify(model, space, example_inputs)
            return space
        except VerificationError:
            if space is before:  # it takes more than branches: then none goes
                break
    space = _holding(space, [c for b in space.branches for c in b.causes], "other groups are pruned along")
    verify(model, space, example_inputs)
    return space


def _mended(subject: Subject, space: SearchSpace, seed: int) -> SearchSpace:
    """What is left of the space where all is well without each branch, and with what `verify` tries."""
    full = tuple(np.arange(n) for n in space.full)
    if seed == SEEDS[0]:
        for branch in space.branches:
            space = _held_back(subject, space, full, [branch])
    before: SearchSpace | None = None
    while before is not space:  # it draws others once something has to stay
        before = space
        for kept in (random_kept(space, np.random.default_rng(seed)), _smallest(space)):
            space = _held_back(subject, space, kept, space.removed([len(k) for k in kept]))
    return space


def _smallest(space: SearchSpace) -> Kept:
    """Nothing of what may go."""
    return tuple(np.arange(g.size if g.floor else 0) for g in space.groups)


def _held_back(subject: Subject, space: SearchSpace, kept: Kept, gone: Sequence[Branch]) -> SearchSpace:
    """The space in which all of these branches may go at once where this is kept of all else, or what is left of it."""
    while fault := _fault(subject, space, kept, [b for b in gone if _may_go(space, b)]):
        *others, last = fault
        beside = " and ".join(f"'{b.name}'" for b in others)
        space = _holding(space, last.causes, beside and f"{beside} {_are(others)} gone, too")
    return space


def _may_go(space: SearchSpace, branch: Branch) -> bool:
    return not any(space.groups[g].floor for g in branch.causes[0])


def _are(branches: Sequence[Branch]) -> str:
    return "are" if len(branches) > 1 else "is"


def _fault(subject: Subject, space: SearchSpace, kept: Kept, gone: Sequence[Branch]) -> Sequence[Branch]:
    """As few of these branches as are wrong to be gone together; none if all is well."""
    if not gone or _is_right(subject, space, kept, gone):
        return ()
    for branch in gone:
        fewer = [b for b in gone if b is not branch]
        if not _is_right(subject, space, kept, fewer):
            gone = fewer
    return gone


def _is_right(subject: Subject, space: SearchSpace, kept: Kept, gone: Iterable[Branch]) -> bool:
    """Does the network answer without these branches what its channels explain? What else is gone is there again."""
    there = tuple(k if len(k) else np.arange(g.size) for k, g in zip(kept, space.groups, strict=True))
    widths: Sequence[int] = [len(k) for k in there]
    for branch in gone:
        widths = space.without(widths, branch)
    left = tuple(k if w else k[:0] for k, w in zip(there, widths, strict=True))
    return subject.difference(space, left) <= subject.tolerance


def _holding(space: SearchSpace, causes: Iterable[Sequence[int]], when: str) -> SearchSpace:
    """The space in which one group of each of these sets stays, and of every set that takes such a group along."""
    why = "the network answers otherwise without '{}' than its channels explain" + (f" where {when}" if when else "")
    names = {cause: branch.name for branch in space.branches for cause in branch.causes}
    stays: dict[int, str] = {}
    pending = list(map(tuple, causes))
    while pending:
        cause = pending.pop()
        if all(space.groups[g].floor == 0 and g not in stays for g in cause):
            stays[cause[-1]] = why.format(names[cause])  # of several one is enough
            pending += [c for b in space.branches if cause[-1] in b.groups for c in b.causes]
    groups = tuple(
        replace(g, floor=g.floor or g.narrowest, narrowest=1, may_vanish=False, stays_because=stays[n])
        if n in stays else g
        for n, g in enumerate(space.groups)
    )  # fmt: skip
    return replace(space, groups=groups)
