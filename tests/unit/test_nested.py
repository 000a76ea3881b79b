"""One learnt ranking cut at many budgets: a chain of nested networks."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.config import RunConfig
from autoprune.problem import Problem, Trial
from autoprune.runs.nested import learnt_ranking, rebudget
from objectives import InfeasibleBudget, parse
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace
from search_spaces.encodings import Affine, LayerCompensation, Shift

SIZES = (8, 13, 24, 32)


def problem_of(seed=0, divisor=1, budget="macs<=50%"):
    """A chain of 1x1 convolutions with random pixels and scores."""
    rng = np.random.default_rng(seed)
    axes = [Axis(3, 3), *(Axis(c, 0, ((g, 1),)) for g, c in enumerate(SIZES)), Axis(5, 5)]
    layers = tuple(
        Layer(f"l{i}", "conv", 1, float(rng.integers(1, 9)), r, m) for i, (r, m) in enumerate(pairwise(axes))
    )
    groups = tuple(ChannelGroup(f"g{g}", c, (), divisor) for g, c in enumerate(SIZES))
    scores = tuple(np.exp(rng.standard_normal(c) + rng.standard_normal()) for c in SIZES)
    return Problem(SearchSpace(groups, (), layers, ()), (parse(budget),), scores)


@given(st.integers(0, 10**6), st.sampled_from([LayerCompensation, Shift, Affine]), st.sampled_from([1, 4]))
@settings(max_examples=60, deadline=None)
def test_all_budgets_of_one_ranking_are_one_chain(seed, kind, divisor):
    """Whatever the ranking, and even where the trial was filled up beyond what the ranking says."""
    problem = problem_of(seed % 7, divisor)
    ranking = kind(problem.space, problem.scores)
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
