"""Sums of products of kept axis lengths, priced for a whole batch of candidates by matrix products.

Letters: `B` candidates, `G` groups, `U` different axes of a network.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces import Axis

Floats = NDArray[np.float64]
_Line = tuple[int, tuple[tuple[int, int], ...]]  # fixed, ((group, per_unit), ...): an axis without its common factor
_WORK = 400_000  # multiplications of one product: tables stay in the cache, and BLAS starts no threads that fight


@dataclass(frozen=True)
class Term:
    """`coefficient * product of the kept lengths of axes`.

    Attributes:
        owner: The layer this part of the cost belongs to.
        coefficient: What does not depend on the widths (kernel area, output pixels).
        axes: Axes whose kept lengths are multiplied.
    """

    owner: str
    coefficient: float
    axes: tuple[Axis, ...]

    def at(self, widths: Sequence[int]) -> float:
        """The value for one candidate, one multiplication after the other."""
        return self.coefficient * math.prod(axis.at(widths) for axis in self.axes)


class SumOfProducts:
    """A polynomial in the widths, made for batches.

    Kept axis lengths are linear in the widths (`E = W @ A + b`), so terms of one or two axes are one quadratic form
    (`sum(E @ Q * E)`), with a constant 1 as axis 0. Equal axes share a column; terms of three axes and more are
    added one by one. All numbers are integers in float64: exact up to 2**53.
    """

    def __init__(self, terms: Iterable[Term], num_groups: int) -> None:
        columns: dict[_Line, int] = {(1, ()): 0}
        coefficients: dict[tuple[int, ...], float] = {}
        for term in terms:
            coefficient, key = term.coefficient, []
            for axis in term.axes:
                factor, line = _without_factor(axis)
                coefficient *= factor
                if line[1]:
                    key.append(columns.setdefault(line, len(columns)))
            where = tuple(sorted(key)) if len(key) > 2 else (*[0] * (2 - len(key)), *sorted(key))
            coefficients[where] = coefficients.get(where, 0.0) + coefficient
        self._slopes = np.zeros((num_groups, len(columns)))  # A: [G, U]
        self._fixed = np.array([fixed for fixed, _ in columns], dtype=np.float64)  # b: [U]
        for column, (_, line_terms) in enumerate(columns):
            for group, per_unit in line_terms:
                self._slopes[group, column] = per_unit
        self._quadratic = np.zeros((len(columns), len(columns)))  # Q: [U, U]
        self._higher: list[tuple[float, list[int]]] = []
        for where, coefficient in coefficients.items():
            if len(where) == 2:
                self._quadratic[where] = coefficient
            else:
                self._higher.append((coefficient, list(where)))

    def __call__(self, widths: Floats) -> Floats:
        """Values [B] of the candidates `widths` [B, G]."""
        values = np.empty(len(widths))
        rows = max(16, _WORK // (len(self._fixed) * max(self._slopes.shape)))
        for start in range(0, len(widths), rows):
            lengths = widths[start : start + rows] @ self._slopes + self._fixed  # E: [rows, U]
            part = np.einsum("bu,bu->b", lengths @ self._quadratic, lengths)
            for coefficient, columns in self._higher:
                part += coefficient * lengths[:, columns].prod(axis=1)
            values[start : start + rows] = part
        return values


def _without_factor(axis: Axis) -> tuple[int, _Line]:
    """`(factor, line)` with `axis = factor * line`, so that a flattened axis (49 w) and its channels (w) are one."""
    per_unit: Counter[int] = Counter()
    for group, k in axis.terms:
        per_unit[group] += k
    factor = math.gcd(axis.fixed, *per_unit.values())
    if factor == 0:
        return 0, (1, ())
    return factor, (axis.fixed // factor, tuple(sorted((g, k // factor) for g, k in per_unit.items() if k)))
