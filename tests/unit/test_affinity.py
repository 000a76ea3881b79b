"""Affinity propagation and the widths that follow from it."""

import itertools

import numpy as np
import pytest
from sklearn.cluster import AffinityPropagation

from autoprune import allocation, strategies
from autoprune.criteria import affinity
from autoprune.criteria.affinity import departures, exemplars
from autoprune.problem import Problem
from objectives import parse
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace


def distances(points):
    points = np.asarray(points, dtype=float).reshape(len(points), -1)
    return ((points[:, None] - points[None]) ** 2).sum(2)


def filters(count, seed, spread=0.5):
    """Filters [C, 8] whose norms differ."""
    rng = np.random.default_rng([count, seed])
    return rng.standard_normal((count, 8)) * rng.lognormal(0, spread, (count, 1))


def test_by_hand():
    # Units at 0, 2, 10; squared distances 4, 64, 100; column medians of minus these (0 counts): -4, -4, -64.
    # Factor 1/2: preferences -2, -2, -32. All three alone: -36; 0 for 2: -2 - 4 - 32 = -38; worse with fewer.
    #   Margins, all being exemplars: own preference minus the best similarity to another: -2 + 4, -2 + 4, -32 + 64.
    found, margins = exemplars(distances([0, 2, 10]), 0.5)
    assert found.tolist() == [0, 1, 2]
    np.testing.assert_allclose(margins, [2, 2, 32], rtol=1e-3)
    # Factor 3/2: preferences -6, -6, -96. All: -108; {0, 2}: -106; {1} for all: -6 - 4 - 64 = -74.
    assert exemplars(distances([0, 2, 10]), 1.5)[0].tolist() == [1]


@pytest.mark.filterwarnings("ignore:Affinity propagation did not converge")  # seed 3, 0.8: the last round swings
@pytest.mark.parametrize("factor", [0.2, 0.5, 0.8, 1.5])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed, factor):
    table = distances(filters(30, seed))
    preference = factor * np.median(-table, axis=0)
    reference = AffinityPropagation(affinity="precomputed", preference=preference, random_state=0)
    assert exemplars(table, factor)[0].tolist() == reference.fit(-table).cluster_centers_indices_.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_is_near_the_best_choice_there_is(seed):
    """Against all the subsets of eight units: each unit costs its preference or the way to its exemplar."""
    table = distances(filters(8, seed))
    preference = 0.7 * np.median(-table, axis=0)

    def net(chosen):
        chosen = list(chosen)
        rest = np.setdiff1d(np.arange(8), chosen)
        return preference[chosen].sum() - table[np.ix_(rest, chosen)].min(axis=1).sum()

    subsets = itertools.chain.from_iterable(itertools.combinations(range(8), k) for k in range(1, 9))
    assert net(exemplars(table, 0.7)[0]) >= 1.02 * max(map(net, subsets))  # negative numbers


@pytest.mark.parametrize("factor", [1.3, 1.5])
def test_messages_that_swing_are_damped_until_they_settle(monkeypatch, factor):
    grid = distances(list(itertools.product(range(3), repeat=2)))
    assert exemplars(grid, factor)[0].tolist() == [4]  # the one in the middle, 12 off in all; the next best is 15 off
    monkeypatch.setattr(affinity, "DAMPING", affinity.DAMPING[:1])
    assert exemplars(grid, factor)[0].tolist() == [1, 3, 5, 7]  # scikit-learn's damping alone: still swinging


def test_never_empty_and_twins_count_once():
    assert exemplars(1 - np.eye(6), 1.5)[0].tolist() == [0]  # equally far from each other
    assert exemplars(np.zeros((5, 5)), 0.5)[0].tolist() == [0]  # all the same
    assert exemplars(np.zeros((1, 1)), 0.5)[0].tolist() == [0]
    for seed in range(5):
        points = filters(12, seed)
        for factor in (0.05, 0.3, 0.6, 1.0):
            table = distances(np.concatenate([points, points]))
            found = exemplars(table, factor)[0]
            assert len(found) >= 1
            assert (table[np.ix_(found, found)] + np.eye(len(found)) > 0).all()


@pytest.mark.parametrize("count", [1, 2, 3, 16, 100])
@pytest.mark.parametrize("kind", ["filters", "equal", "zero"])
def test_departures_rise(count, kind):
    points = {"filters": filters(count, 0), "equal": np.eye(count), "zero": np.zeros((count, 1))}[kind]
    found = departures(distances(points))
    assert found.shape == (count,)
    assert found.min() > 0
    assert (np.diff(found) > 0).all()


def test_departures_are_the_counts_of_exemplars():
    table = distances(filters(64, 0))
    curve = departures(table)
    for factor in np.linspace(0.1, 1, 10):
        assert (curve > factor).sum() == pytest.approx(len(exemplars(table, factor)[0]), abs=8)
    np.testing.assert_allclose(departures(1e-12 * table), curve)  # the unit of the weights does not matter


def test_a_large_group_is_judged_by_some_of_its_units(monkeypatch):
    monkeypatch.setattr(affinity, "SAMPLE", 64)
    table = distances(filters(128, 0))
    sampled = departures(table)
    assert (np.diff(sampled) > 0).all()
    monkeypatch.undo()
    shares = [(curve[:, None] > np.linspace(0.1, 1, 10)).mean(axis=0) for curve in (sampled, departures(table))]
    assert np.abs(np.subtract(*shares)).max() < 0.15


def test_a_large_group_takes_ten_propagations_of_its_sample(monkeypatch):
    asked, original = [], affinity.exemplars
    monkeypatch.setattr(affinity, "SAMPLE", 64)
    monkeypatch.setattr(affinity, "exemplars", lambda table, *more: asked.append(len(table)) or original(table, *more))
    departures(distances(filters(128, 0)))
    assert asked == [64] * 10


@pytest.fixture(scope="module")
def problem():
    """Four groups of 16; the filters of the last two are copies of four, slightly disturbed."""
    groups = tuple(ChannelGroup(f"g{i}", 16, ()) for i in range(4))
    layers = tuple(Layer(g.name, "conv", 1, 1.0, Axis(3, 3), Axis(16, 0, ((i, 1),))) for i, g in enumerate(groups))
    rng = np.random.default_rng(0)
    points = [filters(16, 0), filters(16, 1), *(np.repeat(filters(4, s), 4, 0) + 0.05 * filters(16, s) for s in (2, 3))]
    scores = tuple(rng.lognormal(0, 1, 16) for _ in groups)
    return Problem(SearchSpace(groups, (), layers, ()), (parse("macs<=40%"),), scores, tuple(map(distances, points)))


def test_redundant_groups_keep_less(problem):
    widths = allocation.exemplars(problem)
    assert problem.feasibility.violation(widths) == 0
    wider = [tuple(w + (i == g) for i, w in enumerate(widths)) for g in range(4) if widths[g] < 16]
    assert all(problem.feasibility.violation(w) > 0 for w in wider)  # nothing is left over
    assert min(widths[:2]) > max(widths[2:])


def test_no_budget_means_the_dense_network(problem):
    free = Problem(problem.space, (), problem.scores, problem.distances)
    assert allocation.exemplars(free) == problem.space.full


def test_without_distances_it_says_so(problem):
    bare = Problem(problem.space, problem.budgets, problem.scores)
    for name in ("exemplars", "combined"):
        assert "distances" in strategies.needs(name)
        with pytest.raises(ValueError, match=r"Problem\.distances must hold .*found None"):
            strategies.make(name, bare).ask(0)
    assert "distances" in strategies.needs("evolution", "exemplars")


@pytest.mark.parametrize("encoding", ["compensation", "shift", "exemplars", "ratios"])
@pytest.mark.parametrize("opening", ["none", "closed"])
def test_combined_begins_with_the_exemplar_counts_and_their_mixtures(problem, opening, encoding):
    strategy = strategies.open_with(opening, strategies.make("combined", problem, encoding=encoding))
    begin = len(strategies.warm_starts(problem)) if opening == "closed" else 0
    told, greedy, even = (np.array(f(problem)) for f in (allocation.exemplars, allocation.knapsack, allocation.uniform))
    starts = np.array([strategy.ask(begin + n) for n in range(4)])
    assert starts[0].tolist() == told.tolist()
    for mixed, other in ((starts[1], greedy), (starts[2], even)):
        assert np.abs(mixed - told).sum() < np.abs(other - told).sum()
        assert np.abs(mixed - other).sum() < np.abs(other - told).sum()
    assert bool(strategy.propose(begin).genes) == (encoding != "ratios")  # there the widths say it all
