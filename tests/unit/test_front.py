"""Several goals at once: what the setting means, which candidates count, and how budgets hold all together."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune import strategies
from autoprune.config import RunConfig
from autoprune.controller import SearchController
from autoprune.ledger import Ledger
from autoprune.problem import Problem, Trial, TrialState
from autoprune.runs.nested import evaluated, why_this
from autoprune.schedule import Halving
from autoprune.strategies import NSGA2, make, open_with
from autoprune.tradeoff import TradeOff
from objectives import Budget, Feasibility, InfeasibleBudget, contribution, hypervolume, parse, parse_metrics
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace, TensorShape

SIZES = (8, 12, 16, 24, 32)
FAST, ODD = "latency@torch,batch=1,threads=1", "latency@onnxruntime,batch=1,threads=1"


def smooth(widths):
    """A device on which the time of a layer grows with its width."""
    return 0.2 + widths.sum(axis=1) / 40


def sawtooth(widths):
    """A device that likes multiples of four."""
    return 0.5 + (widths + 3.0 * (widths % 4 != 0)).sum(axis=1) / 90


def problem_of(*budgets, seed=0, front=(), worst=1.0, sizes=SIZES):
    """A chain of 3x3 convolutions whose maps shrink, with random scores, and two devices."""
    rng = np.random.default_rng(seed)
    axes = [Axis(3, 3), *(Axis(c, 0, ((g, 1),)) for g, c in enumerate(sizes)), Axis(5, 5)]
    ends = list(pairwise(axes))
    layers = tuple(Layer(f"l{i}", "conv", 9, 4.0 ** (3 - i // 2), r, m) for i, (r, m) in enumerate(ends))
    tensors = tuple(TensorShape(f"l{i}.weight", (m, r, Axis(9, 9))) for i, (r, m) in enumerate(ends))
    groups = tuple(ChannelGroup(f"l{g}", c, ()) for g, c in enumerate(sizes))
    scores = tuple(np.exp(0.5 * rng.standard_normal(c) + rng.standard_normal()) for c in sizes)
    filters = [rng.standard_normal((c, 4)) for c in sizes]
    distances = tuple(((f[:, None] - f[None]) ** 2).sum(2) for f in filters)
    space = SearchSpace(groups, (), layers, tensors)
    held = (*(b if isinstance(b, Budget) else parse(b) for b in budgets), *(Budget(m, 1.0, True) for m in front))
    return Problem(space, held, scores, distances, {FAST: smooth, ODD: sawtooth}, tuple(front), worst)


def complete(number, widths, loss, fidelity="proxy", **more):
    """A finished trial; its batches are there for who is compared with it."""
    return Trial(
        number, tuple(widths), TrialState.COMPLETE, {"loss": loss, "batch_losses": [loss] * 9}, fidelity, **more
    )


def wanted(problem, seed=0):
    """A loss from 0 (dense) to below 1 that no score knows."""
    weights = np.random.default_rng([7, seed]).lognormal(0, 1, len(problem.space.groups))
    return lambda widths: float((weights * (1 - np.divide(widths, problem.space.full)) ** 2).sum() / weights.sum())


# -- the setting -----------------------------------------------------------------------------------------------------
def test_a_front_changes_the_other_defaults_and_nothing_that_was_said(tmp_path):
    config = RunConfig.make(front="flops,latency@torch,batch=8,params")
    assert config.front == ("macs", "latency@torch,batch=8,threads=1", "params")
    assert (config.strategy, config.budget) == ("nsga2", ())
    assert config.goal == "front of loss and macs and latency@torch,batch=8,threads=1 and params"
    told = RunConfig.make(front=["macs"], strategy="legr", budget="params<=50%")
    assert (told.strategy, told.budget) == ("legr", ("params<=50%",))
    assert told.goal == "front of loss and macs, all within params<=50%"
    (tmp_path / "run.toml").write_text(config.to_toml())
    assert RunConfig.make(**RunConfig.read(tmp_path / "run.toml")) == config
    assert (RunConfig.make().strategy, RunConfig.make().budget) == ("combined", ("macs<=50%",))
    assert RunConfig.make().goal == "macs<=50%"


@pytest.mark.parametrize(
    ("front", "why"),
    [
        ("foo", "front: 'foo': unknown cost 'foo'; known: activations, latency, macs, params"),
        ("macs,loss", r"front: expected costs, e\.g\. .*; found 'loss' \(the loss is an objective already\)"),
        ("macs,,params", "found an empty name"),
        ("macs<=50%", "expected a cost without a bound; a bound is a --budget"),
        ("latency@phone", "front: 'latency@phone': unknown latency backend 'phone'"),
        ("latency@torch,foo=2", "unknown option 'foo'"),
        ("macs,params,activations,latency", "at most 3 costs can be traded off at once, found 4"),
    ],
)
def test_a_bad_front_is_one_sentence(front, why):
    with pytest.raises(ValueError, match=why):
        RunConfig.make(front=front)


@pytest.mark.parametrize(
    ("more", "why"), [({"target": "top1>=90%"}, "^target: "), ({"cluster": "local", "rungs": 2}, "^rungs: Ray")]
)
def test_what_makes_no_sense_with_a_front_is_refused(more, why):
    with pytest.raises(ValueError, match=why):
        RunConfig.make(front="macs", **more)


def test_metrics_that_were_read_are_read_again():
    names = parse_metrics(["latency@torch,batch=2", "macs", "flops"])
    assert parse_metrics(names) == names == (f"{FAST[:-18]},batch=2,threads=1", "macs")


@pytest.mark.parametrize("name", sorted(strategies.STRATEGIES))
def test_which_strategies_can_search_a_front(name):
    kind = strategies.STRATEGIES[name]
    if not kind.fills:
        return strategies.check_front(name, "", False)
    learns = issubclass(kind, strategies.Encoded) and kind.default in strategies.RANKINGS
    with pytest.raises(ValueError, match="give that --budget" if learns else f"front: strategy '{name}' .*use nsga2"):
        strategies.check_front(name, "", False)
    if learns:
        strategies.check_front(name, "", True)
    elif issubclass(kind, strategies.Encoded):
        strategies.check_front(name, "shift", True)


# -- NSGA-II over several costs --------------------------------------------------------------------------------------
def run(strategy, loss, count):
    """One worker; the trials."""
    for number in range(count):
        proposal = strategy.propose(number)
        strategy.tell(replace(complete(number, proposal.widths, loss(proposal.widths)), genes=proposal.genes))
    return strategy.trials


def test_nsga2_spreads_over_both_costs_and_has_the_better_front():
    """Against random widths at random budgets, and itself with one of the two costs: hypervolumes of 3 seeds."""

    class Anywhere(NSGA2):
        """No parents: a random search of the front."""

        def parents(self, rng):
            return ()

    def volume(cls, front, seed):
        problem = problem_of("macs<=100%", "params<=100%", seed=seed, front=front)
        both = TradeOff(("macs", "params"), problem.feasibility, 1.0)
        trials = run(cls(problem, seed=seed), wanted(problem, seed), 60)
        assert {min(3, int(4 * both.shares(t.widths)[0])) for t in trials} >= {0, 1, 2}
        return hypervolume([both.point(t) for t in trials], both.corner)

    totals = {
        (cls, front): sum(volume(cls, front, seed) for seed in range(3))
        for cls, front in ((NSGA2, ("macs", "params")), (NSGA2, ("macs",)), (Anywhere, ("macs", "params")))
    }
    best = totals.pop((NSGA2, ("macs", "params")))
    assert all(best > 1.01 * other for other in totals.values()), (best, totals)


def test_budgets_bind_every_candidate_of_a_front():
    problem = problem_of("params<=40%", front=("macs", FAST))
    for trial in run(open_with("closed", NSGA2(problem, seed=1)), wanted(problem), 40):
        assert problem.feasibility.violation(problem.space.check(trial.widths)) == 0


def test_a_front_opens_with_the_closed_forms_at_several_sizes():
    problem = problem_of(front=("macs",))
    tradeoff = TradeOff.of(problem, False)
    strategy = open_with("closed", NSGA2(problem, seed=0))
    shares = [float(tradeoff.shares(strategy.ask(n))[0]) for n in range(4)]
    assert shares[0] == 1.0
    assert sorted(shares, reverse=True) == shares
    assert 0.35 < shares[1] <= 0.51
    one = problem_of("macs<=50%", front=("macs",))  # a learnt ranking searches at its budget
    opened = open_with("closed", make("lcp", one))
    assert all(TradeOff.of(one, True).shares(opened.ask(n))[0] > 0.4 for n in range(4))


# -- which candidates count ------------------------------------------------------------------------------------------
def line(*rows, worst=1.0, budgeted=False, fidelity="proxy"):
    """(width of a layer of 100, loss) -> the trade-off against its MACs, and the trials."""
    axis = Axis(100, 0, ((0, 1),))
    space = SearchSpace((ChannelGroup("g", 100, ()),), (), (Layer("l", "conv", 1, 1, Axis(1, 1), axis),), ())
    problem = Problem(space, (Budget("macs", 1.0, True),), (np.arange(100.0),), front=("macs",), worst=worst)
    return TradeOff.of(problem, budgeted), [complete(n, (w,), x, fidelity) for n, (w, x) in enumerate(rows)], problem


def test_finalists_are_spread_along_the_front():
    """By hand: half the network is delivered, 50; then what adds most. With y = log(loss / 0.05) / log(20) in [0, 1],

    width    100    80     60     50     45     20     10
    loss     0.05   0.1    0.9    0.2    0.25   0.4    0.7
    y        0      0.231  0.965  0.463  0.537  0.694  0.881
    adds     0      0.046  0             0.023  0.092  0.048    width over 50: * (0.463 - y); under: * (1 - y); so 20
    adds     0      0.046  0             0.008         0.012    so 80
    """
    tradeoff, trials, _ = line((100, 0.05), (50, 0.2), (80, 0.1), (45, 0.25), (20, 0.4), (10, 0.7), (60, 0.9))
    assert [t.widths[0] for t in tradeoff.finalists(trials, 3)] == [50, 20, 80]
    assert [t.widths[0] for t in tradeoff.finalists(trials, 0)] == []
    assert {t.widths[0] for t in tradeoff.finalists(trials, 99)} == {100, 80, 60, 50, 45, 20, 10}
    plan = Halving(len(trials), ((2, "short"),), choose=tradeoff.finalists)
    assert plan.next(trials).widths == (50,)
    assert plan.next([*trials, complete(7, (50,), 0.1, "short")]).widths == (20,)


def test_what_is_delivered():
    """Half the first cost at the highest fidelity; without any so small the cheapest; under budgets the best."""
    rows = ((100, 0.1), (60, 0.2), (50, 0.3), (40, 0.4), (20, 0.6))
    tradeoff, trials, _ = line(*rows)
    assert tradeoff.best(trials, ("short", "proxy")).widths == (50,)
    trained = [complete(5, (60,), 0.1, "short"), complete(6, (40,), 0.15, "short"), complete(7, (20,), 0.3, "short")]
    assert tradeoff.best([*trials, *trained], ("short", "proxy")).number == 6
    assert tradeoff.best(trials[:2], ("short", "proxy")).widths == (60,)
    assert tradeoff.best([], ("short", "proxy")) is None
    under, trials, _ = line(*rows, budgeted=True)
    assert under.best([*trials, *trained], ("short", "proxy")).number == 5


def test_a_small_network_is_not_given_up_for_a_large_one():
    """Its rival is the best of those that cost no more: only who beats it in everything makes it hopeless."""
    tradeoff, trials, _ = line((100, 0.1), (30, 0.6), (50, 0.3), (20, 0.7), (25, 0.5))
    assert [tradeoff.rival(trials, (w,), "proxy") and tradeoff.rival(trials, (w,), "proxy").number
            for w in (10, 20, 27, 50, 100)] == [None, 3, 4, 2, 0]  # fmt: skip
    assert tradeoff.rival(trials, (50,), "short") is None
    bare = [replace(t, metrics={"loss": t.loss}) for t in trials]  # nothing to compare batch by batch
    assert tradeoff.rival(bare, (50,), "proxy") is None


@pytest.mark.slow
def test_the_controller_hands_out_the_rival_and_finds_it_again(tmp_path):
    problem = problem_of(front=("macs",))
    plan = {"groups": {g.name: g.size for g in problem.space.groups}, "fingerprint": {}}

    def controller(ledger):
        strategy = open_with("closed", NSGA2(problem, seed=0))
        return SearchController(ledger, strategy, Halving(12, ((3, "short"),)), tradeoff=TradeOff.of(problem, False))

    loss, seen = wanted(problem), []
    with Ledger.open(tmp_path, plan["groups"], plan["fingerprint"], fresh=True) as ledger:
        search = controller(ledger)
        while (job := search.ask("w")) is not None:
            seen.append(job)
            assert controller_again(ledger, controller).incumbent == job.incumbent
            value = loss(job.widths)
            search.tell("w", job.number, {"loss": value, "batch_losses": [value] * 9})
    price = problem.feasibility.price
    share = {job.number: price(job.widths)["macs"] / price(problem.space.full)["macs"] for job in seen}
    assert sum(job.incumbent is not None for job in seen) >= 3
    for job in seen:
        rivals = [t for t in search.trials[: job.number] if t.fidelity == job.fidelity and t.number in share]
        cheaper = [t.loss for t in rivals if share[t.number] <= share[job.number]]
        assert (job.incumbent[0] if job.incumbent else None) == min(cheaper, default=None)
    shorts = [share[job.number] for job in seen if job.fidelity == "short"]
    assert len(shorts) == 3
    assert min(shorts) < 0.15 < 0.3 < max(shorts)
    assert price(search.best.widths)["macs"] <= 0.5 * price(problem.space.full)["macs"]


def controller_again(ledger, make_one):
    """The job that a controller made anew from the same ledger hands out to the worker that has it."""
    return make_one(ledger).ask("w")


def test_another_budget_is_another_candidate():
    """Untrained 35 is the best below 40 %; one as large was trained, so trained ones compare, and the best is taken."""
    _, trials, problem = line((100, 0.1), (35, 0.4), (33, 0.45), (20, 0.6), (15, 0.8))
    fidelities = ("short", "proxy")
    assert evaluated(problem, trials, (parse("macs<=40%"),), fidelities).number == 1
    trials += [complete(5, (20,), 0.2, "short")]  # too small to compare with what is untrained
    assert evaluated(problem, trials, (parse("macs<=40%"),), fidelities).number == 1
    trials += [complete(6, (33,), 0.3, "short")]
    assert evaluated(problem, trials, (parse("macs<=40%"),), fidelities).number == 5  # smaller, and better
    assert (
        evaluated(problem, [*trials, complete(7, (34,), 0.1, "short")], (parse("macs<=40%"),), fidelities).number == 7
    )
    assert evaluated(problem, trials, (parse("macs<=30%"),), fidelities).number == 5
    assert evaluated(problem, trials, (parse("macs<=18%"),), fidelities).number == 4
    with pytest.raises(InfeasibleBudget, match=r"^budget 'macs<=12%': no candidate .*trial 4, has macs 15 % of"):
        evaluated(problem, trials, (parse("macs<=12%"),), fidelities)
    with pytest.raises(InfeasibleBudget, match=r"'macs<=12%' and budget 'activations<=90%': no candidate"):
        evaluated(problem, trials, (parse("macs<=12%"), parse("activations<=90%")), fidelities)
    with pytest.raises(InfeasibleBudget, match="no candidate has been evaluated yet"):
        evaluated(problem, [], (parse("macs<=12%"),), fidelities)


def test_it_is_said_why_a_smaller_candidate_was_better():
    _, trials, problem = line((100, 0.1), (35, 0.4), (33, 0.45), (20, 0.6), (15, 0.8))
    trials += [complete(5, (20,), 0.2, "short"), complete(6, (33,), 0.3, "short"), complete(7, (33,), 0.5, "short")]
    budgets = (parse("macs<=40%"),)

    def why(taken, trials=trials):
        return why_this(problem, trials, budgets, taken, "doubt")

    head = "of the front within macs<=40%: trial 5 with doubt 0.2000 (short) at macs 20.0 %"
    assert why(trials[5]) == f"{head}; of 2 larger ones the best is trial 6 with doubt 0.3000 (short) at macs 33.0 %"
    assert why(trials[1]).endswith("trial 1 with doubt 0.4000 (proxy) at macs 35.0 %, the largest there")
    untrained = why(trials[5], trials[:6])
    assert untrained == (
        f"{head}; of 2 larger ones none was trained so long, the best is trial 1 with doubt 0.4000 (proxy) at macs "
        "35.0 %, where this one has 0.6000"
    )


# -- the hypervolume -------------------------------------------------------------------------------------------------
POINTS = st.integers(2, 4).flatmap(lambda m: st.lists(st.tuples(*[st.integers(0, 5)] * m), min_size=1, max_size=7))


@given(POINTS)
@settings(deadline=None)
def test_contributions_add_up_to_the_hypervolume(points):
    corner, total = [5] * len(points[0]), 0.0
    for n, point in enumerate(points):
        total += contribution(point, points[:n], corner)
        assert total == hypervolume(points[: n + 1], corner)


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0, 1.5)), max_size=12))
@settings(deadline=None)
def test_the_hypervolume_never_falls_and_ends_as_that_of_all(rows):
    tradeoff, trials, _ = line(*rows)
    volumes = tradeoff.volumes(trials)
    assert volumes == sorted(volumes)
    whole = hypervolume([tradeoff.point(t) for t in trials], tradeoff.corner)
    assert (volumes or [0.0])[-1] == pytest.approx(whole)
    assert 0 <= whole <= 1


def test_the_hypervolume_by_hand():
    """In units of (loss 2, the dense network): 0.5 * 0.6 after the first; 0.2 at 0.9 adds 0.3 * 0.1."""
    tradeoff, trials, _ = line((50, 0.8), (100, 0.0), (20, 1.8), (60, 0.9), worst=2.0)
    assert tradeoff.volumes(trials) == pytest.approx([0.3, 0.3, 0.33, 0.33])
    failed = replace(trials[0], state=TrialState.FAIL, metrics={})
    assert tradeoff.volumes([failed, replace(trials[1], probe=True)]) == [0.0, 0.0]


# -- several constraints at once -------------------------------------------------------------------------------------
ALL = ("macs", "params", "activations", FAST, ODD)
BOUNDS = st.dictionaries(st.sampled_from(ALL), st.floats(0.0, 1.0), min_size=2, max_size=5)


def bounded(shares, seed):
    """A problem with a budget between the smallest network and the dense one in each of these costs."""
    free = problem_of(seed=seed)
    ends = Feasibility(free.space, [Budget(m, 1.0, True) for m in ALL], costs=free.latency)
    low, high = ends.price(free.space.floor), ends.price(free.space.full)
    return problem_of(*(Budget(m, low[m] + s * (high[m] - low[m])) for m, s in shares.items()), seed=seed)


SLOW = ("gp", "tpe", "cmaes", "amc", "amc_guaranteed", "reinforce")


@pytest.mark.parametrize("name", [name for name in strategies.STRATEGIES if name not in SLOW])
@given(BOUNDS, st.integers(0, 3))
@settings(deadline=None, max_examples=6)
def test_every_strategy_holds_all_constraints_exactly_at_once(name, shares, seed):
    hold_all(name, shares, seed)


@pytest.mark.parametrize("name", SLOW)
def test_slower_strategies_hold_all_constraints_exactly_at_once(name):
    hold_all(name, {metric: 0.3 + 0.1 * n for n, metric in enumerate(ALL)}, 0)


def hold_all(name, shares, seed):
    """The costs are counted by hand, without the code that projects."""
    problem = bounded(shares, seed)
    strategy, loss = make(name, problem, seed, num_trials=12), wanted(problem)
    priced = {m: Feasibility(problem.space, (), costs=problem.latency).costs[m] for m in shares}
    limits = {b.metric: b.limit for b in problem.budgets}
    for number in range(6):
        proposal = strategy.propose(number)
        strategy.tell(replace(complete(number, proposal.widths, loss(proposal.widths)), probe=proposal.probe))
        if not proposal.probe:
            table = np.array([proposal.widths], dtype=np.float64)
            assert all(priced[m](table)[0] <= limit * (1 + 1e-9) for m, limit in limits.items())


def test_the_constraints_that_cannot_hold_are_named():
    problem = problem_of("macs<=60%", Budget(FAST, 0.5, True))
    assert list(problem.feasibility.limits) == ["macs", FAST]
    with pytest.raises(
        InfeasibleBudget, match=r"^budget 'latency<=1%@torch,batch=1,threads=1': unreachable, the small"
    ):
        _ = problem_of("macs<=60%", Budget(FAST, 0.01, True), "params<=50%").feasibility
    with pytest.raises(InfeasibleBudget, match=r"params<=0\.01%'.* budget 'latency<=1%@onnxruntime"):
        _ = problem_of("macs<=60%", "params<=0.01%", Budget(ODD, 0.01, True)).feasibility


def test_the_record_of_a_run_says_what_its_front_is():
    problem = problem_of(front=("macs", FAST), worst=2.5)
    said = json.loads(json.dumps({"front": [list(problem.front), problem.worst]}))
    tradeoff = TradeOff.read(said, problem.space, problem.latency, False)
    trial = complete(0, (4, 6, 8, 12, 16), 0.5)
    assert tradeoff.point(trial) == TradeOff.of(problem, False).point(trial)
    assert TradeOff.read({}, problem.space, {}, False) is None
