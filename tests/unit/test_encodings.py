"""Points of the unit cube and the widths they stand for."""

import itertools
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import ChannelGroup, SearchSpace
from search_spaces.encodings import Affine, LayerCompensation, Preferences, Ranking, Ratios, Shift, normalised


def space_of(*sizes, divisor=1, floor=1):
    return SearchSpace(tuple(ChannelGroup(f"g{i}", c, (), divisor, floor) for i, c in enumerate(sizes)), (), (), ())


def at_most(total):
    """A budget on the number of units."""
    return lambda widths: widths.sum(axis=1) <= total


ANYTHING = at_most(10**9)

# Group 0 keeps 4 units worth 1, 2, 3, 6 (mean 3); group 1 two units worth 10 and 30 (mean 20).
SPACE = space_of(4, 2)
SCORES = (np.array([3.0, 1.0, 6.0, 2.0]), np.array([10.0, 30.0]))


@pytest.mark.parametrize(
    ("x", "widths"),
    [((0, 0), (1, 1)), ((1, 1), (4, 2)), ((1 / 3, 0.4), (2, 1)), ((0.6, 0.6), (3, 2)), ((-3, 9), (1, 2))],
)
def test_ratios(x, widths):
    assert Ratios(SPACE).decode(np.array(x, dtype=float), ANYTHING) == widths


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_encodings_give_back_what_they_were_given(data):
    divisor = data.draw(st.integers(1, 4))
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    space = space_of(*sizes, divisor=divisor, floor=data.draw(st.integers(1, 3)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    widths = space.sample(rng)
    encodings = (
        Ratios(space),
        LayerCompensation(space, [1 + (np.arange(n) + rng.random(n) / 2) / n for n in sizes]),  # none nearly equal: the
        Preferences(space, [np.exp(np.cumsum(0.1 + rng.random(n) / 2)) for n in sizes]),  # threshold is not that fine
    )
    for encoding in encodings:
        x = encoding.encode(widths)
        assert x.shape == (encoding.dim,) == (len(encoding.names),)
        assert ((0 <= x) & (x <= 1)).all()
        # Filled to the last unit by nothing else, so the widths themselves are what the budget allows.
        assert encoding.decode(x, lambda table: (table <= np.array(widths)).all(axis=1)) == widths


@given(st.integers(0, 500))
@settings(max_examples=50, deadline=None)
def test_the_cut_is_the_last_that_fits(seed):
    """Against a search through every threshold there is."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 12, 4)
    space = space_of(*map(int, sizes))
    scores = [np.exp(3 * rng.standard_normal(n)) for n in sizes]
    scale, shift = np.exp(rng.standard_normal(4)), rng.standard_normal(4)
    fits = at_most(rng.integers(4, sizes.sum() + 1))
    worths = [a * (s + k) for a, s, k in zip(scale, scores, shift, strict=True)]
    for threshold in [-np.inf, *np.sort(np.concatenate(worths))]:
        expected = np.array([max(1, int((w > threshold).sum())) for w in worths])
        if fits(expected[None])[0]:
            break
    assert Ranking(space, scores).cut(scale, shift, fits) == tuple(expected)


def test_the_middle_is_the_identity():
    # Divided by their means: (1/3, 2/3, 1, 2) and (1/2, 3/2): in order 1/3, 1/2, 2/3, 1, 3/2, 2.
    encoding = LayerCompensation(SPACE, SCORES)
    middle = np.full(4, 0.5)
    assert encoding.names == ("g0.shift", "g1.shift", "g0.scale", "g1.scale")
    assert encoding.decode(middle, at_most(5)) == (3, 2)  # 1/3 of group 0 goes
    assert encoding.decode(middle, at_most(4)) == (3, 1)  # then 1/2 of group 1
    assert encoding.decode(middle, at_most(3)) == (2, 1)  # then 2/3 of group 0


def test_scale_and_shift_favour_their_group():
    encoding = LayerCompensation(SPACE, SCORES)
    assert encoding.decode(np.array([1, 0.5, 0.5, 0.5]), at_most(5)) == (4, 1)
    assert encoding.decode(np.array([0.5, 0.5, 1, 0.5]), at_most(5)) == (4, 1)
    assert encoding.decode(np.array([0, 0.5, 0.5, 0.5]), at_most(4)) == (2, 2)


def test_a_shift_means_the_same_whatever_the_unit_of_the_scores():
    x = np.array([0.6, 0.4, 0.3, 0.7])
    for units in (3, 4, 5):
        raw = LayerCompensation(SPACE, SCORES).decode(x, at_most(units))
        assert LayerCompensation(SPACE, (SCORES[0] * 1e6, SCORES[1] * 1e-6)).decode(x, at_most(units)) == raw


def test_affine_by_hand():
    """LeGR as published: alpha * score + kappa on raw scores 1, 2, 3, 6 and 10, 30 (the last unit of a group stays)."""
    encoding = Affine(SPACE, SCORES)

    # Deviations: 1, 2, 3, 6 about 3: (4 + 1 + 0 + 9) / 4 = 3.5; 10, 30: 10.
    unit = (3.5**0.5 + 10) / 2

    def point(kappas, alphas):  # kappa / unit = 4 x - 2, log alpha = 4 x - 2
        return np.concatenate([np.array(kappas) / unit, np.log(alphas)]) / 4 + 0.5

    # The identity takes raw scores for comparable: 1, 2 and 3 go first, then 10.
    answers = [encoding.decode(np.full(4, 0.5), at_most(units)) for units in (6, 5, 4, 3, 2)]
    assert answers == [(4, 2), (3, 2), (2, 2), (1, 2), (1, 1)]
    # s / 4 + 4: 4.25, 4.5, 4.75, 5.5; s / 2 - 1: 4, 14. (With the shift before the scale 1.25 would go before 4.5.)
    x = point((4, -1), (0.25, 0.5))
    assert [encoding.decode(x, at_most(units)) for units in (5, 4, 3, 2)] == [(4, 1), (3, 1), (2, 1), (1, 1)]
    # s / 2 - 1: 4, 14; s / 4 + 3.6: 3.85, 4.1, 4.35, 5.1: the second group's unit comes second.
    x = point((3.6, -1), (0.25, 0.5))
    assert [encoding.decode(x, at_most(units)) for units in (5, 4, 3, 2)] == [(3, 2), (3, 1), (2, 1), (1, 1)]


def test_affine_mutates_as_published():
    """Deviations: sqrt(3.5), as above, 10, and 2 of 5, 9. Drawn are groups 1 and 1."""
    encoding, middle = Affine(space_of(4, 2, 2), (*SCORES, np.array([9.0, 5.0]))), np.full(6, 0.5)
    normal = np.array([0.5, -1.0, 2.0, 0.7, 0.3, 9.0])
    drawn = types.SimpleNamespace(integers=lambda high, size: [1] * size, standard_normal=lambda size: normal)
    # Twice drawn, it moves once. kappa += 10 * -1; log alpha += 0.2 * 0.3: only the scale's noise has the step.
    scale, shift = encoding.theta(encoding.mutate(middle, drawn, groups=2, step=0.2))
    np.testing.assert_allclose(scale, [1, np.exp(0.06), 1])
    unit = (3.5**0.5 + 10 + 2) / 3
    np.testing.assert_allclose(scale * shift * unit, [0, -10, 0], atol=1e-12)
    # All of them: kappa 0.5 * sqrt(3.5), 10 * -1, 2 * 2; log alpha 0.2 * (0.7, 0.3, 9).
    scale, shift = encoding.theta(encoding.mutate(middle, drawn, groups=3, step=0.2))
    np.testing.assert_allclose(scale, np.exp([0.14, 0.06, 1.8]))
    np.testing.assert_allclose(scale * shift * unit, [0.5 * 3.5**0.5, -10, 4])


@pytest.mark.parametrize("factor", [1e-8, 1.0, 1e6])
def test_affine_searches_the_same_cube_whatever_the_unit_of_the_scores(factor):
    rng = np.random.default_rng(0)
    scores = [rng.exponential(size=32) for _ in range(4)]
    points = rng.uniform(0, 1, (50, 8))
    fits = at_most(64)
    encoding, other = (Affine(space_of(32, 32, 32, 32), [s * f for s in scores]) for f in (1.0, factor))
    found = [encoding.decode(x, fits) for x in points]
    assert [other.decode(x, fits) for x in points] == found
    assert len(set(found)) == 50
    thin, wide = (other.encode(4 * (width,)) for width in (8, 24))
    assert ((wide - thin)[:4] > 0.05).all()


@pytest.mark.parametrize("kind", [Shift, LayerCompensation])
def test_a_group_most_of_whose_units_are_worth_the_same_still_moves(kind):
    rng = np.random.default_rng(0)
    scores = [np.concatenate([np.full(52, 1e-5), rng.exponential(size=12)]) for _ in range(4)]
    encoding = kind(space_of(64, 64, 64, 64), scores)
    parent = encoding.encode((6, 6, 6, 6))
    children = {encoding.decode(encoding.mutate(parent, rng, groups=2, step=1.0), at_most(24)) for _ in range(100)}
    assert len(children) > 10


def test_affine_draws_groups_with_replacement():
    """Two of three: the same one twice in a third of all cases (of 2000, give or take 21 at one standard deviation)."""
    encoding, rng, middle = (
        Affine(space_of(4, 2, 2), (*SCORES, np.array([9.0, 5.0]))),
        np.random.default_rng(0),
        6 * [0.5],
    )
    moved = [encoding.mutate(np.array(middle), rng, groups=2, step=1.0) != middle for _ in range(2000)]
    counts = [int(m[:3].sum()) for m in moved]
    assert all((m[:3] == m[3:]).all() for m in moved)
    assert set(counts) == {1, 2}
    assert counts.count(1) == pytest.approx(2000 / 3, abs=90)


def test_one_point_serves_many_budgets_and_they_are_nested():
    rng = np.random.default_rng(0)
    encoding = LayerCompensation(space_of(30, 40, 50), [rng.random(n) for n in (30, 40, 50)])
    x = rng.random(encoding.dim)
    answers = [encoding.decode(x, at_most(total)) for total in range(20, 121, 10)]
    for small, large in itertools.pairwise(answers):
        assert all(a <= b for a, b in zip(small, large, strict=True))


# Group 0 loses its units at the factors 1, 2, 4, 8, group 1 at 3 and 5.
DEPARTURES = (np.array([1.0, 2, 4, 8]), np.array([3.0, 5]))


def test_preferences_by_hand():
    encoding = Preferences(SPACE, DEPARTURES)
    # Factors that keep 4, 3, 2, 1 units of group 0: 1/2, 3/2, 3, 6; 2 and 1 of group 1: 3/2, 4.
    x = encoding.encode((3, 1))
    np.testing.assert_allclose(x, [3 / 4, 1 / 2])
    # Group 0's factor is 3/2 of the common one, group 1's 4 times: units leave when it reaches 2/3, 4/3, 8/3, 16/3
    # and 3/4, 5/4 (the last unit of a group stays).
    answers = [encoding.decode(x, at_most(units)) for units in (6, 5, 4, 3, 2)]
    assert answers == [(4, 2), (3, 2), (3, 1), (2, 1), (1, 1)]
    # Halfway between the factors for 3 and for 2 units, 9/4: departures at 4/9, 8/9, 16/9.
    between = np.array([2.5 / 4, 1 / 2])
    assert [encoding.decode(between, at_most(units)) for units in (5, 4, 3)] == [(3, 2), (3, 1), (2, 1)]


@given(st.integers(0, 500))
@settings(max_examples=50, deadline=None)
def test_preferences_rise_with_the_coordinate_and_are_nested(seed):
    rng = np.random.default_rng(seed)
    sizes = [int(n) for n in rng.integers(2, 30, 4)]
    encoding = Preferences(space_of(*sizes), [np.sort(rng.lognormal(0, 1, n)) for n in sizes])
    x, total = rng.random(4), int(rng.integers(4, sum(sizes)))
    more = x + np.array([rng.random(), 0, 0, 0])
    small, large = (encoding.decode(x, at_most(t)) for t in (total, total + 3))
    assert all(a <= b for a, b in zip(small, large, strict=True))
    favoured = encoding.decode(more, at_most(total))
    assert favoured[0] >= small[0]
    assert all(a <= b for a, b in zip(favoured[1:], small[1:], strict=True))
    moved = encoding.mutate(x, rng, groups=2, step=0.1)
    assert np.count_nonzero(moved != x) <= 2
    assert ((0 <= moved) & (moved <= 1)).all()


def test_normalised_copes_with_zeros_and_signs():
    np.testing.assert_array_equal(normalised([np.zeros(3)])[0], np.zeros(3))
    np.testing.assert_array_equal(normalised([np.array([-1.0, 3.0])])[0], [-0.5, 1.5])


def test_equal_scores_do_not_split_a_group():
    ranking = Ranking(space_of(4, 4), [np.ones(4), np.array([2.0, 3, 4, 5])])
    assert ranking.cut(np.ones(2), np.zeros(2), at_most(6)) == (1, 4)  # all four go at once, down to the floor


def test_a_decode_calls_few_functions(work):
    rng = np.random.default_rng(0)
    sizes = np.linspace(64, 2048, 50).astype(int)
    encoding = LayerCompensation(space_of(*map(int, sizes)), [rng.random(n) for n in sizes])
    x, fits = rng.random(encoding.dim), at_most(sizes.sum() // 2)
    assert work(lambda: encoding.decode(x, fits)) < 4_300  # 2,161, some 1.5 ms
