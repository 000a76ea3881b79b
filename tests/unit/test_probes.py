"""Probes: trials that are only measured."""

import itertools

import numpy as np
import pytest

from autoprune.controller import SearchController
from autoprune.errors import SearchStopped
from autoprune.ledger import Ledger
from autoprune.problem import Problem, Proposal
from autoprune.schedule import Halving
from autoprune.strategies import Evolution, NetAdapt, Sensitivity, open_with
from autoprune.workers import run_here
from objectives import parse
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace

SIZES = (16, 24, 32)
FULL = np.array(SIZES)


class Fixed:
    """Proposes what it is given: even widths within 100 are candidates, all others probes."""

    def __init__(self, *widths):
        self.widths, self.told = widths, []

    def propose(self, number):
        widths = self.widths[number % len(self.widths)]
        return Proposal((widths,), probe=widths > 100)

    def tell(self, trial):
        self.told.append(trial)


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def problem():
    axes = [Axis(3, 3), *(Axis(c, 0, ((g, 1),)) for g, c in enumerate(SIZES)), Axis(5, 5)]
    layers = tuple(Layer(f"l{i}", "conv", 1, 1.0, r, m) for i, (r, m) in enumerate(itertools.pairwise(axes)))
    groups = tuple(ChannelGroup(f"l{g}", c, ()) for g, c in enumerate(SIZES))
    return Problem(
        SearchSpace(groups, (), layers, ()), (parse("macs<=50%"),), tuple(np.arange(1.0, c + 1) for c in SIZES)
    )


def fixed(run, *widths, **more):
    ledger = Ledger.open(run, {"a": 1000}, {"seed": 3})
    schedule = Halving(more.get("num_trials", len(widths)), ((2, "short"),))
    return SearchController(ledger, Fixed(*widths), schedule, project=lambda w: (min(*w, 100),))


def finish(controller, loss):
    """One worker until the end; the jobs."""
    jobs = []
    while job := controller.ask("w0"):
        value = loss(job.widths)
        controller.tell("w0", job.number, {"loss": value, "batch_losses": [value, value]})
        jobs.append(job)
    return jobs


def better_when_wider(widths):
    return 1.0 / sum(widths)


def test_probes_are_not_projected_and_never_win(run):
    c = fixed(run, 900, 40, 800, 60)
    jobs = finish(c, better_when_wider)
    assert [j.widths for j in jobs] == [(900,), (40,), (800,), (60,), (60,), (40,)]  # the last two are the finalists
    assert [j.fidelity for j in jobs] == ["proxy"] * 4 + ["short"] * 2
    assert c.best.widths == (60,)
    assert [t.probe for t in c.trials] == [True, False, True, False, False, False]
    assert [t.probe for t in c._strategy.told] == [True, False, True, False]


def test_probes_have_no_incumbent_and_are_none(run):
    """They are measured to the end, and nobody is abandoned for being worse than one."""
    jobs = finish(fixed(run, 900, 40, 800, 60), better_when_wider)
    assert [j.incumbent for j in jobs[:4]] == [None, None, None, (1 / 40, 1 / 40)]


def test_only_probes_is_no_winner(run):
    c = fixed(run, 900, 800)
    assert len(finish(c, better_when_wider)) == 2
    assert c.best is None


def test_probes_are_kept_through_a_resume(run):
    c = fixed(run, 900, 40, 800, 60)
    for worker in ("w0", "w1", "w2"):
        c.ask(worker)
    c.tell("w0", 0, {"loss": 0.001, "batch_losses": [0.001]})
    c.ledger.close()
    c = fixed(run, 900, 40, 800, 60)
    assert [(t.number, t.probe) for t in c._strategy.told] == [(0, True)]
    assert [t.probe for t in c.trials] == [True, False, True]
    jobs = finish(c, better_when_wider)
    assert [(j.number, j.widths) for j in jobs[:3]] == [(1, (40,)), (2, (800,)), (3, (60,))]
    assert jobs[1].incumbent is None
    assert c.best.widths == (60,)


def control(run, problem, strategy, num_trials, finalists=3):
    groups = {g.name: g.size for g in problem.space.groups}
    ledger = Ledger.open(run, groups, {"seed": 3})
    schedule = Halving(num_trials, ((finalists, "short"),))
    return SearchController(ledger, strategy, schedule, project=problem.project)


def loss(widths):
    return float((np.array((1.0, 3.0, 0.5)) * (1 - np.array(widths) / FULL) ** 2).sum())


@pytest.mark.parametrize("make", [
    lambda p, n: NetAdapt(p, seed=1, num_trials=n),
    lambda p, n: Sensitivity(p, seed=1, num_trials=n),
    lambda p, n: open_with("sensitivity", Evolution(p, seed=1, num_trials=n)),
], ids=["netadapt", "sensitivity", "opening"])  # fmt: skip
def test_whole_searches_with_probes(run, problem, make):
    c = control(run, problem, make(problem, 40), 40)
    run_here(c, lambda job: {"loss": loss(job.widths), "batch_losses": [loss(job.widths)]})
    assert c.num_evaluations == 43
    assert any(t.probe for t in c.trials)
    assert not any(t.probe for t in c.trials[40:])
    assert all(t.probe or problem.feasibility.violation(t.widths) == 0 for t in c.trials)
    whole, winner = [(t.widths, t.probe) for t in c.trials], c.best.loss
    c.ledger.close()
    # More trials: the plan is another one, and the finalists' numbers lie in between; it goes on to its end.
    c = control(run, problem, make(problem, 80), 80)
    run_here(c, lambda job: {"loss": loss(job.widths), "batch_losses": [loss(job.widths)]})
    assert sum(t.fidelity == "proxy" and not t.metrics.get("cached") for t in c.trials) == 80
    assert [(t.widths, t.probe) for t in c.trials[:43]] == whole
    assert c.best.loss <= winner
    c.ledger.close()


def test_a_round_makes_no_worker_wait(run, problem):
    c = control(run, problem, NetAdapt(problem, seed=1, num_trials=40), 40)
    jobs = [c.ask(f"w{i}") for i in range(7)]  # the dense network, one shrink of each group, and what may follow
    assert len({job.widths for job in jobs}) == 7
    for i, job in enumerate(jobs):
        c.tell(f"w{i}", job.number, {"loss": loss(job.widths)})
    assert c.ask("w4").number == 7


def test_a_strategy_that_waits_for_nothing_is_stopped(run):
    c = fixed(run, 1, num_trials=5)
    c._strategy.propose = lambda number: None
    with pytest.raises(SearchStopped, match="proposes nothing although all trials have finished"):
        c.ask("w0")
