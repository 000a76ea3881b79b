"""Closed-form widths, by hand and by their laws."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from autoprune.allocation import global_ranking, knapsack, uniform
from autoprune.problem import Problem
from objectives import parse
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace, TensorShape

ALLOCATORS = [uniform, global_ranking, knapsack]


def chain(*sizes, pixels=None):
    """A chain of 1x1 convolutions 1 -> sizes -> 1, at `pixels` output positions each."""
    axes = [Axis(1, 1), *(Axis(c, 0, ((g, 1),)) for g, c in enumerate(sizes)), Axis(1, 1)]
    pairs = list(itertools.pairwise(axes))
    layers = tuple(Layer(f"l{i}", "conv", 1, (pixels or [1] * len(pairs))[i], r, m) for i, (r, m) in enumerate(pairs))
    tensors = tuple(TensorShape(f"l{i}.weight", (m, r)) for i, (r, m) in enumerate(pairs))
    return SearchSpace(tuple(ChannelGroup(f"l{g}", c, ()) for g, c in enumerate(sizes)), (), layers, tensors)


def problem_of(space, scores, *budgets):
    return Problem(space, tuple(map(parse, budgets)), tuple(np.array(s, dtype=float) for s in scores))


def random_problem(seed, sizes, *budgets):
    rng = np.random.default_rng(seed)
    scores = [np.exp(rng.standard_normal(c) + rng.standard_normal()) for c in sizes]
    pixels = rng.integers(1, 64, len(sizes) + 1).tolist()
    return problem_of(chain(*sizes, pixels=pixels), scores, *budgets)


@pytest.mark.parametrize("allocate", ALLOCATORS)
@pytest.mark.parametrize("budgets", [("macs<=50%",), ("macs<=10%",), ("macs<=60%", "params<=30%"), ("macs<=100%",)])
@pytest.mark.parametrize("seed", range(3))
def test_feasible_and_nothing_left_over(allocate, budgets, seed):
    problem = random_problem(seed, (8, 16, 24, 16, 32), *budgets)
    widths = problem.space.check(allocate(problem))
    assert problem.feasibility.violation(widths) == 0
    for g, group in enumerate(problem.space.groups):
        if widths[g] < group.size:
            wider = tuple(w + (i == g) for i, w in enumerate(widths))
            assert problem.feasibility.violation(wider) > 0, "one more unit would have fitted"


def test_uniform_keeps_one_share():
    widths = uniform(random_problem(0, (100, 200, 400), "params<=25%"))
    assert np.ptp(np.array(widths) / (100, 200, 400)) < 0.02


# MACs of the chain 1 -> a -> b -> 1 at pixels (1, 1, 1): a + a*b + b; dense (4, 4): 24.
def test_global_ranking_by_hand():
    # Divided by their means (2.5 and 25): group 0 (.4, .8, 1.2, 1.6), group 1 (.04, .04, .04, 3.88).
    problem = problem_of(chain(4, 4), ([1, 2, 3, 4], [1, 1, 1, 97]), "macs<=9")
    # The three at .04 go: (4, 1) costs 4 + 4 + 1 = 9.
    assert global_ranking(problem) == (4, 1)


def test_knapsack_by_hand():
    # Equal scores: what counts is the cost. Pixels (9, 1, 1): 9a + a*b + b; a unit of group 0 costs 9 + 4 = 13,
    # of group 1 4 + 1 = 5. Limit 48 of 56 (dense: 36 + 16 + 4): one of group 0 frees 13 -> 43 <= 48.
    # Then the rest is filled: (3, 4) costs 27 + 12 + 4 = 43, nothing fits. Group 1 alone would have to lose two.
    problem = problem_of(chain(4, 4, pixels=[9, 1, 1]), ([1] * 4, [1.1] * 4), "macs<=48")
    assert knapsack(problem) == (3, 4)


def test_knapsack_weighs_score_against_cost():
    # A unit of group 0 costs 13, one of group 1 costs 5: group 0 goes while its score is below 13/5 of the other's.
    space = chain(4, 4, pixels=[9, 1, 1])
    cheap = problem_of(space, ([2.5, 50, 50, 50], [1, 50, 50, 50]), "macs<=51")
    dear = problem_of(space, ([2.7, 50, 50, 50], [1, 50, 50, 50]), "macs<=51")
    assert knapsack(cheap) == (3, 4)
    assert knapsack(dear) == (4, 3)


# Pixels (4, 1, 1): MACs 4a + ab + b, dense 36; a unit of group 0 frees 8 MACs and 4 activations, of group 1 5 and 1.
# One unit must go: the worst of group 0, score 3.5 (leaves 28), or that of group 1, score 2 (leaves 31).
@pytest.mark.parametrize(
    ("per", "widths"),
    [
        ("none", (4, 3)),  # 3.5 > 2
        ("macs", (4, 3)),  # 3.5 / 8 = .44 > 2 / 5 = .4
        ("activations", (3, 4)),  # 3.5 / 4 < 2 / 1
    ],
)
def test_knapsack_divides_by_the_cost_it_is_told(per, widths):
    problem = problem_of(chain(4, 4, pixels=[4, 1, 1]), ([3.5, 50, 50, 50], [2, 50, 50, 50]), "macs<=31")
    assert knapsack(replace(problem, score_per=per)) == widths


def test_knapsack_divides_by_what_the_budget_limits():
    problems = [random_problem(seed, (8, 16, 24), "macs<=40%") for seed in range(5)]
    found = {per: [knapsack(replace(p, score_per=per)) for p in problems] for per in ("", "macs", "none")}
    assert found[""] == found["macs"] != found["none"]


def test_knapsack_prices_a_step_and_not_a_unit():
    """On a device that computes in blocks of 4 and dislikes other widths a unit less costs more, not less."""

    def ms(widths):
        a, b = (np.ceil(n / 4) * 4 + 2 * (n % 4 > 0) for n in np.asarray(widths).T)
        return 3 * a + b

    found = {}
    for per in ("blocks", "none"):  # per unit the first group is worth more, per millisecond the second
        space, scores = chain(16, 16, pixels=[1, 1, 1]).with_limits(divisor=4), (np.full(16, 1.0), np.full(16, 0.6))
        problem = Problem(space, (parse("macs<=60%"),), scores, score_per=per)
        problem.feasibility.costs["blocks"] = ms
        found[per] = knapsack(problem)
    assert found["blocks"][0] < found["blocks"][1]
    assert found["none"][0] > found["none"][1]


def test_knapsack_is_near_the_best_there_is():
    """Against all the widths of a space small enough: at least 97 % of the best kept score."""
    for seed in range(5):
        problem = random_problem(seed, (4, 4, 4), "macs<=50%")
        table = np.stack(np.meshgrid(*[np.arange(1, 5)] * 3), -1).reshape(-1, 3)
        feasible = table[problem.feasibility.fits(table)]
        best = max(kept_score(problem, w) for w in feasible)
        assert kept_score(problem, knapsack(problem)) >= 0.97 * best


def kept_score(problem, widths):
    return sum(np.sort(s)[-w:].sum() for s, w in zip(problem.scores, widths, strict=True))


@pytest.mark.parametrize("allocate", ALLOCATORS)
def test_the_unit_of_the_scores_does_not_matter(allocate):
    problem = random_problem(1, (8, 16, 24), "macs<=40%")
    scaled = Problem(problem.space, problem.budgets, tuple(1e-9 * s for s in problem.scores))
    assert allocate(problem) == allocate(scaled)


def test_normalised_knapsack_ignores_the_unit_of_each_group():
    problem = random_problem(1, (8, 16, 24), "macs<=40%")
    scores = tuple(s * f for s, f in zip(problem.scores, (1, 1e3, 1e-3), strict=True))
    skewed = Problem(problem.space, problem.budgets, scores)
    first, second = (knapsack(p, normaliser="mean") for p in (problem, skewed))
    # `project` fills the last units by the raw scores.
    assert np.abs(np.subtract(first, second)).max() <= 1
    assert knapsack(skewed) != knapsack(problem)


@pytest.mark.parametrize("allocate", ALLOCATORS)
def test_no_budget_means_the_dense_network(allocate):
    problem = problem_of(chain(4, 6), (np.ones(4), np.ones(6)))
    assert allocate(problem) == (4, 6)


def test_knapsack_calls_few_functions(work):
    problem = random_problem(0, tuple(np.linspace(64, 2048, 50).astype(int).tolist()), "macs<=50%")
    assert work(lambda: knapsack(problem)) < 120_000  # 60,318, some 60 ms
