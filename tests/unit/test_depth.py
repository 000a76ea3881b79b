"""Where branches may vanish: projection, encodings, closed forms and moves with a width of 0."""

from dataclasses import replace

import branches
import numpy as np
import pytest
import torch

from autoprune import allocation
from autoprune.allocation import streams, without_bottlenecks
from autoprune.problem import Problem
from autoprune.strategies import warm_starts
from autoprune.strategies.encoded import ENCODINGS, make_encoding
from autoprune.strategies.moves import exchange
from objectives import Budget, Feasibility, InfeasibleBudget, parse
from objectives.registry import COSTS
from search_spaces import trace
from search_spaces.encodings import ZERO, mutate


class Calls:
    """A cost that is flat in the widths, as a device's at small batches: one for each layer that is there."""

    name, unit = "calls", "calls"

    def __init__(self, space):
        self.space = space
        self.layers = [x.name for x in space.layers]

    def __call__(self, widths):
        return np.array([self.count(tuple(int(w) for w in row)) for row in np.asarray(widths)], dtype=float)

    def count(self, row):
        gone = self.space.removed(row)
        return sum(not any(b.holds(name) for b in gone) for name in self.layers) + 1e-3 * sum(row)


def problem_of(name="bottleneck", *budgets, depth=True, seed=0):
    torch.manual_seed(0)
    space = trace(*branches.made(name)).with_limits(depth=depth)
    rng = np.random.default_rng(seed)
    scores = tuple(rng.random(g.size) for g in space.groups)
    return Problem(space, tuple(map(parse, budgets)), scores)


@pytest.fixture(scope="module", params=["bottleneck", "squeezed", "inception", "dense", "pre-norm"])
def problem(request):
    return problem_of(request.param, "macs<=35%")


def test_projection_is_feasible_settled_and_does_nothing_twice(problem):
    rng = np.random.default_rng(0)
    for _ in range(10):
        wish = problem.space.sample(rng)
        found = problem.project(wish)
        assert problem.space.check(found) == found == problem.space.settled(found)
        assert problem.feasibility.violation(found) == 0
        assert problem.project(found) == found


def test_what_is_closed_stays_closed(problem):
    branch = problem.space.branches[-1]
    closed = problem.space.without(problem.space.full, branch)
    assert [w == 0 for w in problem.project(closed)] == [w == 0 for w in closed]


def test_what_is_open_stays_open_where_widths_alone_do(problem):
    assert all(problem.project(problem.space.full))


def test_a_budget_out_of_reach_of_widths_closes_branches(monkeypatch):
    flat = problem_of("bottleneck")
    calls = Calls(flat.space)
    monkeypatch.setitem(COSTS, "calls", Calls)
    flat = replace(flat, budgets=(Budget("calls", 0.7, relative=True),), latency={"calls": calls})
    with pytest.raises(InfeasibleBudget):
        Feasibility(flat.space.standing, flat.budgets, costs=flat.latency)
    found = flat.project(flat.space.full)
    assert flat.feasibility.violation(found) == 0
    assert len(flat.space.removed(found)) == 1
    kept = [w / g.size for w, g in zip(found, flat.space.groups, strict=True) if w]
    assert min(kept) > 0.9  # what is left is as wide as can be


@pytest.mark.parametrize("name", [n for n in ENCODINGS if n != "exemplars"])
def test_an_encoding_means_zero_in_a_region(name, problem):
    encoding, fits = make_encoding(name, problem), problem.feasibility.fits
    rng = np.random.default_rng(0)
    closed = [encoding.decode(rng.random(encoding.dim), fits) for _ in range(30)]
    assert any(0 in w for w in closed)
    assert any(all(w) for w in closed) or len(problem.space.branches) > 4
    assert all(w == problem.space.settled(w) for w in closed)
    for widths in closed[:5]:
        x = encoding.encode(widths)
        gone = [u < ZERO for u, g in zip(x, problem.space.groups, strict=False) if g.floor == 0]
        assert gone == [w == 0 for w, g in zip(widths, problem.space.groups, strict=True) if g.floor == 0]
        assert (np.array(encoding.decode(x, fits)) == 0).tolist() == [w == 0 for w in widths]


@pytest.mark.parametrize("name", ["ratios", "compensation", "affine"])
def test_mutation_opens_and_closes(name, problem):
    encoding, fits = make_encoding(name, problem), problem.feasibility.fits
    rng = np.random.default_rng(1)
    dense, shut = (encoding.encode(w) for w in (problem.space.full, problem.space.floor))
    closing = [encoding.decode(encoding.mutate(dense, rng, groups=2, step=0.2), fits) for _ in range(40)]
    opening = [encoding.decode(encoding.mutate(shut, rng, groups=2, step=0.2), fits) for _ in range(40)]
    assert 0.02 < np.mean([0 in w for w in closing]) < 0.8
    assert any(sum(w > 0 for w in o) > sum(w > 0 for w in problem.space.floor) for o in opening)


def test_small_moves_open_and_close_whole_branches(problem):
    rng, space = np.random.default_rng(2), problem.space
    moved = [mutate(space, w, rng, groups=2, step=0.1) for w in (space.full, space.floor) for _ in range(40)]
    assert all(space.check(w) == space.settled(w) for w in moved)
    assert any(0 in w for w in moved[:40])
    assert any(sum(w > 0 for w in m) > sum(w > 0 for w in space.floor) for m in moved[40:])


def test_the_branch_that_is_worth_least_for_its_cost_goes_first():
    problem = problem_of("inverted", "macs<=50%")
    names = [g.name for g in problem.space.groups]
    for worthless in ("blocks.0.conv.0", "blocks.1.conv.0"):
        at = names.index(worthless)
        scores = [s * (0.01 if i == at else 1) for i, s in enumerate(problem.scores)]
        order = allocation.closing_order(replace(problem, scores=tuple(scores)))
        assert [names[i] for i, w in enumerate(order[1]) if w == 0] == [worthless]
        assert len(order) == 3


def test_closed_forms_take_a_whole_branch_for_its_whole_cost():
    """A block without a score: the knapsack and the multiple-choice knapsack remove it, and keep all else."""
    problem = problem_of("bottleneck", "macs<=65%")
    at = {i for i, g in enumerate(problem.space.groups) if g.name.startswith("blocks.1")}
    scores = tuple(s * (0 if i in at else 1) + (0 if i in at else 1) for i, s in enumerate(problem.scores))
    problem = replace(problem, scores=scores)
    best = problem.project(tuple(0 if i in at else g.size for i, g in enumerate(problem.space.groups)))
    assert allocation.knapsack(problem) == best
    assert allocation.multiple_choice(problem, allocation.summed_scores(problem)) == best


def test_warm_starts_have_networks_with_and_without_their_branches(problem):
    starts = warm_starts(problem)
    assert any(0 in w for w in starts)
    assert any(all(w) for w in starts)
    assert all(problem.feasibility.violation(w) == 0 for w in starts)
    assert all(w == problem.space.settled(w) for w in starts)


def test_without_depth_nothing_is_drawn_otherwise():
    """Searches without depth are what they were: no branch costs a draw."""
    shut, rng, other = problem_of(depth=False), np.random.default_rng(0), np.random.default_rng(0)
    assert shut.space.sample(rng) == tuple(int(other.choice(g.choices())) for g in shut.space.groups)
    assert rng.random() == other.random()
    assert type(make_encoding("ratios", shut)).__name__ == "Ratios"


def test_what_holds_an_unreachable_budget_up_is_no_layer_that_is_gone():
    space = trace(*branches.made("bottleneck")).with_limits(depth=True)
    with pytest.raises(InfeasibleBudget, match=r"smallest width, and of what is left (stem has|fc has)") as error:
        Feasibility(space, [parse("macs<=0.01%")])
    assert "blocks" not in str(error.value)


def test_a_move_of_another_kind_leaves_closed_what_is_closed(problem):
    space = problem.space
    if not streams(space):
        pytest.skip("no stream")
    closed = space.without(space.full, space.branches[0])
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = exchange(space, closed, rng)
        assert [w == 0 for w in moved] == [w == 0 for w in closed]


def test_without_bottlenecks_a_branch_may_still_go():
    wide = trace(*branches.made("bottleneck")).with_limits(depth=True)
    groups = tuple(replace(g, size=60) if g.may_vanish else g for g in wide.groups)
    assert any(g.floor == 0 for g in groups)
    broad = without_bottlenecks(Problem(replace(wide, groups=groups), (), tuple(np.ones(g.size) for g in groups)))
    for group in broad.space.groups:
        if group.size == 60:
            assert group.choices()[:2] == (0, 3)
