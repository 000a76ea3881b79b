"""A branch that may vanish: which groups go with it, and what then stands in the place of its modules.

Letters: `B` candidates, `G` groups, `C` channels of the residual stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

EMPTY, SAME, CONSTANT = "empty", "same", "constant"  # what a stand-in answers


@dataclass(frozen=True)
class StandIn:
    """What stands in the place of one module.

    Attributes:
        module: Its name.
        answers: "empty": a tensor without channels; "same": what it is given; "constant": what the branch leaves.
        axis: Of its answer, on which the channels lie.
        sizes: Of its answer's axes, each as a number, as -1 (that of the first tensor it is given), or as kernel,
            stride, padding and dilation of a window that moves along it (of a transposed one its output padding, too).
        steps: How the constant follows from the weights (see constants.py).
        full: The constant is spread over all positions, for code that looks at its shape or writes to it.
        own: The code writes to it.
        in_tuple: It answers a tuple of it and so many times None.
    """

    module: str
    answers: str
    axis: int
    sizes: tuple[Any, ...]
    steps: tuple[Any, ...] = ()
    full: bool = False
    own: bool = False
    in_tuple: int = -1


def size_of(size: Any, given: int) -> int:
    """An entry of `StandIn.sizes` where so many positions are given."""
    if isinstance(size, int):
        return given if size < 0 else size
    kernel, stride, padding, dilation, *transposed = size
    if transposed:
        return int((given - 1) * stride - 2 * padding + dilation * (kernel - 1) + transposed[0] + 1)
    return int((given + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)


@dataclass(frozen=True)
class Branch:
    """Layers that only serve groups all of which have width 0.

    Attributes:
        name: The block that it is all of, or the module in which it begins.
        groups: Numbers of the groups that go with it.
        causes: Sets of groups; where all of one are at 0, all of `groups` are.
        stand_ins: What takes the place of its modules.
    """

    name: str
    groups: tuple[int, ...]
    causes: tuple[tuple[int, ...], ...]
    stand_ins: tuple[StandIn, ...]

    def holds(self, module: str) -> bool:
        """Does a module go with it?"""
        return any(module == s.module or module.startswith(f"{s.module}.") for s in self.stand_ins)


class Vanishing:
    """Which groups go with which: arithmetic on whole batches.

    Args:
        branches: Of a space.
        count: Number of groups `G`.
    """

    def __init__(self, branches: Sequence[Branch], count: int) -> None:
        self.branches = tuple(branches)
        self._implied = np.eye(count)  # [cause, group]
        self._joint: list[tuple[list[int], list[int]]] = []
        self._members = np.zeros((count, len(self.branches)))
        for number, branch in enumerate(self.branches):
            self._members[list(branch.groups), number] = 1
            for cause in branch.causes:
                if len(cause) == 1:
                    self._implied[cause[0], list(branch.groups)] = 1
                elif set(cause) != set(branch.groups):
                    self._joint.append((list(cause), list(branch.groups)))
        self._sizes = self._members.sum(0)

    def settled(self, widths: NDArray[Any]) -> NDArray[Any]:
        """The same candidates [..., G] with 0 for every group that goes with another one at 0."""
        gone = (widths == 0).astype(np.float64) @ self._implied > 0
        for cause, groups in self._joint:
            gone[..., groups] |= gone[..., cause].all(-1, keepdims=True)
        return np.where(gone, 0, widths)

    def gone(self, settled: NDArray[Any]) -> NDArray[np.bool_]:
        """[..., branches] which branches are gone from settled candidates [..., G]."""
        return np.asarray((settled == 0).astype(np.float64) @ self._members >= self._sizes)

    def needed(self, group: int, widths: NDArray[Any]) -> list[int]:
        """Groups at 0 that must be wider for `group` to be, itself among them."""
        lacking = {int(g) for g in np.flatnonzero(self._implied[:, group]) if widths[g] == 0}
        for cause, groups in self._joint:
            if group in groups and all(widths[c] == 0 for c in cause) and not lacking & set(cause):
                lacking |= set(self.needed(cause[0], widths))
        return sorted(lacking | ({group} if widths[group] == 0 else set()))


def branch_to_json(branch: Branch) -> list[Any]:
    """Plain lists; `branch_from_json` gives the same branch back."""
    rows = [
        [s.module, s.answers, s.axis, _listed(s.sizes), _listed(s.steps), s.full, s.own, s.in_tuple]
        for s in branch.stand_ins
    ]
    return [branch.name, list(branch.groups), _listed(branch.causes), rows]


def branch_from_json(data: Sequence[Any]) -> Branch:
    """The inverse of `branch_to_json`."""
    name, groups, causes, rows = data
    return Branch(name, tuple(groups), _tupled(causes), tuple(StandIn(*map(_tupled, row)) for row in rows))


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, tuple) else value


def _tupled(value: Any) -> Any:
    return tuple(_tupled(v) for v in value) if isinstance(value, list) else value
