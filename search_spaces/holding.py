"""`verified`: branches that cannot go as the trace believed are held back, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from search_spaces.branch import Branch
from search_spaces.preserving import preserved
from search_spaces.space import SearchSpace
from search_spaces.tracing import slow_path
from search_spaces.verify import Subject, VerificationError, random_kept, subject_of, verify

SEEDS = (0, 1, 2)  # those of `verify`


def verified(model: nn.Module, space: SearchSpace, example_inputs: Any) -> SearchSpace:
    """The space, held to `verify`; a branch that cannot go as the trace believed has to stay.

    Raises:
        VerificationError: See `verify`.
    """
    try:
        verify(model, space, example_inputs)
        return space
    except VerificationError:
        if space.vanishing is None:
            raise
    verify(model, space.standing, example_inputs)
    with preserved(model), torch.no_grad(), slow_path():
        model.eval()
        subject = subject_of(model, example_inputs, 0, 1e-6)
        space, _ = _tried(subject, space, [*([b] for b in space.branches), space.branches])
    while True:
        try:
            verify(model, space, example_inputs)
            return space
        except VerificationError:
            drawn = (random_kept(space, np.random.default_rng(seed)) for seed in SEEDS)
            with preserved(model), torch.no_grad(), slow_path():
                space, found = _tried(subject, space, [space.removed([len(k) for k in kept]) for kept in drawn])
            if not found:  # it takes more than branches: then none goes
                return _holding(space, [c for b in space.branches for c in b.causes], "other groups are pruned along")


def _tried(subject: Subject, space: SearchSpace, sets: Iterable[Sequence[Branch]]) -> tuple[SearchSpace, bool]:
    """The space in which all of these sets of branches may go at once, or what is left of them; was one held back?"""
    found = False
    for gone in sets:
        while fault := _fault(subject, space, gone):
            *others, last = fault
            beside = " and ".join(f"'{b.name}'" for b in others)
            space, found = _holding(space, last.causes, beside and f"{beside} {_are(others)} gone, too"), True
    return space, found


def _are(branches: Sequence[Branch]) -> str:
    return "are" if len(branches) > 1 else "is"


def _fault(subject: Subject, space: SearchSpace, gone: Sequence[Branch]) -> Sequence[Branch]:
    """As few of these branches as are wrong to be gone together; none if all is well."""
    if _is_right(subject, space, gone):
        return ()
    for branch in gone:
        fewer = [b for b in gone if b is not branch]
        if not _is_right(subject, space, fewer):
            gone = fewer
    return gone


def _is_right(subject: Subject, space: SearchSpace, gone: Iterable[Branch]) -> bool:
    """Does the network answer without these branches (as far as they may go) what its channels explain?"""
    widths = space.full
    for branch in gone:
        widths = space.without(widths, branch)
    return widths == space.full or subject.difference(space, tuple(map(np.arange, widths))) <= subject.tolerance


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
