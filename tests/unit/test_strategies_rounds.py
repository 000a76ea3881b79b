"""Strategies that follow a plan: NetAdapt's rounds, the sensitivity scan and what is made of it, by hand and by law."""

import itertools
import math

import numpy as np
import pytest

from autoprune import strategies
from autoprune.allocation import knapsack, loss_rises, multiple_choice, scan_widths, threshold, uniform
from autoprune.problem import Problem, Trial, TrialState
from autoprune.strategies import Evolution, NetAdapt, Sensitivity, SensitivityKnapsack, SensitivityOpening, open_with
from autoprune.strategies.rounds import Round
from objectives import parse
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace, TensorShape

PLANNED = [NetAdapt, Sensitivity, SensitivityKnapsack]


def additive(sizes, pixels, *budgets, params=None):
    """Groups that nothing reads: MACs = sum(pixels * widths), parameters = sum(params * widths)."""
    axes = [Axis(c, 0, ((g, 1),)) for g, c in enumerate(sizes)]
    layers = tuple(
        Layer(f"l{g}", "conv", 1, p, Axis(1, 1), a) for g, (p, a) in enumerate(zip(pixels, axes, strict=True))
    )
    tensors = tuple(
        TensorShape(f"l{g}", (Axis(p, p), a)) for g, (p, a) in enumerate(zip(params or pixels, axes, strict=True))
    )
    groups = tuple(ChannelGroup(f"l{g}", c, ()) for g, c in enumerate(sizes))
    scores = tuple(np.ones(c) for c in sizes)
    return Problem(SearchSpace(groups, (), layers, tensors), tuple(map(parse, budgets)), scores)


def chain(sizes, *budgets, seed=0):
    """1x1 convolutions in a row: MACs are products of neighbours."""
    axes = [Axis(3, 3), *(Axis(c, 0, ((g, 1),)) for g, c in enumerate(sizes)), Axis(5, 5)]
    pixels = np.random.default_rng(seed).integers(1, 9, len(sizes) + 1)
    ends = zip(pixels, itertools.pairwise(axes), strict=True)
    layers = tuple(Layer(f"l{i}", "conv", 1, float(p), r, m) for i, (p, (r, m)) in enumerate(ends))
    groups = tuple(ChannelGroup(f"l{g}", c, ()) for g, c in enumerate(sizes))
    scores = tuple(np.arange(1.0, c + 1) for c in sizes)
    return Problem(SearchSpace(groups, (), layers, ()), tuple(map(parse, budgets)), scores)


def linear(weights, full):
    return lambda widths: 1.0 + float(np.dot(weights, np.subtract(full, widths)))


def convex(problem, seed):
    weights = np.random.default_rng([99, seed]).lognormal(0, 1, len(problem.space.groups))
    full = np.array(problem.space.full)
    return lambda widths: float((weights * (1 - np.array(widths) / full) ** 2).sum())


def run(strategy, loss, count, workers=1, seed=0, failing=()):
    """Ask and tell with workers that finish in any order; the trials."""
    rng, running, told = np.random.default_rng(seed), [], []
    while len(told) < count:
        number = len(told) + len(running)
        free = len(running) < workers and number < count
        proposal = strategy.propose(number) if free else None
        if proposal is not None:
            strategy.asked(Trial(number, proposal.widths))
            running.append((number, proposal))
            continue
        number, proposal = running.pop(rng.integers(len(running)))
        bad = proposal.widths in failing
        state, metrics = (TrialState.FAIL, {}) if bad else (TrialState.COMPLETE, {"loss": loss(proposal.widths)})
        told.append(Trial(number, proposal.widths, state, metrics, probe=proposal.probe))
        strategy.tell(told[-1])
    return sorted(told, key=lambda t: t.number)


def best(trials):
    return min((t for t in trials if not t.probe), key=lambda t: t.loss)


# -- NetAdapt ----------------------------------------------------------------------------------------------------------
# MACs = a + b + 2c, dense (10, 10, 10): 40, limit 20: the load falls from 2 to 1. Loss: 1, 4 and 1.5 a unit, or 1, 4
# and 0.75 a MAC. Ten trials pay for (0.9 * 10 - 1) // (3 + 1) = 2 rounds. Half of three groups: one at a time, m = 1.
# Targets: 2 - 0.04 / (1 - 0.96^2) = 2 - 0.04 / 0.0784 = 1.4898 (29.8 MACs), then 1 (20 MACs).
BY_HAND = [
    (10, 10, 10),
    # Round 1 wants 10.2 MACs off; a and b cannot, c only by losing six units: all three give half.
    (5, 10, 10), (10, 5, 10), (10, 10, 5),
    # Cheapest a MAC: c (0.75), then a (1). c gives 10 -> 30 MACs; one unit of a is enough for 29.8.
    (9, 10, 5),
    # Round 2 wants 9 of the 29 MACs off. a cannot: 9 -> 5. b could by 10 -> 1: half. c: 5 -> 3.
    (5, 10, 5), (9, 5, 5), (9, 10, 3),
    # c first: 25 MACs; then a: 21 MACs; then of b only one unit: 20 MACs.
    (5, 9, 3),
]  # fmt: skip


def by_hand(cls=NetAdapt, **more):
    return cls(additive((10, 10, 10), (1, 1, 2), "macs<=20"), num_trials=10, **more)


def test_netadapt_by_hand():
    strategy = by_hand()
    assert strategy.target(2.0, 2) == pytest.approx(2 - 0.04 / 0.0784)
    assert strategy.target(2.0, 1) == pytest.approx(1)
    trials = run(strategy, linear((1, 4, 1.5), (10, 10, 10)), 10)
    assert [t.widths for t in trials[:9]] == BY_HAND
    assert [t.probe for t in trials] == [True] * 8 + [False] * 2


def test_netadapt_leaves_out_the_group_whose_candidate_failed():
    # Without c in round 1: a gives 5 -> 35 MACs, then b 5 -> 30 MACs; the target of 29.8 is not reached.
    trials = run(by_hand(), linear((1, 4, 1.5), (10, 10, 10)), 5, failing=[(10, 10, 5)])
    assert trials[4].widths == (5, 5, 10)


def test_netadapt_takes_a_smaller_step_when_all_failed():
    failing = BY_HAND[1:4]
    trials = run(by_hand(), linear((1, 4, 1.5), (10, 10, 10)), 8, failing=failing)
    # Round 2 wants 20 MACs off, half of it from one group: c gives (10, 10, 5) at half its units, which failed and is
    # not measured again; so do a and b. The plan has only two rounds: the dense network, projected, is the result.
    assert trials[4].widths == by_hand().problem.project((10, 10, 10))
    assert not trials[4].probe


def test_netadapt_takes_fewer_rounds_where_evaluations_go_elsewhere():
    # 30 trials pay for (27 - 1) // 4 = 6 rounds. After one that took 4 there are 5 left, after one that took 10 (with
    # workers that did not wait) (26 - 10) // 10 = 1, after two that took 20 (26 - 20) // 10 = 0.
    strategy = NetAdapt(additive((10, 10, 10), (1, 1, 2), "macs<=20"), num_trials=30)
    assert [strategy.left(*spent) for spent in ((0, 0), (1, 4), (1, 10), (2, 20))] == [6, 5, 1, 0]


def test_netadapt_with_many_evaluations_shrinks_one_group_a_round():
    """m = 1: what a round ends with is one of its candidates, so it is measured once."""
    problem = additive((100, 100, 100), (1, 1, 2), "macs<=50%")
    trials = run(NetAdapt(problem, num_trials=200), linear((1, 4, 1.5), (100, 100, 100)), 200)
    feasible = next(t.number for t in trials if not t.probe)
    widths = [t.widths for t in trials[:feasible]]
    assert len(set(widths)) == len(widths)
    assert all(sum(a != b for a, b in zip(w, v, strict=True)) <= 2 for w, v in itertools.pairwise(widths))
    # The best answer keeps b: 200 of 400 MACs must go, c has them all at 0.75 a MAC, down to its floor of 1: 198 + a 2.
    assert best(trials).loss <= linear((1, 4, 1.5), (100, 100, 100))((98, 100, 1)) * 1.1


def test_netadapt_has_no_rounds_without_evaluations():
    problem = chain((8, 12, 16), "macs<=50%")
    (first, *_) = run(NetAdapt(problem, num_trials=4), convex(problem, 0), 4)
    assert first.widths == uniform(problem)
    assert not first.probe


def test_a_budget_that_the_dense_network_keeps():
    problem = chain((8, 12, 16), "macs<=100%")
    for cls in PLANNED:
        trials = run(cls(problem, num_trials=30), convex(problem, 0), 30)
        assert best(trials).widths == (8, 12, 16)


@pytest.mark.parametrize("cls", PLANNED)
@pytest.mark.parametrize("budgets", [("macs<=50%",), ("macs<=20%",), ("macs<=60%", "activations<=70%")])
def test_plans_end_within_the_evaluations(cls, budgets):
    problem = chain((16, 24, 24, 32, 48, 48), *budgets)
    trials = run(cls(problem, num_trials=80), convex(problem, 0), 80)
    results = [t for t in trials if not t.probe]
    assert len(results) >= 5
    assert all(problem.feasibility.violation(t.widths) == 0 for t in results)
    assert best(trials).loss < convex(problem, 0)(uniform(problem))


# -- the scan ----------------------------------------------------------------------------------------------------------
def test_scan_widths_by_hand():
    problem = additive((9, 5, 1), (1, 1, 1))
    assert scan_widths(problem, 1) == ((5,), (3,), ())  # the middle of 1..9 and of 1..5; nothing to choose
    assert scan_widths(problem, 3) == ((3, 5, 7), (2, 3, 4), ())
    assert scan_widths(problem, 9) == ((1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4), ())


def test_loss_rises_by_hand():
    problem = additive((5, 5, 5, 1), (1, 1, 1, 1))
    tables = [{2: 1.6, 4: 1.2}, {2: 1.1, 4: 1.3}, {3: math.nan}, {}]
    first, second, third, single = loss_rises(problem, 1.0, tables)
    # Between 4 (0.2) and 2 (0.6) the middle; the floor, on the line: 0.6 + 0.2 = 0.8, more than the worst, 0.6.
    np.testing.assert_allclose(first, [0.8, 0.6, 0.4, 0.2, 0])
    # Narrower is never better: 0.3 at 2 too. The floor counts as the worst of the scan.
    np.testing.assert_allclose(second, [0.6, 0.3, 0.3, 0.3, 0])
    # The failure counts as the worst, 0.6; the floor on the line through (5, 0) and (3, 0.6): 1.2.
    np.testing.assert_allclose(third, [1.2, 0.9, 0.6, 0.3, 0])
    np.testing.assert_allclose(single, [0])


def test_loss_rises_where_all_failed():
    problem = additive((3, 3), (1, 1))
    assert all((r == 0).all() for r in loss_rises(problem, math.inf, [{1: math.inf, 2: math.nan}, {2: math.inf}]))


def drops_of(problem, seed):
    """A random table without a rise in width."""
    rng = np.random.default_rng(seed)
    return tuple(np.append(np.cumsum(rng.random(c - 1))[::-1] * rng.lognormal(), 0.0) for c in problem.space.full)


def total(problem, drops, widths):
    return sum(float(d[w - 1]) for d, w in zip(drops, widths, strict=True))


def everything(problem):
    every = list(itertools.product(*(g.choices() for g in problem.space.groups)))
    return [w for w, fits in zip(every, problem.feasibility.fits(np.array(every)), strict=True) if fits]


def test_threshold_by_hand():
    # MACs a + 2b, dense (4, 4): 12, limit 7. Bounds: 0.1 -> (3, 4) 11; 0.2 -> (3, 3) 9; 0.3 -> (2, 3) 8;
    # 0.5 -> (2, 2) 6 <= 7; the one MAC that is left goes to a: (3, 2).
    problem = additive((4, 4), (1, 2), "macs<=7")
    drops = (np.array([0.9, 0.3, 0.1, 0.0]), np.array([0.8, 0.5, 0.2, 0.0]))
    assert threshold(problem, drops) == (3, 2)


def test_multiple_choice_by_hand():
    # The same table: of the fits, (3, 2): 0.1 + 0.5 and (1, 3): 0.9 + 0.2; (2, 2) is 0.8: the first is the least.
    problem = additive((4, 4), (1, 2), "macs<=7")
    drops = (np.array([0.9, 0.3, 0.1, 0.0]), np.array([0.8, 0.5, 0.2, 0.0]))
    assert multiple_choice(problem, drops) == (3, 2)
    # With a cheap floor of a, 0.35 + 0.2 = 0.55 is less than 0.6.
    assert multiple_choice(problem, (np.array([0.35, 0.3, 0.1, 0.0]), drops[1])) == (1, 3)


@pytest.mark.parametrize("seed", range(3))
def test_multiple_choice_of_wide_groups_is_near_the_best(seed):
    """Of 100 widths only 32 are priced; projection fills what that leaves."""
    problem = additive((100, 70), (1, 2), "macs<=50%")
    drops = drops_of(problem, seed)
    answer = multiple_choice(problem, drops)
    assert problem.feasibility.violation(answer) == 0
    least = min(total(problem, drops, w) for w in everything(problem))
    assert least - 1e-9 <= total(problem, drops, answer) <= 1.1 * least


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("make", [
    lambda s: additive((5, 6, 7, 4), (1, 3, 2, 5), "macs<=50%"),
    lambda s: additive((5, 6, 7, 4), (1, 3, 2, 5), "macs<=60%", "params<=50%", params=(4, 1, 2, 3)),
    lambda s: chain((5, 6, 7, 4), "macs<=40%", seed=s),
], ids=["additive", "two budgets", "chain"])  # fmt: skip
def test_answers_against_all_that_is_possible(make, seed):
    """Threshold: the least worst rise there is. Knapsack: the least sum (where costs are products, near it)."""
    problem = make(seed)
    drops, possible = drops_of(problem, seed), everything(make(seed))
    bound = min(max(float(d[w - 1]) for d, w in zip(drops, widths, strict=True)) for widths in possible)
    even = threshold(problem, drops)
    assert max(float(d[w - 1]) for d, w in zip(drops, even, strict=True)) == pytest.approx(bound)
    least = min(total(problem, drops, w) for w in possible)
    answer = multiple_choice(problem, drops)
    assert problem.feasibility.violation(answer) == 0
    chained = problem.space.layers[1].reads.terms
    assert total(problem, drops, answer) <= least * (1.25 if chained else 1.001)
    assert total(problem, drops, answer) <= total(problem, drops, even)


def test_knapsack_beats_threshold_where_losses_add_up():
    gains = []
    for seed in range(4):
        problem = chain((8, 12, 16, 24), "macs<=50%", seed=seed)
        loss = convex(problem, seed)
        one, other = (best(run(c(problem, num_trials=40), loss, 40)).loss for c in (SensitivityKnapsack, Sensitivity))
        gains.append(one / other)
    assert np.exp(np.mean(np.log(gains))) < 0.97, gains


def test_sensitivity_scans_then_answers_then_tries_neighbours():
    problem = chain((8, 12, 16), "macs<=50%")
    strategy = Sensitivity(problem, num_trials=30)
    trials = run(strategy, convex(problem, 0), 30)
    points = (int(0.85 * 30) - 2) // 3  # 7 of each group, all there are of the first
    assert points == 7
    assert trials[0].widths == (8, 12, 16)
    scan = trials[1:22]
    assert all(sum(a != b for a, b in zip(t.widths, (8, 12, 16), strict=True)) == 1 for t in scan)
    assert all(t.probe or problem.project(t.widths) == t.widths for t in scan)  # l1 alone at one unit is enough
    table = [{t.widths[g]: t.loss for t in scan if t.widths[g] != c} for g, c in enumerate((8, 12, 16))]
    assert [len(t) for t in table] == [7, 7, 7]
    assert trials[22].widths == threshold(problem, loss_rises(problem, trials[0].loss, table))
    assert not any(t.probe for t in trials[22:])
    near = [sum(a != b for a, b in zip(t.widths, trials[22].widths, strict=True)) for t in trials[23:]]
    assert max(near) <= 3


# -- laws of all plans -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cls", [Sensitivity, SensitivityKnapsack])
@pytest.mark.parametrize("workers", [2, 4, 50])
def test_workers_do_not_change_the_scan_and_its_answer(cls, workers):
    problem = chain((8, 12, 16, 24), "macs<=50%")
    loss = convex(problem, 1)
    one = run(cls(problem, seed=1, num_trials=50), loss, 50)
    many = run(cls(problem, seed=1, num_trials=50), loss, 50, workers=workers, seed=workers)
    assert [t.widths for t in one if t.probe] == [t.widths for t in many if t.probe]
    answer = next(t.widths for t in one if not t.probe)
    assert workers == 50 or answer in [t.widths for t in many]  # all 50 were asked before anything was known


@pytest.mark.parametrize("cls", PLANNED)
@pytest.mark.parametrize("workers", [3, 8, 24])
def test_nobody_waits_and_the_plan_still_ends(cls, workers):
    problem = chain((8, 12, 16, 24, 24, 32), "macs<=50%")
    loss, strategy = convex(problem, 1), cls(problem, seed=1, num_trials=200)
    waits, propose = [], strategy.propose
    strategy.propose = lambda number: propose(number) or waits.append(number)
    trials = run(strategy, loss, 200, workers=workers, seed=workers)
    assert not waits
    assert len({t.widths for t in trials}) > 190  # hardly anything twice
    assert workers == 24 or not isinstance(strategy._here(), Round)  # in any order, the last of 24 takes its time
    one = best(run(cls(problem, seed=1, num_trials=200), loss, 200))
    assert best(trials).loss < 1.5 * one.loss
    again = cls(problem, seed=1, num_trials=200)
    for trial in trials:
        again.tell(trial)
    assert again.propose(200) == propose(200)


@pytest.mark.parametrize("cls", PLANNED)
def test_what_is_measured_in_advance_is_what_would_follow(cls):
    """All but one of the first round are known: the next candidate is that of the plan, if the guess is right."""
    problem = chain((8, 12, 16, 24), "macs<=50%")
    strategy, loss = cls(problem, num_trials=60), convex(problem, 1)
    first = list(dict.fromkeys(strategy.plan().candidates))
    for number, widths in enumerate(first[:-1]):
        strategy.tell(Trial(number, widths, TrialState.COMPLETE, {"loss": loss(widths)}))
    strategy.asked(Trial(len(first) - 1, first[-1]))
    ahead = strategy.propose(len(first)).widths
    assert ahead not in first
    near = min(first[:-1], key=lambda w: np.abs(np.subtract(w, first[-1]) / problem.space.full).sum())
    strategy.tell(Trial(len(first) - 1, first[-1], TrialState.COMPLETE, {"loss": loss(near)}))
    assert strategy.propose(len(first)).widths == ahead


@pytest.mark.parametrize("cls", PLANNED)
@pytest.mark.parametrize("stop", [3, 17, 33, 47])
def test_a_search_that_was_stopped_goes_on_as_if_not(cls, stop):
    problem = chain((8, 12, 16, 24), "macs<=50%")
    loss = convex(problem, 1)
    whole = run(cls(problem, seed=1, num_trials=50), loss, 50)
    again = cls(problem, seed=1, num_trials=50)
    for trial in whole[:stop]:
        again.tell(trial)
    for trial in whole[stop:]:
        proposal = again.propose(trial.number)
        assert (proposal.widths, proposal.probe) == (trial.widths, trial.probe)
        again.tell(trial)


def test_what_runs_is_not_proposed_again():
    strategy, asked = by_hand(), []
    for number in range(6):
        proposal = strategy.propose(number)
        asked.append(proposal.widths)
        strategy.asked(Trial(number, proposal.widths))
    assert asked[:4] == BY_HAND[:4]
    assert all(strategy.problem.feasibility.violation(w) == 0 for w in asked[4:])  # neighbours, nothing being known
    strategy.tell(Trial(2, BY_HAND[2], TrialState.FAIL))
    assert strategy.propose(6).widths not in asked


def test_workers_wait_only_where_nothing_new_is_left():
    strategy = Sensitivity(additive((2, 2), (1, 1), "macs<=50%"), num_trials=20)
    said = []
    while proposal := strategy.propose(len(said)):
        said.append(proposal.widths)
        strategy.asked(Trial(len(said) - 1, proposal.widths))
    assert set(said) <= {(2, 2), (1, 2), (2, 1), (1, 1)}
    assert strategy.ask(9) in said


def test_what_is_known_is_not_measured_again():
    strategy = by_hand()
    strategy.tell(Trial(0, BY_HAND[2], TrialState.COMPLETE, {"loss": 21.0}))
    asked = []
    for number in (1, 2, 3):
        asked.append(strategy.propose(number).widths)
        strategy.asked(Trial(number, asked[-1]))
    assert asked == [BY_HAND[0], BY_HAND[1], BY_HAND[3]]


def test_the_opening_scans_and_answers_for_another_strategy():
    problem = chain((8, 12, 16, 24), "macs<=50%")
    opened = open_with("sensitivity", Evolution(problem, seed=1, num_trials=60))
    length = SensitivityOpening(problem, num_trials=60).length
    assert length == 1 + 4 * 4 + 2  # (60 / 3 - 3) // 4 = 4 points
    trials = run(opened, convex(problem, 0), 60, workers=3)
    # Two workers go on with the other strategy while the last of the scan runs, one while the answers do.
    assert [t.probe for t in trials] == [True] * (length - 2) + [False] * (60 - length + 2)
    scan = [
        {t.widths[g]: t.loss for t in trials[1 : length - 2] if t.widths[g] != c} for g, c in enumerate((8, 12, 16, 24))
    ]
    drops = loss_rises(problem, 0.0, scan)
    answers = threshold(problem, drops), multiple_choice(problem, drops)
    assert set(answers) <= {t.widths for t in trials[length - 2 :]}
    assert best(trials).loss <= min(t.loss for t in trials if t.widths in answers)


def test_an_opening_too_short_for_a_scan():
    problem = chain((8, 12, 16, 24), "macs<=50%")
    opening = SensitivityOpening(problem, num_trials=12)
    assert opening.length == 2
    assert [t.widths for t in run(opening, convex(problem, 0), 2)] == [uniform(problem), knapsack(problem)]
    assert SensitivityOpening(problem, num_trials=14).length == 7  # dense, one of each group, two answers


def test_only_searches_are_opened():
    problem = chain((8, 12), "macs<=50%")
    for cls in PLANNED:
        strategy = cls(problem)
        assert open_with("closed", strategy) is strategy
        with pytest.raises(ValueError, match=f"strategy '{cls.name}' begins on its own"):
            open_with("sensitivity", strategy)
        assert strategies.STRATEGIES[cls.name] is cls
