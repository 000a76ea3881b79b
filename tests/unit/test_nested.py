"""One learnt ranking cut at many budgets: a chain of nested networks."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.config import RunConfig
from autoprune.problem import Problem, Trial
from autoprune.runs.nested import Learnt, learnt_ranking, rebudget
from autoprune.strategies import ENCODINGS, RANKINGS, check_front
from autoprune.strategies.encoded import make_encoding
from objectives import InfeasibleBudget, parse
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace
from search_spaces.encodings import LayerCompensation, Preferences, Shift

SIZES = (8, 13, 24, 32)


def problem_of(seed=0, divisor=1, budget="macs<=50%"):
    """A chain of 1x1 convolutions with random pixels, scores and filters."""
    rng = np.random.default_rng(seed)
    axes = [Axis(3, 3), *(Axis(c, 0, ((g, 1),)) for g, c in enumerate(SIZES)), Axis(5, 5)]
    layers = tuple(
        Layer(f"l{i}", "conv", 1, float(rng.integers(1, 9)), r, m) for i, (r, m) in enumerate(pairwise(axes))
    )
    groups = tuple(ChannelGroup(f"g{g}", c, (), divisor) for g, c in enumerate(SIZES))
    scores = tuple(np.exp(rng.standard_normal(c) + rng.standard_normal()) for c in SIZES)
    filters = [rng.standard_normal((c, 4)) * rng.lognormal(0, 0.5, (c, 1)) for c in SIZES]
    distances = tuple(((f[:, None] - f[None]) ** 2).sum(2) for f in filters)
    return Problem(SearchSpace(groups, (), layers, ()), (parse(budget),), scores, distances)


@given(st.integers(0, 10**6), st.sampled_from(RANKINGS), st.sampled_from([1, 4]))
@settings(max_examples=80, deadline=None)
def test_all_budgets_of_one_ranking_are_one_chain(seed, name, divisor):
    """Whatever the ranking, and even where the trial was filled up beyond what the ranking says."""
    problem = problem_of(seed % 7, divisor)
    ranking = make_encoding(name, problem)
    rng = np.random.default_rng(seed)
    x = ranking.mutate(np.full(ranking.dim, 0.5), rng, groups=len(SIZES), step=1.0)
    winner = problem.project(ranking.decode(x, problem.feasibility.fits))
    shares = (25, 30, 45, 50, 55, 80, 100)
    budgets = [(parse(f"macs<={share}%"),) for share in shares]
    answers = [rebudget(problem, budget, ranking, x, winner) for budget in budgets]
    chain = [*answers[:3], winner, *answers[3:]]  # at 50 % the winner itself, or what the ranking still adds
    for small, large in pairwise(chain):
        kept = [problem.space.kept(widths, problem.scores) for widths in (small, large)]
        assert all(set(a) <= set(b) for a, b in zip(*kept, strict=True))
    dense = problem.feasibility.price(problem.space.full)["macs"]
    for share, widths in zip(shares, answers, strict=True):
        assert problem.feasibility.price(widths)["macs"] <= share / 100 * dense * (1 + 1e-9)
    assert answers[-1] == problem.space.full


def test_the_cut_uses_most_of_a_budget():
    """What is left is less than the units of the next step of the ranking."""
    problem = problem_of()
    ranking = Shift(problem.space, problem.scores)
    winner = problem.project(problem.space.full)
    for share in (0.3, 0.4, 0.7):
        budget = (parse(f"macs<={share:.0%}"),)
        widths = rebudget(problem, budget, ranking, ranking.encode(winner), winner)
        spent = problem.feasibility.price(widths)["macs"] / problem.feasibility.price(problem.space.full)["macs"]
        assert share - 0.06 < spent <= share


def test_several_budgets_hold_at_once_and_an_impossible_one_is_refused():
    problem = problem_of()
    ranking, winner = LayerCompensation(problem.space, problem.scores), problem.project(problem.space.full)
    budgets = (parse("macs<=40%"), parse("macs<=30%"))
    assert rebudget(problem, budgets, ranking, ranking.encode(winner), winner) == rebudget(
        problem, budgets[1:], ranking, ranking.encode(winner), winner
    )
    with pytest.raises(InfeasibleBudget, match=r"macs<=0\.1%"):
        rebudget(problem, (parse("macs<=0.1%"),), ranking, ranking.encode(winner), winner)


def test_the_ranking_of_a_run():
    """Its genes where it learnt a ranking, be they with an earlier trial; else what reproduces the widths."""
    problem = problem_of()
    widths = problem.project(problem.space.full)
    genes = tuple(np.linspace(0.1, 0.9, 2 * len(SIZES)))
    candidate, finalist = Trial(3, widths, genes=genes), Trial(9, widths, fidelity="short")
    learnt = RunConfig(strategy="layer_compensation")
    ranking, x = learnt_ranking(problem, learnt, finalist, [candidate, finalist])
    assert tuple(x) == genes
    for config in (RunConfig(strategy="evolution"), RunConfig(strategy="random"), RunConfig(strategy="lcp"), learnt):
        ranking, x = learnt_ranking(problem, config, Trial(9, widths), [])
        assert isinstance(ranking, Shift if config.strategy == "lcp" else LayerCompensation)
        assert ranking.decode(x, problem.feasibility.fits) == widths
    shifted = RunConfig(strategy="evolution", encoding="shift")
    assert isinstance(learnt_ranking(problem, shifted, finalist, [candidate])[0], Shift)


def test_learnt_preferences_are_cut_at_other_budgets():
    """They and not the shifts that give the same widths say what goes; the smaller network is in the larger one."""
    problem, config = problem_of(), RunConfig(strategy="evolution", encoding="exemplars")
    preferences = make_encoding("exemplars", problem)
    genes = np.array([0.9, 0.2, 0.7, 0.4])
    widths = problem.project(preferences.decode(genes, problem.feasibility.fits))
    winner = Trial(3, widths, genes=tuple(genes))
    ranking, x = learnt_ranking(problem, config, Trial(9, widths, fidelity="short"), [winner])
    assert isinstance(ranking, Preferences)
    assert x.tolist() == genes.tolist()
    shifts = LayerCompensation(problem.space, problem.scores)
    small, large = (parse("macs<=20%"),), (parse("macs<=35%"),)
    answers = [rebudget(problem, budget, ranking, x, widths) for budget in (small, large)]
    assert answers != [rebudget(problem, budget, shifts, shifts.encode(widths), widths) for budget in (small, large)]
    inner, outer = (problem.space.kept(w, problem.scores) for w in answers)
    assert all(set(a) <= set(b) for a, b in zip(inner, outer, strict=True))
    assert sum(map(len, inner)) < sum(map(len, outer)) < sum(widths)
    # Nobody's genes: those that give the widths at the common factor 1.
    ranking, x = learnt_ranking(problem, config, Trial(9, widths), [])
    assert ranking.decode(x, problem.feasibility.fits) == widths


def test_those_that_serve_a_front_are_those_that_can_be_cut():
    problem = problem_of()
    assert set(RANKINGS) == {name for name in ENCODINGS if isinstance(make_encoding(name, problem), Learnt)}
    for name in RANKINGS:
        check_front("evolution", name, True)
