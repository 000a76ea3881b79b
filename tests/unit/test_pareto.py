"""Dominance, the front and its volume, by hand and against counting."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives import dominates, front, hypervolume


def test_dominates():
    assert dominates((1, 2), (1, 3))
    assert not dominates((1, 2), (1, 2))
    assert not dominates((1, 3), (2, 1))


def test_front():
    points = [(1, 5), (2, 3), (2, 4), (4, 1), (4, 1), (5, 5), (math.nan, 0)]
    assert front(points) == (0, 1, 3, 4)
    assert front([]) == ()


def test_hypervolume_by_hand():
    # below (6, 6): strips of (1,5), (2,3), (4,1): 5*1 + 4*2 + 2*2 = 17
    assert hypervolume([(4, 1), (1, 5), (2, 3), (5, 5), (9, 0)], (6, 6)) == 17
    assert hypervolume([], (6, 6)) == 0
    assert hypervolume([(6, 0)], (6, 6)) == 0


def test_hypervolume_wants_as_many_objectives_as_the_reference():
    with pytest.raises(ValueError, match=r"the reference has 2 objectives, the points have 3"):
        hypervolume([(1, 1, 1)], (2, 2))


@given(st.integers(1, 3).flatmap(lambda m: st.lists(st.tuples(*[st.integers(0, 5)] * m), max_size=8)))
def test_hypervolume_equals_the_cells_counted(points):
    objectives = len(points[0]) if points else 2
    cells = itertools.product(range(5), repeat=objectives)
    counted = sum(any(all(x <= c for x, c in zip(p, cell, strict=True)) for p in points) for cell in cells)
    assert hypervolume(points, [5] * objectives) == counted


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_the_front_is_what_nothing_dominates(points):
    expected = [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]
    assert list(front(np.array(points).reshape(-1, 2))) == expected
