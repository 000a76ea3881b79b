"""Which groups a name of the network belongs to, for users who name a layer where a group is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from search_spaces.groups import ChannelGroup

MAKES = ("out", "direction", "norm", "free", "declared", "statistics", "attribute", "input")  # roles of a member
READS = ("in",)
SHOWN = 12  # groups that are listed


def belonging(name: str, groups: Sequence[ChannelGroup], frozen: Sequence[ChannelGroup]) -> str:
    """Why a name is no prunable group, and which groups it has to do with, in a sentence without its full stop.

    Args:
        name: Of none of `groups`.
        groups: That may be pruned.
        frozen: That may not.
    """
    if same := next((g for g in frozen if g.name == name), None):
        why = same.frozen_because or "it cannot be"
        return f"'{name}' is never pruned anyway ({why}); leave it out"
    made, read = (_groups(groups, name, roles) for roles in (MAKES, READS))
    if made or read:
        what = [f"has the channels of {_listed(made)}"] * bool(made)
        what += [f"reads those of {_listed(read)}"] * bool(read)
        return f"'{name}' is a layer and no group: it {' and '.join(what)}; name {_listed(made or read)}"
    if held := _groups(frozen, name, ()):
        reasons = {g.frozen_because for g in frozen if g.name in held and g.frozen_because}
        return f"'{name}' is a layer that is never pruned anyway ({'; '.join(sorted(reasons))}); leave it out"
    if inside := [g.name for g in groups if g.name.startswith(f"{name}.")]:
        return f"'{name}' is a part of the network and no group: in it are {_listed(inside)}"
    known = [g.name for g in groups]
    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown group '{name}'; " + (f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}")


def _groups(groups: Sequence[ChannelGroup], name: str, roles: Sequence[str]) -> list[str]:
    """The names of the groups that have a layer of this name among their members, in one of some roles, or in any."""
    return [g.name for g in groups if any(m.layer == name and (not roles or m.role in roles) for m in g.members)]


def _listed(names: Sequence[str]) -> str:
    """A few of them."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + more
