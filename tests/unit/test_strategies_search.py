"""What single strategies promise beyond the contract."""

import logging
import sys
import time
import types

import numpy as np
import optuna
import pytest

from autoprune import allocation, strategies
from autoprune.problem import Problem, Trial, TrialState
from autoprune.strategies import Evolution, LayerCompensation, Strategy, make, warm_starts
from autoprune.strategies.moves import mutate, tournament
from objectives import parse
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace, encodings


@pytest.fixture(scope="module")
def problem():
    """24 groups of 16 to 62 units, each read by a layer of its own."""
    sizes = range(16, 64, 2)
    rng = np.random.default_rng(0)
    groups = tuple(ChannelGroup(f"g{i}", c, ()) for i, c in enumerate(sizes))
    layers = tuple(
        Layer(g.name, "conv", 9, float(rng.integers(1, 64)), Axis(3, 3), Axis(g.size, 0, ((i, 1),)))
        for i, g in enumerate(groups)
    )
    scores = tuple(rng.lognormal(rng.normal(), 0.5, c) for c in sizes)
    return Problem(SearchSpace(groups, (), layers, ()), (parse("macs<=50%"),), scores)


def told(strategy, count, seed=0):
    rng = np.random.default_rng(seed)
    for n in range(count):
        widths = strategy.problem.project(strategy.problem.space.sample(rng))
        strategy.tell(Trial(n, widths, TrialState.COMPLETE, {"loss": float(rng.random())}))
    return strategy


def test_make(problem, monkeypatch):
    assert isinstance(make("evolution", problem, 3), Evolution)
    assert make("layer_compensation", problem, seed=3, num_trials=7).num_trials == 7
    module = types.ModuleType("outside_strategies")
    module.Mine = type("Mine", (Evolution,), {"name": "mine"})
    monkeypatch.setitem(sys.modules, "outside_strategies", module)
    assert make("outside_strategies:Mine", problem).name == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bayes", r"unknown strategy 'bayes'; known: cmaes, evolution, .*uniform, or give package\.module:Name"),
        ("collections:OrderedDict", r"expected a subclass of autoprune\.strategies\.Strategy"),
        ("no_such_module:Name", "no_such_module"),
    ],
)
def test_make_refuses(name, message, problem):
    with pytest.raises(ValueError, match=message):
        make(name, problem)


def test_warm_starts_are_the_closed_forms(problem):
    starts = warm_starts(problem)
    assert len(set(starts)) == len(starts) >= 4
    for allocate in (allocation.uniform, allocation.global_ranking, allocation.knapsack):
        assert allocate(problem) in starts
    assert problem.feasibility.fits(np.array(starts)).all()


@pytest.mark.parametrize("name", ["uniform", "global_ranking", "knapsack"])
def test_closed_forms_answer_first_and_stay_near(name, problem):
    strategy = make(name, problem, 0)
    answer = getattr(allocation, name)(problem)
    assert strategy.ask(0) == answer
    for n in range(1, 10):
        assert strategy.ask(n) != answer
        assert np.abs(np.subtract(strategy.ask(n), answer) / problem.space.full).mean() < 0.1


def test_mutate_moves_that_many_groups(problem):
    rng = np.random.default_rng(0)
    widths = problem.space.clip(np.array(problem.space.full) / 2)
    for groups in (1, 3, 99):
        moved = np.subtract(mutate(problem.space, widths, rng, groups=groups, step=1e-9), widths)
        assert np.count_nonzero(moved) == min(groups, len(widths))
        assert np.abs(moved).max() == 1  # however small the step, the next legal width at least


def test_tournament_prefers_the_better_and_then_the_older():
    trials = [Trial(n, (1,), TrialState.COMPLETE, {"loss": loss}) for n, loss in enumerate([3.0, 1.0, 1.0, 2.0])]
    rng = np.random.default_rng(0)
    assert tournament(trials, 100, rng).number == 1
    assert {tournament(trials, 1, rng).number for _ in range(50)} == {0, 1, 2, 3}


def test_the_oldest_of_evolution_dies(problem):
    """A very good trial breeds while it is among the last ones, and no longer."""
    star = allocation.uniform(problem)
    others = [t.widths for t in told(Evolution(problem), 60).trials]

    def parents_near_star(older):
        strategy = Evolution(problem, seed=1, num_trials=1)  # small steps
        strategy.tell(Trial(0, star, TrialState.COMPLETE, {"loss": 0.0}))
        for n in range(1, older + 1):
            strategy.tell(Trial(n, others[n], TrialState.COMPLETE, {"loss": 1.0}))
        asks = [np.subtract(strategy.ask(n), star) / problem.space.full for n in range(older + 1, older + 21)]
        return sum(np.abs(a).mean() < 0.05 for a in asks)

    assert parents_near_star(Evolution.population - 1) > 0
    assert parents_near_star(Evolution.population) == 0


@pytest.mark.parametrize("cls", [Evolution, LayerCompensation])
def test_steps_shrink_as_the_search_goes_on(cls, problem):
    centre = allocation.uniform(problem)

    def distance(number):
        strategy = cls(problem, seed=0, num_trials=100)
        for n in range(2):
            strategy.tell(Trial(n, centre, TrialState.COMPLETE, {"loss": 1.0}))
        return np.mean([np.abs(np.subtract(strategy.ask(number + i), centre)).mean() for i in range(20)])

    assert distance(200) < 0.8 * distance(1)  # less than the step itself shrinks: large moves end at the range


def test_layer_compensation_mutates_even_few_groups():
    """int(0.1 * L) of the published code is 0 for fewer than 10 layers: children would be clones."""
    axis = Axis(32, 0, ((0, 1),)), Axis(32, 0, ((1, 1),))
    layers = tuple(Layer(f"g{i}", "conv", 1, 1, Axis(3, 3), a) for i, a in enumerate(axis))
    space = SearchSpace(tuple(ChannelGroup(f"g{i}", 32, ()) for i in range(2)), (), layers, ())
    rng = np.random.default_rng(0)
    problem = Problem(space, (parse("macs<=50%"),), (rng.random(32), rng.random(32)))
    strategy = LayerCompensation(problem, seed=0)
    parent = allocation.uniform(problem)
    for n in range(2):
        strategy.tell(Trial(n, parent, TrialState.COMPLETE, {"loss": 50.0}))  # however large the loss
    assert len({strategy.ask(n) for n in range(2, 22)}) > 8


@pytest.mark.parametrize("name", ["tpe", "cmaes"])
def test_optimisers_and_encodings_are_orthogonal(name, problem):
    encoding = encodings.LayerCompensation(problem.space, problem.scores)
    strategy = told(make(name, problem, 0, encoding=encoding), 40)
    assert problem.feasibility.fits(np.array([strategy.ask(40)]))[0]
    assert strategy.ask(40) != told(make(name, problem, 0), 40).ask(40)


def test_tpe_is_silent_and_leaves_optunas_logging_alone(problem, caplog):
    logger = logging.getLogger("optuna.storages._in_memory")
    before = (optuna.logging.get_verbosity(), logger.disabled)
    with caplog.at_level(logging.DEBUG):
        told(make("tpe", problem), 20).ask(20)
    assert not caplog.records
    assert (optuna.logging.get_verbosity(), logger.disabled) == before


@pytest.mark.parametrize("name", sorted(strategies.STRATEGIES))
def test_a_question_takes_milliseconds(name, problem):
    strategy: Strategy = told(make(name, problem), 100)
    strategy.ask(100)
    seconds = []
    for n in range(101, 106):
        start = time.process_time()
        strategy.ask(n)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.05
