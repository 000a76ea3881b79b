"""The simulated clock: the real controller at a thousand workers, in seconds."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.controller import SearchController
from autoprune.ledger import Ledger
from autoprune.problem import TrialState
from autoprune.schedule import Halving
from autoprune.workers import run_here
from autoprune.workers.simulated import simulate
from autoprune.workers.simulation import Faults

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import toys

FACTS = "number widths state metrics fidelity error genes probe".split()


class Cheap:
    """Random widths of many, so that hardly any is proposed twice."""

    def __init__(self):
        self.told = Counter()

    def propose(self, number):
        rng = np.random.default_rng([7, number])
        return toys.Proposal(tuple(int(w) for w in rng.integers(1, 10_000, 3)))

    def tell(self, trial):
        self.told[trial.number] += 1


def cheap_loss(job):
    return {"loss": sum(job.widths) / 3e4}


def control(run, strategy, groups, num_trials, rungs=((0, "short"),), **more):
    return SearchController(Ledger.open(run, groups, {"seed": 3}), strategy, Halving(num_trials, rungs), **more)


def toy(run, num_trials=toys.NUM_TRIALS):
    return control(run, toys.Evolution(3), toys.GROUPS, num_trials, (toys.FINALISTS,))


def cheap(run, num_trials):
    return control(run, Cheap(), dict.fromkeys("abc", 10_000), num_trials)


def facts(controller):
    return [[getattr(t, name) for name in FACTS] for t in controller.trials]


def orders(controller):
    return [e.order for e in controller.ledger.entries]


@pytest.mark.slow
def test_a_thousand_workers_that_die_and_straggle_end_every_trial_once(tmp_path):
    """Exactness, and the bound: no evaluation more than the candidates asked and the deaths."""
    controller = cheap(tmp_path / "run", 3000)
    speeds = np.random.default_rng(0).lognormal(0, 0.3, 1000)
    faults = Faults(deaths=0.05, stragglers=0.05, slowdown=1000)
    said = simulate(controller, cheap_loss, speeds, seed=1, faults=faults, timeout_s=60)
    trials = controller.trials
    assert len(trials) == 3000
    assert all(t.state is not TrialState.RUNNING for t in trials)
    assert sorted(orders(controller)) == list(range(3000))
    assert controller._strategy.told == dict.fromkeys(range(3000), 1)
    for trial in trials:
        if trial.state is TrialState.COMPLETE:
            assert trial.loss == cheap_loss(trial)["loss"]
        else:
            assert trial.error == "killed its worker 3 times, at last: simulated"
    deaths = sum(e.deaths for e in controller.ledger.entries)
    killers = sum(t.state is TrialState.FAIL for t in trials)
    assert said.deaths == deaths > 100
    assert said.evaluations == 3000 - killers + deaths
    controller.ledger.close()
    assert facts(controller) == facts(cheap(tmp_path / "run", 3000))  # what is replayed is what was lived


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 20), st.integers(0, 100), st.floats(0, 0.3), st.floats(0, 0.3))
def test_any_pool_with_any_faults_ends_every_trial_once(tmp_path_factory, size, seed, deaths, stragglers):
    controller = toy(tmp_path_factory.mktemp("pool") / "run")
    faults = Faults(deaths=deaths, stragglers=stragglers, slowdown=20, restart_s=1)
    said = simulate(controller, toys.measure, range(1, size + 1), seed=seed, faults=faults, timeout_s=30)
    trials = [t for t in controller.trials if not t.metrics.get("cached")]
    assert sum(t.fidelity == "proxy" for t in trials) == toys.NUM_TRIALS
    assert all(t.state is not TrialState.RUNNING for t in controller.trials)
    assert sorted(orders(controller)) == list(range(len(controller.trials)))
    assert len(trials) <= said.evaluations <= len(trials) + said.deaths
    controller.ledger.close()


def test_one_worker_equals_run_here(tmp_path):
    here, simulated = toy(tmp_path / "here"), toy(tmp_path / "simulated")
    run_here(here, toys.measure)
    said = simulate(simulated, toys.measure, [2.0], seconds=4.0)
    assert facts(simulated) == facts(here)
    assert orders(simulated) == orders(here)
    assert said.makespan_s == 2.0 * said.evaluations
    assert said.steady == said.busy() == 1.0


@pytest.mark.parametrize("workers", [1, 7, 50])
def test_the_same_seed_gives_the_same_simulation(tmp_path, workers):
    def one(name, seed):
        controller = toy(tmp_path / name)
        faults = Faults(deaths=0.2, stragglers=0.2)
        said = simulate(controller, toys.measure, [1.0] * workers, seed=seed, faults=faults, controller_s=0.01)
        return facts(controller), orders(controller), said.spans

    assert one("one", 1) == one("two", 1)
    assert one("one again", 1)[2] != one("three", 2)[2]


def test_a_simulation_by_hand(tmp_path):
    """Two workers, one twice as fast, five trials of 4 s: fast 0-2-4-6-8, slow 0-4 and 4-8: the fifth ends at 6."""
    said = simulate(cheap(tmp_path / "run", 5), cheap_loss, [2.0, 1.0])
    assert sorted(said.spans) == [(0, 2), (0, 4), (2, 4), (4, 6), (4, 8)]
    assert (said.makespan_s, said.idle_s, said.evaluations) == (8, 2, 5)
    assert said.busy() == 14 / 16
    assert said.steady == 1  # until the last one begins, nobody waits


def test_a_slow_controller_makes_workers_stand_in_line(tmp_path):
    """A second for each ask and each tell: no more than one evaluation in two seconds, however many workers."""
    said = simulate(cheap(tmp_path / "run", 40), cheap_loss, [1.0] * 20, controller_s=1.0)
    begins = np.diff(sorted(begin for begin, _ in said.spans))
    assert (begins >= 1).all()
    assert said.makespan_s == 20 + 20 * 2 + 4  # twenty asks, twenty tells with an ask, the last evaluation
    assert said.busy() == 40 * 4 / (20 * 64)


def test_a_hung_worker_is_killed_at_the_timeout_and_its_candidate_tried_again(tmp_path):
    """Of the attempts that hang each costs the timeout and the restart; without a timeout the search cannot end."""
    hung = Faults(stragglers=1.0, slowdown=float("inf"), restart_s=1.0)
    controller = cheap(tmp_path / "run", 1)
    said = simulate(controller, cheap_loss, [1.0], faults=hung, timeout_s=10.0)
    assert said.spans == [(0, 10), (11, 21), (22, 32)]
    assert controller.trials[0].state is TrialState.FAIL
    with pytest.raises(RuntimeError, match="all 2 workers hang or are gone; give a timeout"):
        simulate(cheap(tmp_path / "for ever", 3), cheap_loss, [1.0, 1.0], faults=hung)


@pytest.mark.parametrize("workers", [[], [1.0, 0.0], [-1.0], [float("nan")]])
def test_refuses_workers_that_never_end(tmp_path, workers):
    with pytest.raises(ValueError, match="workers: need at least one, each with a speed above 0, got"):
        simulate(cheap(tmp_path / "run", 3), cheap_loss, workers)
