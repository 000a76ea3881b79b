"""One exam for every strategy in the facade."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from autoprune import strategies
from autoprune.problem import Problem, Proposal, Trial, TrialState
from autoprune.strategies import warm_starts
from objectives import parse
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace, TensorShape
from search_spaces.branches.branch import Branch, StandIn

STRATEGIES = list(strategies.STRATEGIES.values())
# Those that draw conclusions from what others proposed; the rest follow a plan of their own or none.
SEARCHING = [c for c in STRATEGIES if c.opens and c not in (strategies.Random, strategies.LeGR)]
LASTING = (strategies.AMC, strategies.GP)  # they train, or fit a Gaussian process, after each trial
SIZES = (8, 12, 16, 16, 24, 32, 32, 48)


def problem_of(*budgets, sizes=SIZES, divisor=1, seed=0):
    """A chain of 1x1 convolutions with random pixels and scores."""
    rng = np.random.default_rng(seed)
    axes = [Axis(3, 3), *(Axis(c, 0, ((g, 1),)) for g, c in enumerate(sizes)), Axis(5, 5)]
    ends = list(pairwise(axes))
    layers = tuple(Layer(f"l{i}", "conv", 1, float(rng.integers(1, 9)), r, m) for i, (r, m) in enumerate(ends))
    tensors = tuple(TensorShape(f"l{i}.weight", (m, r)) for i, (r, m) in enumerate(ends))
    groups = tuple(ChannelGroup(f"l{g}", c, (), divisor) for g, c in enumerate(sizes))
    scores = tuple(np.exp(0.5 * rng.standard_normal(c) + rng.standard_normal()) for c in sizes)
    filters = [rng.standard_normal((c, 4)) for c in sizes]
    distances = tuple(((f[:, None] - f[None]) ** 2).sum(2) for f in filters)
    return Problem(SearchSpace(groups, (), layers, tensors), tuple(map(parse, budgets)), scores, distances)


@pytest.fixture(scope="module")
def problem():
    return problem_of("macs<=50%")


def separable(problem, seed):
    """A convex loss in the kept ratios: each group has a weight of its own that no score knows."""
    weights = np.random.default_rng([99, seed]).lognormal(0, 1, len(problem.space.groups))
    full = np.array(problem.space.full)
    return lambda widths: float((weights * (1 - np.array(widths) / full) ** 2).sum())


def complete(number, widths, loss):
    return Trial(number, widths, TrialState.COMPLETE, {"loss": loss})


def answer(number, proposal, loss):
    """The trial of a proposal."""
    done = complete(number, proposal.widths, loss(proposal.widths))
    return replace(done, genes=proposal.genes, probe=proposal.probe)


def run(strategy, loss, count, starts=()):
    """Ask and tell with one worker; the trials."""
    trials = []
    for number in range(count):
        proposal = Proposal(starts[number]) if number < len(starts) else strategy.propose(number)
        trials.append(answer(number, proposal, loss))
        strategy.tell(trials[-1])
    return trials


def mixed_trials(problem, count, seed=0):
    """What a real search tells: good, abandoned, failed, and widths that the strategy never proposed."""
    rng = np.random.default_rng(seed)
    trials = []
    for number in range(count):
        widths = problem.project(problem.space.sample(rng))
        state = TrialState(rng.choice(["complete", "complete", "complete", "pruned", "fail"]))
        metrics = {} if state is TrialState.FAIL else {"loss": float(rng.random())}
        trials.append(Trial(number, widths, state, metrics, error="NaN" if state is TrialState.FAIL else ""))
    return trials


@pytest.mark.parametrize("cls", STRATEGIES)
@pytest.mark.parametrize("told", [0, 3, 40])
def test_ask_is_idempotent(cls, told, problem):
    strategy = cls(problem, seed=1)
    for trial in mixed_trials(problem, told):
        strategy.tell(trial)
    first = [strategy.ask(n) for n in (told, told + 5, told)]
    assert first[0] == first[2]
    assert [strategy.ask(n) for n in (told + 5, told)] == first[1:]


@pytest.mark.parametrize("cls", STRATEGIES)
@pytest.mark.parametrize(("budgets", "divisor"), [(["macs<=50%"], 1), (["macs<=60%", "params<=40%"], 8)])
def test_asks_for_feasible_widths_that_use_the_budget_up(cls, budgets, divisor):
    problem = problem_of(*budgets, divisor=divisor)
    for trial in run(cls(problem, seed=0), separable(problem, 0), 30):
        widths = problem.space.check(trial.widths)
        if trial.probe:
            continue
        assert problem.feasibility.violation(widths) == 0
        for g, group in enumerate(problem.space.groups if cls.fills else ()):
            wider = next((c for c in group.choices() if c > widths[g]), None)
            if wider:
                assert problem.feasibility.violation((*widths[:g], wider, *widths[g + 1 :])) > 0


@pytest.mark.parametrize("cls", STRATEGIES)
def test_same_seed_and_trials_give_the_same_asks(cls, problem):
    asks = []
    for _ in range(2):
        strategy = cls(problem, seed=5)
        run(strategy, separable(problem, 0), 30, warm_starts(problem))
        asks.append([strategy.ask(n) for n in range(30, 40)])
    assert asks[0] == asks[1]


@pytest.mark.parametrize("cls", STRATEGIES)
def test_replay_equals_live_whatever_the_order_of_telling(cls, problem):
    """Three workers that finish out of order, against a fresh strategy told the same trials by number."""
    live, loss, rng = cls(problem, seed=2), separable(problem, 1), np.random.default_rng(0)
    running, told = [], []
    while len(told) < 43:
        number = len(told) + len(running)
        proposal = live.propose(number) if len(running) < 3 else None
        if proposal is not None:
            live.asked(Trial(number, proposal.widths))
            running.append((number, proposal))
        else:  # three are running, or the strategy waits for one of them
            told.append(answer(*running.pop(rng.integers(len(running))), loss))
            live.tell(told[-1])
    again = cls(problem, seed=2)
    for trial in sorted(told, key=lambda t: t.number):
        again.tell(trial)
    for number, proposal in running:
        again.asked(Trial(number, proposal.widths))
    assert [again.propose(n) for n in range(45, 50)] == [live.propose(n) for n in range(45, 50)]


@pytest.mark.parametrize("cls", STRATEGIES)
def test_seeds_and_numbers_give_different_asks(cls, problem):
    plan = issubclass(cls, strategies.Rounds)  # it draws nothing before it is done
    strategy, other = (cls(problem, seed=seed, num_trials=20 if plan else 100) for seed in (0, 1))
    for trial in run(cls(problem, num_trials=20), separable(problem, 0), 30) if plan else mixed_trials(problem, 30):
        strategy.tell(trial)
        other.tell(trial)
    asks = [strategy.ask(n) for n in range(30, 40)]
    assert len(set(asks)) >= 8
    assert asks != [other.ask(n) for n in range(30, 40)]


@pytest.mark.parametrize("cls", STRATEGIES)
@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED])
def test_copes_with_nothing_but_failures_or_abandoned_trials(cls, state, problem):
    strategy = cls(problem, seed=0)
    for number in range(40):
        metrics = {"loss": 2.0} if state is TrialState.PRUNED else {}
        proposal = strategy.propose(number)
        strategy.tell(Trial(number, proposal.widths, state, metrics, probe=proposal.probe))
    proposal = strategy.propose(40)
    assert proposal.probe or problem.feasibility.violation(proposal.widths) == 0


@pytest.mark.parametrize("cls", STRATEGIES)
def test_copes_with_trials_of_no_use(cls, problem):
    strategy, bare = cls(problem, seed=0), cls(problem, seed=0)
    for trial in mixed_trials(problem, 20):
        bare.tell(trial)
    strategy.tell(Trial(3, problem.space.floor, TrialState.RUNNING))  # not finished
    strategy.tell(complete(7, (1, 2), 0.1))  # of another space
    for trial in mixed_trials(problem, 20):
        strategy.tell(complete(trial.number, problem.space.floor, 9.0))  # an answer that is corrected below
    for trial in mixed_trials(problem, 20):
        strategy.tell(trial)
    assert [t for t in strategy.trials] == bare.trials
    assert problem.space.check(strategy.ask(20))


@pytest.mark.parametrize("cls", STRATEGIES)
def test_does_not_ask_twice_for_the_same(cls, problem):
    trials = run(cls(problem, seed=0), separable(problem, 0), 45)
    assert len({t.widths for t in trials}) >= 43


@pytest.mark.parametrize("cls", STRATEGIES)
def test_a_space_with_one_answer_is_no_endless_loop(cls):
    problem = problem_of("macs<=50%", sizes=(2, 2))
    strategy = cls(problem, seed=0)
    trials = run(strategy, separable(problem, 0), 25)
    assert all(t.probe or problem.feasibility.violation(t.widths) == 0 for t in trials)


@pytest.mark.parametrize("cls", STRATEGIES)
def test_more_trials_than_planned(cls, problem):
    strategy = cls(problem, seed=0, num_trials=10)
    run(strategy, separable(problem, 0), 25)
    assert problem.space.check(strategy.ask(1000))


@pytest.mark.parametrize("cls", SEARCHING)
def test_learns_from_warm_starts_it_did_not_propose(cls, problem):
    """Far better members told at the start pull the questions towards them."""
    loss = separable(problem, 0)
    good = min((problem.project(problem.space.sample(np.random.default_rng(i))) for i in range(300)), key=loss)
    told, untold = cls(problem, seed=0), cls(problem, seed=0)
    for number in range(5):
        told.tell(complete(number, good, loss(good)))
        bad = problem.project(problem.space.sample(np.random.default_rng(number)))
        untold.tell(complete(number, bad, loss(bad)))
    near = np.mean([loss(told.ask(n)) for n in range(5, 25)])
    far = np.mean([loss(untold.ask(n)) for n in range(5, 25)])
    assert near < far


@cache
def best_of(cls, seed):
    """The least loss of 60 evaluations, without warm starts."""
    problem = problem_of("macs<=50%", seed=seed)
    return min(t.loss for t in run(cls(problem, seed=seed, num_trials=60), separable(problem, seed), 60))


@pytest.mark.parametrize(
    "cls",
    [pytest.param(c, marks=[pytest.mark.slow] * (c in LASTING)) for c in SEARCHING if c.fills],
)
def test_beats_projected_random_search_at_equal_evaluations(cls):
    """Geometric mean over problems of best loss / best loss of random search."""
    seeds = range(3 if cls is strategies.GP else 5)  # a Gaussian process takes its time
    ratios = [best_of(cls, seed) / best_of(strategies.Random, seed) for seed in seeds]
    assert np.exp(np.mean(np.log(ratios))) < 0.9, ratios


@pytest.mark.parametrize("cls", STRATEGIES)
def test_name_and_source(cls):
    assert strategies.STRATEGIES[cls.name] is cls
    assert "https://" in cls.__doc__ or "`allocation." in cls.__doc__  # where the closed forms have their sources


def residual_problem(*budgets, worthless=2, inner=(16, 16, 24, 24)):
    """A stream and blocks of two 1x1 convolutions on it, each of which may vanish; one has next to no score."""
    rng = np.random.default_rng(0)
    stream, layers, branches = Axis(16, 0, ((0, 1),)), [], []
    layers.append(Layer("stem", "conv", 1, 4.0, Axis(3, 3), stream))
    for g, c in enumerate(inner, start=1):
        within = Axis(c, 0, ((g, 1),))
        layers += [
            Layer(f"b{g}.in", "conv", 1, 4.0, stream, within),
            Layer(f"b{g}.out", "conv", 1, 4.0, within, stream),
        ]
        spots = (StandIn(f"b{g}.in", "empty", 1, (-1, -1)), StandIn(f"b{g}.out", "empty", 1, (-1, -1)))
        branches.append(Branch(f"b{g}", (g,), ((g,),), spots))
    layers.append(Layer("fc", "linear", 1, 1.0, stream, Axis(5, 5)))
    tensors = tuple(TensorShape(f"{x.name}.weight", (x.makes, x.reads)) for x in layers)
    groups = (ChannelGroup("stem", 16, ()), *(ChannelGroup(f"b{g}.in", c, ()) for g, c in enumerate(inner, start=1)))
    space = SearchSpace(groups, (), tuple(layers), tensors, (), tuple(branches)).with_limits(depth=True)
    scores = tuple(np.exp(0.3 * rng.standard_normal(g.size)) * (0.01 if n == worthless else 1)
                   for n, g in enumerate(space.groups))  # fmt: skip
    filters = [rng.standard_normal((g.size, 4)) for g in space.groups]
    distances = tuple(((f[:, None] - f[None]) ** 2).sum(2) for f in filters)
    return Problem(space, tuple(map(parse, budgets)), scores, distances)


@pytest.mark.parametrize("cls", STRATEGIES)
def test_finds_that_a_block_is_better_removed(cls):
    """One block only does harm; without it all else fits at full width, which is the optimum by construction."""
    harmful, problem = 2, residual_problem("macs<=82%")
    full = np.array(problem.space.full)

    def loss(widths):
        lost = np.delete((1 - np.array(widths) / full) ** 2, harmful)
        return float(lost.sum() + 0.5 * (widths[harmful] > 0))

    best = tuple(0 if g == harmful else int(w) for g, w in enumerate(full))
    assert problem.project(best) == best
    trials = run(cls(problem, seed=0, num_trials=60), loss, 60)
    for trial in trials:
        assert problem.space.settled(problem.space.check(trial.widths)) == trial.widths
        assert trial.probe or problem.feasibility.violation(trial.widths) == 0
    zeros = sum(0 in t.widths for t in trials)
    assert 0 < zeros
    winner = min((t for t in trials if not t.probe), key=lambda t: t.loss)
    assert winner.widths[harmful] == 0
    assert all(winner.widths[g] > 0 for g in range(len(full)) if g != harmful)
