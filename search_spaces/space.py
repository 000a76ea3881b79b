"""What may be pruned, and what each choice costs: layers, and the search space that holds them and the groups.

Groups of channels, and where they live, are in `search_spaces.groups`.

Letters, here and in every package above: `G` groups, `C` units ("channels") of a group, `k` positions that one unit
holds on one axis, `B` candidates in a batch, `N` samples. `Widths` say how many units each group keeps; `Kept` say
which.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.belonging import belonging
from search_spaces.branches.branch import Branch, Vanishing, branch_from_json, branch_to_json
from search_spaces.groups import ChannelGroup, IntArray, group_from_json, group_to_json
from search_spaces.reading import check_space

Widths = tuple[int, ...]  # kept units per group, in `SearchSpace.groups` order: the candidate itself
Kept = tuple[IntArray, ...]  # sorted indices of the kept units, per group


@dataclass(frozen=True)
class Axis:
    """How many positions of one axis are kept: `fixed + sum(per_unit * widths[group])`.

    Attributes:
        size: Positions of the dense network.
        fixed: Positions that are always kept.
        terms: `(group number, positions per kept unit)` for each group that lives on the axis.
    """

    size: int
    fixed: int
    terms: tuple[tuple[int, int], ...] = ()

    def at(self, widths: Sequence[int]) -> int:
        """Kept positions for `widths`."""
        return self.fixed + sum(k * widths[g] for g, k in self.terms)


@dataclass(frozen=True)
class Layer:
    """A convolution, a linear layer or a matrix product: enough to price it without a forward pass.

    Multiply-adds of one sample = `pixels * kernel * reads * makes`.

    Attributes:
        name: Module name (for a bare matrix product, the module it runs in).
        kind: "conv", "conv_transpose", "linear" or "matmul".
        kernel: Kernel area (1 for linear; transposed convolutions: area x input positions / output positions).
        pixels: Output positions per sample, summed over all calls of the layer.
        reads: Channels that each output channel reads (input channels / groups).
        makes: Output channels.
    """

    name: str
    kind: str
    kernel: float
    pixels: float
    reads: Axis
    makes: Axis


@dataclass(frozen=True)
class TensorShape:
    """The shape of one parameter as a function of the widths; its size is the product over `axes`."""

    name: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """Everything that may be pruned in one network, and what each choice costs.

    Attributes:
        groups: Prunable groups; `Widths` are in this order.
        frozen: Groups that cannot be pruned, each with `frozen_because`.
        layers: What multiplies, for the MACs and the activations.
        tensors: Every parameter of the network, for the parameter count.
        grouped: `(module, entries of axis 0 of its weight per group)` of grouped convolutions and group-norms that lose
            whole groups, so that their `groups` shrink.
        branches: What may vanish whole, and what is then left.
    """

    groups: tuple[ChannelGroup, ...]
    frozen: tuple[ChannelGroup, ...]
    layers: tuple[Layer, ...]
    tensors: tuple[TensorShape, ...]
    grouped: tuple[tuple[str, int], ...] = ()
    branches: tuple[Branch, ...] = ()

    @cached_property
    def vanishing(self) -> Vanishing | None:
        """Which groups go with which; None where no group may go."""
        return Vanishing(self.branches, len(self.groups)) if any(g.floor == 0 for g in self.groups) else None

    @cached_property
    def has_batch_norm(self) -> bool:
        """Whether a normaliser keeps running statistics, which are estimated anew once channels are gone."""
        members = (member for group in (*self.groups, *self.frozen) for member in group.members)
        return any(member.tensor.endswith(".running_mean") for member in members)

    def settled(self, widths: Sequence[int]) -> Widths:
        """The same candidate, with 0 for every group that goes with another one at 0."""
        if self.vanishing is None or all(widths):
            return tuple(int(w) for w in widths)
        return tuple(int(w) for w in self.vanishing.settled(np.asarray(widths)))

    def removed(self, widths: Sequence[int]) -> tuple[Branch, ...]:
        """The branches that are gone from a candidate, those inside others left out."""
        if self.vanishing is None or all(widths):
            return ()
        gone = self.vanishing.gone(np.array(self.settled(widths)))
        found = [branch for branch, is_gone in zip(self.branches, gone, strict=True) if is_gone]
        return tuple(b for b in found if not any(set(b.groups) < set(o.groups) for o in found))

    @cached_property
    def full(self) -> Widths:
        """The dense network."""
        return tuple(g.size for g in self.groups)

    @cached_property
    def floor(self) -> Widths:
        """The smallest network of the space."""
        return tuple(g.choices()[0] for g in self.groups)

    def clip(self, widths: Iterable[float]) -> Widths:
        """The nearest legal widths."""
        return tuple(g.clip(w) for g, w in zip(self.groups, widths, strict=True))

    @cached_property
    def standing(self) -> SearchSpace:
        """The same space without width 0: what is left of a group that stays."""
        return replace(
            self, groups=tuple(replace(g, floor=g.narrowest, narrowest=1) if g.floor == 0 else g for g in self.groups)
        )

    def held(self, numbers: Iterable[int]) -> SearchSpace:
        """The same space with these groups at their full size; what goes with one of them stays, too."""
        full = set(numbers)
        causes = [cause for b in self.branches if full.intersection(b.groups) for cause in b.causes]
        stays = {c for cause in causes if not full.intersection(cause) for c in cause}
        groups = list(self.groups)
        for n, g in enumerate(self.groups):
            if n in full:
                groups[n] = replace(g, floor=g.size, narrowest=1)
            elif g.floor == 0 and n in stays:
                groups[n] = replace(g, floor=g.narrowest, narrowest=1)
        return replace(self, groups=tuple(groups))

    def without(self, widths: Sequence[int], branch: Branch) -> Widths:
        """The same candidate without a branch; as it is where the branch has to stay."""
        cause = branch.causes[0]
        if any(self.groups[g].floor for g in cause):
            return tuple(int(w) for w in widths)
        return self.settled([0 if g in cause else w for g, w in enumerate(widths)])

    def sample(self, rng: np.random.Generator) -> Widths:
        """Legal widths, drawn uniformly and independently per group (not projected on any budget).

        Where branches may vanish, a share of them that is drawn first does.
        """
        if self.vanishing is None:
            return tuple(int(rng.choice(g.choices())) for g in self.groups)
        widths, share = self.standing.sample(rng), rng.uniform(0, 0.6)
        for branch in self.branches:
            if rng.random() < share:
                widths = self.without(widths, branch)
        return widths

    def check(self, widths: Sequence[int]) -> Widths:
        """Return `widths` as a tuple of ints.

        Raises:
            ValueError: If a width is missing or not legal.
        """
        if len(widths) != len(self.groups):
            raise ValueError(f"{len(widths)} widths given, but this space has {len(self.groups)} groups")
        for group, width in zip(self.groups, widths, strict=True):
            if width not in group.choices():
                known = group.choices()
                shown = known if len(known) <= 8 else (*known[:3], "...", known[-1])
                raise ValueError(f"group '{group.name}': width {width} is not one of {shown}")
        return tuple(int(w) for w in widths)

    def kept(self, widths: Sequence[int], scores: Sequence[NDArray[Any]]) -> Kept:
        """The units with the highest scores, as many as `widths` says (ties: the lower index stays).

        Args:
            widths: [G] legal widths.
            scores: Per group [C], higher = keep.
        """
        return tuple(
            np.sort(np.argsort(-np.asarray(s), kind="stable")[:w]).astype(np.int64)
            for w, s in zip(self.settled(self.check(widths)), scores, strict=True)
        )

    def with_limits(
        self,
        *,
        divisor: int = 1,
        min_keep: float = 0.0,
        min_units: int = 1,
        freeze: Iterable[str] = (),
        depth: bool = False,
    ) -> SearchSpace:
        """The same space with other legal widths.

        Args:
            divisor: Widths are multiples of it (where a group is smaller, only its full width is legal).
            min_keep: Fraction of each group that always stays.
            min_units: Units of each group that always stay.
            freeze: Names of groups that must not be pruned.
            depth: A group that may vanish may have width 0, unless what goes with it is frozen.

        Raises:
            ValueError: If `freeze` names what is no group (see `belonging`) or a limit is out of range.
        """
        if divisor < 1 or not 0 <= min_keep <= 1 or min_units < 1:
            raise ValueError(
                f"limits: need divisor >= 1, 0 <= min_keep <= 1, min_units >= 1; got {divisor}, {min_keep}, {min_units}"
            )
        names = set(freeze)
        if unknown := sorted(names - {g.name for g in self.groups}):
            raise ValueError(f"freeze: {'; '.join(belonging(name, self.groups, self.frozen) for name in unknown)}")
        held = {n for n, g in enumerate(self.groups) if g.name in names}
        goes = self._going(held) if depth else set()
        groups = []
        for number, g in enumerate(self.groups):
            least = g.narrowest if g.floor == 0 else g.floor
            floor = min(g.size, max(least, min_units, math.ceil(min_keep * g.size - 1e-9)))
            floor = g.size if number in held else floor
            if number in goes:
                groups.append(replace(g, divisor=divisor, floor=0, narrowest=floor))
            else:
                groups.append(replace(g, divisor=divisor, floor=floor, narrowest=1))
        return replace(self, groups=tuple(groups))

    def _going(self, held: set[int]) -> set[int]:
        """Groups that may be at width 0, where some are held at their size."""
        return {c[0] for b in self.branches for c in b.causes if len(c) == 1 and not held.intersection(b.groups)}

    @cached_property
    def deep(self) -> SearchSpace:
        """The same space in which all branches may vanish that may, but those with a group that is frozen."""
        goes = self._going({n for n, g in enumerate(self.groups) if g.floor == g.size})
        groups = (replace(g, floor=0, narrowest=max(g.floor, 1)) if n in goes and g.floor else g
                  for n, g in enumerate(self.groups))  # fmt: skip
        return replace(self, groups=tuple(groups))

    # -- JSON ----------------------------------------------------------------------------------------------------
    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; `from_json` gives the same space back."""
        return {
            "groups": [group_to_json(g) for g in self.groups],
            "frozen": [group_to_json(g) for g in self.frozen],
            "layers": [
                [x.name, x.kind, x.kernel, x.pixels, _axis_to_json(x.reads), _axis_to_json(x.makes)]
                for x in self.layers
            ],
            "tensors": [[t.name, [_axis_to_json(a) for a in t.axes]] for t in self.tensors],
            "grouped": [list(x) for x in self.grouped],
            **({"branches": [branch_to_json(b) for b in self.branches]} if self.branches else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SearchSpace:
        """The inverse of `to_json`.

        Raises:
            ValueError: If that is no space; nothing of the sizes that it names has been made then.
        """
        check_space(data)
        return cls(
            groups=tuple(group_from_json(g) for g in data["groups"]),
            frozen=tuple(group_from_json(g) for g in data["frozen"]),
            layers=tuple(
                Layer(n, k, a, p, _axis_from_json(r), _axis_from_json(m)) for n, k, a, p, r, m in data["layers"]
            ),
            tensors=tuple(TensorShape(n, tuple(_axis_from_json(a) for a in axes)) for n, axes in data["tensors"]),
            grouped=tuple((n, int(c)) for n, c in data["grouped"]),
            branches=tuple(branch_from_json(b) for b in data.get("branches", ())),
        )

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of the whole space: two spaces with the same one are the same.

        What might vanish counts only where it may: widths without depth mean what they did before there was any.
        """
        data = self.to_json()
        if self.vanishing is None:
            data.pop("branches", None)
            for group in data["groups"]:
                group.pop("vanishes", None)
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _axis_to_json(axis: Axis) -> list[Any]:
    return [axis.size, axis.fixed, [list(t) for t in axis.terms]]


def _axis_from_json(data: Sequence[Any]) -> Axis:
    return Axis(data[0], data[1], tuple((g, k) for g, k in data[2]))
