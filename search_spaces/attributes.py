"""Sizes that stand in attributes of modules (`self.num_heads`), followed like channel counts.

While a network is traced, the whole-number attributes of its modules are `Size`s: numbers that know what they were
worked out from. Where one says how wide an axis of channels is, the attribute *follows* these channels, and surgery
sets it. What the code does with it otherwise must then not depend on it, or the channels are frozen.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from search_spaces.channels import CONSTANT, Channels
from search_spaces.counts import Attribute, Terms

HEADS = re.compile(r"head|^(n_?|num_)?(h|kv)$|(kv|key|query)_groups$")
WIDTHS = re.compile(r"dim|size|width|channel|feature")
NUMBERS = re.compile(r"dim|inner|hidden|model|embed|channel|feature|unit")  # and not of steps, layers or pixels
_CHANNELS = re.compile(f"{HEADS.pattern}|{WIDTHS.pattern}")


def counts_heads(terms: Terms) -> bool:
    """Does the code say that this size is a number of attention heads?"""
    names = [term.name.lower() for term, _ in terms if isinstance(term, Attribute)]
    return len(terms) == 1 and bool(names) and bool(HEADS.search(names[0])) and not WIDTHS.search(names[0])


def is_width(terms: Terms) -> bool:
    """Does the code say that this size is a number of channels?"""
    names = [term.name.lower() for term, _ in terms if isinstance(term, Attribute)]
    return bool(names) and bool(NUMBERS.search(names[0]))


@dataclass(frozen=True, eq=False)
class Claim:
    """The product of `terms` always equals the number of channels `ids` (without: it never changes)."""

    terms: Terms
    ids: Tensor | None
    why: str


@dataclass(frozen=True, eq=False)
class Divisible:
    """The product of `terms` is divisible by `divisor` whatever is pruned."""

    terms: Terms
    divisor: int
    why: str


# The canonical form of a line of channels: its roots and their shares, with no common divisor. Proportional lines have
# the same.
Line = bytes


class Laws:
    """What the sizes in attributes are proportional to, found from all the claims about them.

    Attributes:
        follows: Attribute -> the ids [n] that it counts, or a multiple or fraction of.
    """

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.claims: list[Claim] = []
        self.divisible: list[Divisible] = []
        self.follows: dict[Attribute, Tensor] = {}
        self.fixed: set[Attribute] = set()
        self._frozen: set[int] = set()
        self._lines: dict[int, tuple[Tensor, Line]] = {}  # as long as nothing is united or frozen

    def resolve(self) -> None:
        """Find what follows what; tie or freeze the channels of claims that do not hold."""
        self._look_again()
        while any([self._settle(claim) for claim in self.claims]) or self._give_up():
            self._look_again()

    def make_whole(self, value_of: Callable[[Attribute], int | None]) -> None:
        """Tie the channels that an attribute follows where without some it would be no whole number.

        Of what is `2 * n` wide two go at once; of what is `m * n` wide as many as `m`, if that is the one that stays.
        Where the code needs it divisible, and it would not be, they are frozen.
        """
        for attribute, ids in self.follows.items():
            value, number = value_of(attribute), len(ids)
            if value is None or number < 2:
                continue
            frozen, found = self.channels.frozen, self.channels.numbers(ids)
            if any(n * value % number for root, n in found.items() if root != CONSTANT and root not in frozen):
                blocks = ids.reshape(math.gcd(value, number), -1)
                self.channels.unite(blocks[:, :1].expand_as(blocks), blocks, f"the size '{attribute}' counts several")
        for promise in self.divisible:
            alone = len(promise.terms) == 1
            for attribute in (term for term, _ in promise.terms if isinstance(term, Attribute)):
                if attribute not in self.follows:
                    continue
                ids = self.follows[attribute]
                value, number = value_of(attribute) or 0, len(ids) * promise.divisor
                if not alone or any(n * value % number for n in self.channels.numbers(ids).values()):
                    self.channels.freeze(ids, promise.why)

    def _look_again(self) -> None:
        """Channels have been united or frozen."""
        self._frozen = self.channels.frozen
        self._lines.clear()

    def _settle(self, claim: Claim) -> bool:
        """One claim; has anything been learnt?"""
        powers: Counter[Line] = Counter()
        lines: dict[Line, Tensor] = {}
        unknown: Counter[Attribute] = Counter()

        def count(ids: Tensor, power: int) -> None:
            if line := self._line(ids):
                powers[line] += power
                lines.setdefault(line, ids)

        for term, power in claim.terms:
            if isinstance(term, Tensor):
                count(term, power)
            elif term in self.follows:
                count(self.follows[term], power)
            elif term not in self.fixed:
                unknown[term] += power
        if claim.ids is not None:
            count(claim.ids, -1)
        left = {line: power for line, power in powers.items() if power}
        asked = {attribute: power for attribute, power in unknown.items() if power}
        if not asked:
            return bool(left) and self._reconcile(left, lines, claim.why)
        if len(asked) > 1:
            return False
        ((attribute, power),) = asked.items()
        if not left:
            self.fixed.add(attribute)
            return True
        if len(left) == 1 and sum(left.values()) * power == -1:
            self.follows[attribute] = lines[next(iter(left))]
            return True
        return False

    def _reconcile(self, left: dict[Line, int], lines: dict[Line, Tensor], why: str) -> bool:
        """Two numbers of channels must stay in proportion: tie them block by block, or freeze all."""
        if sorted(left.values()) == [-1, 1]:
            few, many = sorted((lines[line] for line in left), key=len)
            if len(few) > 1 and len(many) % len(few) == 0:
                if self.channels.numbers(few).keys() <= self.channels.numbers(many).keys():  # half of them, say
                    parts = many.reshape(-1, len(few))
                    self.channels.unite(parts[:1].expand_as(parts), parts, why)
                else:
                    blocks = many.reshape(len(few), -1)
                    self.channels.unite(few[:, None].expand_as(blocks), blocks, why)
                self._lines.clear()
                return True
        for line in left:
            self.channels.freeze(lines[line], why)
        self._look_again()
        return True

    def _give_up(self) -> bool:
        """Nothing more can be learnt: take one attribute that is still unknown for fixed (a number of paths, say)."""
        known = self.follows.keys() | self.fixed
        unknown = [t for claim in self.claims for t, _ in claim.terms if isinstance(t, Attribute) and t not in known]
        if unknown:
            self.fixed.add(min(unknown, key=lambda attribute: bool(_CHANNELS.search(attribute.name.lower()))))
        return bool(unknown)

    def _line(self, ids: Tensor) -> Line:
        """The canonical form; empty if the number never changes."""
        if (known := self._lines.get(id(ids))) is None:
            roots, numbers = np.unique(self.channels.roots[ids.numpy()], return_counts=True)
            alive = any(root != CONSTANT and root not in self._frozen for root in roots.tolist())
            line = roots.tobytes() + (numbers // np.gcd.reduce(numbers)).tobytes() if alive else b""
            known = self._lines[id(ids)] = ids, line
        return known[1]
