"""What single strategies promise beyond the contract."""

import itertools
import sys
import types

import numpy as np
import pytest

from autoprune import allocation, strategies
from autoprune.problem import Problem, Trial, TrialState
from autoprune.strategies import NSGA2, Annealing, Evolution, LayerCompensation, Strategy, make, warm_starts
from autoprune.strategies.moves import tournament
from autoprune.strategies.nsga2 import survivors
from autoprune.strategies.parzen import Parzen
from objectives import hypervolume, parse
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace
from search_spaces.encodings import mutate


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
    return Problem(SearchSpace(groups, (), layers, ()), (parse("macs<=50%"),), scores, distances_of(sizes))


def distances_of(sizes):
    """Squared distances between as many random filters, per group."""
    filters = [np.random.default_rng(c).standard_normal((c, 4)) for c in sizes]
    return tuple(((f[:, None] - f[None]) ** 2).sum(2) for f in filters)


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
        ("bayes", r"unknown strategy 'bayes'; known: .*evolution, .*uniform, or give package\.module:Name"),
        ("evoluton", r"unknown strategy 'evoluton' \(did you mean evolution\?\); known: "),
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
        strategy.two_populations = False  # the second one has last ones of its own
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


def test_legr_mutates_as_published(monkeypatch):
    """27 groups: int(2.7) = 2 of them; trial 80 of 400: a step of 1 - 80 / (1.25 * 400) = 0.84; 63 is the identity."""
    axes = [Axis(8, 0, ((i, 1),)) for i in range(27)]
    layers = tuple(Layer(f"g{i}", "conv", 1, 1, Axis(3, 3), axis) for i, axis in enumerate(axes))
    space = SearchSpace(tuple(ChannelGroup(f"g{i}", 8, ()) for i in range(27)), (), layers, ())
    problem = Problem(space, (parse("macs<=50%"),), tuple(np.random.default_rng(0).random((27, 8))))
    strategy, moves = told(make("legr", problem, num_trials=400), 80), []
    strategy_mutate = strategy.encoding.mutate
    monkeypatch.setattr(
        strategy.encoding, "mutate", lambda x, rng, **move: (moves.append(move), strategy_mutate(x, rng, **move))[1]
    )
    rng = np.random.default_rng(0)
    assert (strategy.point(63, rng) == 0.5).all()
    assert (strategy.point(62, rng) != 0.5).all()  # random: every group's scale and shift
    strategy.point(80, rng)
    assert moves == [{"groups": 27, "step": 1.0}, {"groups": 2, "step": pytest.approx(0.84)}]


ENCODED = sorted(n for n, c in strategies.STRATEGIES.items() if issubclass(c, strategies.Encoded))


@pytest.mark.parametrize("encoding", sorted(strategies.ENCODINGS))
@pytest.mark.parametrize("name", ENCODED)
def test_any_optimiser_searches_any_encoding(name, encoding, problem):
    """Feasible, fresh, and the genes are the point that the widths were decoded from."""
    strategy, fits = told(make(name, problem, 0, encoding=encoding), 20), problem.feasibility.fits
    for number in (20, 21, 22):
        proposal = strategy.propose(number)
        assert problem.feasibility.violation(problem.space.check(proposal.widths)) == 0
        assert proposal.widths not in {t.widths for t in strategy.trials}
        trial = Trial(number, proposal.widths, TrialState.COMPLETE, {"loss": 0.5}, genes=proposal.genes)
        strategy.tell(trial)
        if proposal.genes:
            assert strategy.at(trial).tolist() == list(proposal.genes)
        if proposal.genes and strategy.fills:
            decoded = strategy.encoding.decode(strategy.at(trial), fits)
            broad = allocation.without_bottlenecks(problem)  # of every second child
            assert proposal.widths in {problem.project(decoded), broad.project(decoded)}


@pytest.mark.parametrize("count", [0, 1, 2, 24, 60])
def test_parzen_densities_are_optunas(count):
    from optuna.distributions import FloatDistribution
    from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator, _ParzenEstimatorParameters
    from optuna.samplers._tpe.sampler import default_weights

    rng = np.random.default_rng(count)
    points, asked = rng.random((count, 3)).round(1), rng.random((9, 3))  # some lie on top of each other
    theirs = _ParzenEstimator(
        dict(zip("abc", points.T, strict=True)),
        dict.fromkeys("abc", FloatDistribution(0, 1)),
        _ParzenEstimatorParameters(1.0, True, False, default_weights, True),
    )
    found = Parzen(points)
    assert found.log_density(asked) == pytest.approx(theirs.log_pdf(dict(zip("abc", asked.T, strict=True))))
    drawn = found.draw(rng, 4000)
    mean = np.exp(-found.log_density(drawn)).mean()  # of 1 / density over draws: the volume of the cube
    assert mean == pytest.approx(1, abs=0.35)


def test_gp_fits_its_kernel_only_now_and_then(problem, monkeypatch):
    """Of 8, 10, 12 (8 * 1.25^2, rounded down) and so on; a late trial among the first ones makes it fit again."""
    counts, fit = [], strategies.gp.fit
    monkeypatch.setattr("autoprune.strategies.gp.fit", lambda x, y: (counts.append(len(x)), fit(x, y))[1])
    strategy, trials = make("gp", problem), told(make("random", problem), 20).trials
    for n, trial in enumerate(trials):
        if n != 3:
            strategy.tell(trial)
            if n >= 8:
                strategy.kernel(strategy.trials)
    assert counts == [8, 10, 12, 15]
    strategy.tell(trials[3])
    strategy.kernel(strategy.trials)
    assert counts[4:] == [19]
    for number in range(20, 28):  # eight are running: one of them may belong among the first
        strategy.asked(Trial(number, trials[0].widths, TrialState.RUNNING))
    strategy.kernel(strategy.trials)
    assert counts[5:] == [10]


def small_problem(seed):
    """8 groups with a loss that no score knows: convex in the kept ratios, with a weight per group."""
    rng = np.random.default_rng(seed)
    sizes = (8, 12, 16, 16, 24, 32, 32, 48)
    groups = tuple(ChannelGroup(f"g{i}", c, ()) for i, c in enumerate(sizes))
    layers = tuple(
        Layer(g.name, "conv", 9, float(rng.integers(1, 64)), Axis(3, 3), Axis(g.size, 0, ((i, 1),)))
        for i, g in enumerate(groups)
    )
    scores = tuple(rng.lognormal(rng.normal(), 0.5, c) for c in sizes)
    problem = Problem(SearchSpace(groups, (), layers, ()), (parse("macs<=50%"),), scores, distances_of(sizes))
    weights = rng.lognormal(0, 1, len(sizes))
    return problem, lambda widths: float((weights * (1 - np.divide(widths, problem.space.full)) ** 2).sum())


@pytest.fixture(scope="module")
def small():
    return small_problem(3)


def search(strategy, loss, count=40):
    """One worker; the trials."""
    for number in range(count):
        proposal = strategy.propose(number)
        done = {"state": TrialState.COMPLETE, "metrics": {"loss": loss(proposal.widths)}}
        strategy.tell(Trial(number, proposal.widths, genes=proposal.genes, probe=proposal.probe, **done))
    return strategy.trials


@pytest.mark.parametrize("name", [n for n in ENCODED if strategies.STRATEGIES[n].fills])
def test_any_optimiser_learns_in_the_compensation_encoding(name):
    """It beats a random search with as many evaluations: geometric mean of the best losses on two problems."""
    count, ratios = 30 if name == "gp" else 70, []
    for seed in (3, 4):
        problem, loss = small_problem(seed)
        found = search(make(name, problem, seed - 3, encoding="compensation", num_trials=count), loss, count)
        random = search(make("random", problem, seed - 3), loss, count)
        ratios.append(min(t.loss for t in found) / min(t.loss for t in random))
    assert np.exp(np.mean(np.log(ratios))) < 0.9


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_the_temperature_of_annealing_is_in_the_unit_of_the_losses(unit, small):
    """Losses of 1, 2, 1, 2, 1, 2 units: 9 of 15 pairs lie 1 apart, so the first temperature is 0.3 and the last 0.003.

    The chain starts at a 1, the best of the first five. The sixth trial is worse by 1 and accepted with probability
    exp(-1 / 0.3) = 0.0357 at first: of 1000 seeds 36, give or take 6; and with exp(-1 / 0.003) at the end.
    """
    problem, _ = small
    widths = [problem.space.sample(np.random.default_rng(n)) for n in range(6)]

    def accepts(first, seed):
        strategy = Annealing(problem, seed=seed, num_trials=10**6)
        for n in range(6):
            strategy.tell(Trial(first + n, widths[n], TrialState.COMPLETE, {"loss": unit * (1 + n % 2)}))
        return strategy.here().number == first + 5

    assert 18 <= sum(accepts(0, seed) for seed in range(1000)) <= 54
    assert not any(accepts(10**6, seed) for seed in range(100))


def test_nsga2_ranks_by_front_and_then_by_crowding():
    """Deb et al. 2002, worked out by hand.

    Front 0: (0, 4) (1, 2) (4, 0): ends infinite; the middle's neighbours are 4 apart in both, of ranges 4 and 4: 2.
    Front 1: (2, 3), which (1, 2) dominates. Front 2: (3, 4), which (2, 3) dominates. Alone, both are ends.
    """
    points = [(0, 4), (3, 4), (1, 2), (2, 3), (4, 0)]
    assert survivors(points, 9) == [0, 4, 2, 3, 1]
    assert all(survivors(points, n) == [0, 4, 2, 3, 1][:n] for n in range(5))


def test_nsga2_spreads_over_the_budgets_and_has_the_better_front(small):
    """Against random widths at random budgets: hypervolume of (loss, share of the budget), seeds together."""
    problem, loss = small
    limit = problem.feasibility.limits["macs"]

    def volume(trials):
        points = [(t.loss, problem.feasibility.price(t.widths)["macs"] / limit) for t in trials]
        return hypervolume(points, (loss(problem.space.floor), 1.001))

    class Anywhere(NSGA2):
        """No parents: a random search of the front."""

        def parents(self, rng):
            return ()

    volumes = {c: sum(volume(search(c(problem, seed=s), loss, 60)) for s in range(3)) for c in (NSGA2, Anywhere)}
    assert volumes[NSGA2] > 1.02 * volumes[Anywhere]
    shares = [problem.feasibility.price(t.widths)["macs"] / limit for t in search(NSGA2(problem, seed=0), loss, 60)]
    assert all(sum(low <= s <= low + 0.26 for s in shares) >= 3 for low in (0, 0.25, 0.5, 0.75))


def test_what_is_cheaper_on_purpose_stays(small):
    problem, _ = small
    cheap, full = problem.space.floor, problem.space.full
    assert problem.repair(cheap) == cheap
    assert problem.repair(full) == problem.project(full)
    assert problem.repair((0, *cheap[1:])) == problem.project((0, *cheap[1:]))  # not legal


def test_gp_refuses_a_long_search_and_says_why(problem):
    make("gp", problem, num_trials=200)
    with pytest.raises(ValueError, match=r"'gp': plans for at most 200 trials, got 201: .* cube .* choose tpe"):
        make("gp", problem, num_trials=201)


SLOW_TO_TELL = ("amc",)  # it trains in between; amc_guaranteed is as fast


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW_TO_TELL))
        for name in sorted(set(strategies.STRATEGIES) - {"amc_guaranteed"})
    ],
)
def test_a_question_calls_few_functions(name, problem, work):
    """Milliseconds; but for a Gaussian process, which must stay well below an evaluation of one or two seconds."""
    strategy: Strategy = told(make(name, problem), 100)
    numbers = itertools.count(100)
    assert work(lambda: strategy.ask(next(numbers))) < (120_000 if name == "gp" else 20_000)  # 500 to 9,031; gp 29,314
