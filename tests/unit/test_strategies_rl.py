"""The two policies that learn by reinforcement, and what AMC walks through."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import beta, truncnorm

from autoprune.problem import Problem, Trial, TrialState
from autoprune.strategies import AMC, AMCGuaranteed, Reinforce
from autoprune.strategies.amc import truncated_normal
from autoprune.strategies.ddpg import DDPG
from autoprune.strategies.policy_gradient import natural_gradient, utilities
from autoprune.strategies.walk import STATE, Walk, normalised
from autoprune.strategies.waves import waves
from objectives import parse
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace, TensorShape


def chain(sizes, pixels, kernels, *budgets, out=2):
    """3 channels -> groups of these sizes -> `out`, by convolutions with these output pixels and kernel areas."""
    axes = [Axis(3, 3), *(Axis(c, 0, ((g, 1),)) for g, c in enumerate(sizes)), Axis(out, out)]
    layers = tuple(Layer(f"l{i}", "conv", kernels[i], pixels[i], axes[i], axes[i + 1]) for i in range(len(axes) - 1))
    tensors = tuple(TensorShape(f"{x.name}.weight", (x.makes, x.reads)) for x in layers)
    groups = tuple(ChannelGroup(f"l{g}", c, ()) for g, c in enumerate(sizes))
    scores = tuple(np.arange(1.0, c + 1) for c in sizes)
    return Problem(SearchSpace(groups, (), layers, tensors), tuple(map(parse, budgets)), scores, fraction="top1")


def tiny(*budgets):
    """MACs 12 a + a b + 2 b (dense 72), parameters 3 a + a b + 2 b (dense 36), for widths a, b of 1 to 4."""
    return chain((4, 4), (4, 1, 1), (1, 1, 1), *budgets)


@pytest.mark.parametrize(
    ("budgets", "before", "width"),
    [
        # 36 MACs: with b = 1, 12 a + a + 2 <= 36, so a <= 2.6
        (("macs<=50%",), (), 2),
        # 7.2 parameters: 3 a + a + 2 <= 7.2, so a <= 1.3: the tighter one of two budgets counts
        (("macs<=50%", "params<=20%"), (), 1),
        # a = 2: 24 + 2 b + 2 b <= 36, so b <= 3
        (("macs<=50%",), (2,), 3),
        # a = 1: 12 + b + 2 b <= 36, so b may be 8: there are 4
        (("macs<=50%",), (1,), 4),
        # no budget, no wall
        ((), (), 4),
    ],
)
def test_the_wall_is_what_fits_with_all_later_groups_at_their_floor(budgets, before, width):
    assert Walk(tiny(*budgets)).step(before, 1.0) == width


@pytest.mark.parametrize(("ratio", "width"), [(0.0, 1), (0.25, 1), (0.26, 2), (0.5, 2), (0.51, 3), (1.0, 4)])
def test_a_ratio_is_rounded_up(ratio, width):
    assert Walk(tiny()).step((), ratio) == width


def test_a_walk_into_the_wall_ends_inside_the_budget():
    problem = tiny("macs<=50%")
    widths = []
    for _ in problem.space.groups:
        widths.append(Walk(problem).step(widths, 1.0))
    assert widths == [2, 3]
    assert problem.feasibility.violation(widths) == 0


def test_normalised():
    # 2, 4, 10 -> 0, 2/8, 8/8; where all are equal, 0
    assert normalised(np.array([[2.0, 5], [4, 5], [10, 5]])).tolist() == [[0, 0], [0.25, 0], [1, 0]]


def test_states():
    """3 groups of 4, 6 and 8 units; 64, 16, 16 and 1 output pixels; kernel areas 9, 9, 1, 1; 10 classes.

    MACs 1728 a + 144 a b + 16 b c + 10 c; dense 6912 + 3456 + 768 + 80 = 11216, smallest 1728 + 144 + 16 + 10 = 1898.
    The floor 1 of one group alone saves 3 (1728 + 144 * 6) = 7776, 5 (144 * 4 + 16 * 8) = 3520, 7 (16 * 6 + 10) = 742.
    """
    walk = Walk(chain((4, 6, 8), (64, 16, 16, 1), (9, 9, 1, 1), "macs<=50%", out=10))
    fixed = [
        # index n    c      h  w  stride k  cost
        [0.0, 0.0, 0.0, 1, 1, 1 / 3, 1, 1.0],  # reads 3, side 8, then 4: stride 2
        [0.5, 0.5, 1 / 3, 0, 1, 0.0, 1, (3520 - 742) / (7776 - 742)],  # reads 4, side 4, then 4: stride 1
        [1.0, 1.0, 1.0, 0, 0, 1.0, 0, 0.0],  # reads 6, side 4, then 1: stride 4
    ]
    assert walk.fixed == pytest.approx(np.array(fixed))
    # On the way to (2, 3, 8): before anything, nothing is reduced and 11216 - 1898 may be.
    # With a = 2: later ones full 3456 + 1728 + 768 + 80 = 6032, at their floor 3456 + 288 + 16 + 10 = 3770.
    # With a = 2, b = 3: c full 3456 + 864 + 384 + 80 = 4784, at its floor 3456 + 864 + 48 + 10 = 4378.
    moving = [[0, 9318 / 11216, 1], [5184 / 11216, 2262 / 11216, 0.5], [6432 / 11216, 406 / 11216, 0.5]]
    states = walk.states((2, 3, 8))
    assert states.shape == (3, STATE)
    assert states == pytest.approx(np.hstack([fixed, moving]))
    assert np.array_equal(walk.states((2, 3), 2)[0], states[2])


def test_the_noise_falls_as_published_and_scaled_to_the_search():
    published = AMC(tiny("macs<=50%"), num_trials=400)
    assert [published.noise(n) for n in (0, 100, 101, 102)] == pytest.approx([0.5, 0.5, 0.475, 0.45125])
    # a tenth of the trials: one counts for ten episodes; 0.5 * 0.95 ** 10 = 0.29937
    short = AMC(tiny("macs<=50%"), num_trials=40)
    assert [short.noise(n) for n in (0, 10, 11)] == pytest.approx([0.5, 0.5, 0.29937], rel=1e-4)
    assert 0 < short.noise(10**6)


@pytest.mark.parametrize(("mean", "sigma"), [(0.5, 0.5), (0.02, 0.3), (0.99, 0.05), (0.3, 100.0)])
def test_truncated_normal(mean, sigma):
    reference = truncnorm(-mean / sigma, (1 - mean) / sigma, loc=mean, scale=sigma)
    for quantile in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert truncated_normal(mean, sigma, quantile) == pytest.approx(reference.ppf(quantile), abs=1e-6)
    assert truncated_normal(0.7, 1e-6, 0.3) == pytest.approx(0.7, abs=1e-5)


def trial(widths, top1, loss=0.5):
    return Trial(0, widths, TrialState.COMPLETE, {"loss": loss, "top1": top1})


def test_rewards():
    resource = AMC(tiny("macs<=50%"))
    assert resource.reward(trial((1, 1), 0.9)) == 0.9
    assert resource.reward(Trial(0, (1, 1), TrialState.COMPLETE, {"loss": 0.5})) == pytest.approx(math.exp(-0.5))
    assert math.isnan(resource.reward(Trial(0, (1, 1), TrialState.FAIL)))
    # With a metric of the user's own it is the loss that counts, of whatever sign: 1 / (1 + e^0.5), 1 / (1 + e^-2).
    own = AMC(replace(tiny("macs<=50%"), metric="package.module:badness"))
    assert own.reward(trial((1, 1), 0.9)) == pytest.approx(1 / (1 + math.exp(0.5)))
    assert own.reward(trial((1, 1), 0.1, loss=-2.0)) == pytest.approx(1 / (1 + math.exp(-2)))
    assert AMC(replace(tiny("macs<=50%"), metric="top1")).reward(trial((1, 1), 0.9, loss=0.2)) == 0.9
    masks = AMC(replace(tiny("macs<=50%"), metric="miou", fraction="miou"))  # of segmentation its own fraction
    seen = Trial(0, (1, 1), TrialState.COMPLETE, {"loss": 0.3, "miou": 0.7, "top1": 0.1})
    assert masks.reward(seen) == 0.7


def test_the_guaranteed_reward():
    # MACs of (1, 1): 12 + 1 + 2 = 15, of (2, 1): 24 + 2 + 2 = 28, of the dense network 72, which count as 1e9.
    amc = AMCGuaranteed(tiny("macs<=50%"))
    assert amc.reward(trial((1, 1), 0.9)) == pytest.approx(-0.1 * math.log(15 / 72 * 1e9))
    assert amc.reward(trial((4, 4), 0.9)) == pytest.approx(-0.1 * math.log(1e9))
    assert amc.reward(trial((1, 1), 0.9)) > amc.reward(trial((2, 1), 0.9))  # equal error: the cheaper
    assert amc.reward(trial((2, 1), 0.95)) > amc.reward(trial((1, 1), 0.9))  # half the error: twice the cost is paid
    assert amc.reward(trial((1, 1), 1.0)) == 0 > amc.reward(trial((1, 1), 0.99))
    assert math.isnan(amc.reward(Trial(0, (1, 1), TrialState.FAIL)))


def test_the_guaranteed_reward_is_the_same_in_any_unit_of_the_cost():
    """A cost of thousandths (milliseconds, say), of which no network has 1: its logarithm is below 0."""
    amcs = []
    for unit in (1.0, 1e-6):
        problem = tiny("macs<=50%")
        macs = problem.feasibility.costs["macs"]
        problem.feasibility.costs["macs"] = lambda table, macs=macs, unit=unit: unit * macs(table)
        amcs.append(AMCGuaranteed(problem))
    plain, tiny_unit = ([amc.reward(trial(w, 0.7)) for w in ((1, 1), (2, 3), (4, 4))] for amc in amcs)
    assert tiny_unit == pytest.approx(plain)
    assert plain == sorted(plain, reverse=True)  # cheaper is better
    assert amcs[1].reward(trial((1, 1), 0.8)) > amcs[1].reward(trial((1, 1), 0.7))  # and so are fewer errors


@pytest.mark.slow
def test_the_guaranteed_search_stays_below_the_budget_and_gets_smaller(monkeypatch):
    """4 units of the first group are enough for a top-1 of 90 %: costs count only in the reward, and shrink by it."""
    monkeypatch.setattr(DDPG, "hidden", 64)
    monkeypatch.setattr(DDPG, "imitations", 50)
    problem = chain((8, 16, 16), (16, 4, 4, 1), (9, 9, 9, 1), "macs<=80%")

    class Blind(AMCGuaranteed):
        """The same without the cost in its reward."""

        reward = AMC.reward

    def shares(cls, seed, count=40):
        """Of the budget that each candidate takes."""
        strategy, found = cls(problem, seed=seed, num_trials=40), []
        for number in range(count):
            widths = strategy.ask(number)
            top1 = 0.9 if widths[0] >= 4 else 0.2
            strategy.tell(replace(trial(widths, top1, loss=1 - top1), number=number))
            found.append(problem.feasibility.price(widths)["macs"] / problem.feasibility.limits["macs"])
        return found

    assert min(shares(AMC, 0, 10)) > 0.9  # filled up
    guaranteed, blind = (np.array([shares(cls, seed) for seed in range(3)]) for cls in (AMCGuaranteed, Blind))
    assert guaranteed.max() <= 1
    assert np.median(guaranteed) < 0.7
    assert guaranteed[:, 20:].mean() < 0.8 * blind[:, 20:].mean()


def test_the_guaranteed_search_begins_with_the_highest_reward_and_not_the_lowest_loss():
    problem = chain((8, 16, 16), (16, 4, 4, 1), (9, 9, 9, 1), "macs<=100%")
    dense, small = trial(problem.space.full, 0.9, loss=0.30), trial((4, 8, 8), 0.9, loss=0.31)
    told = [replace(t, number=n) for n, t in enumerate((dense, small))]
    assert AMCGuaranteed(problem)._best(told) == (4, 8, 8)
    assert AMC(problem)._best(told) == problem.space.full
    assert AMCGuaranteed(problem)._best([Trial(0, (4, 8, 8), TrialState.FAIL)]) == problem.space.full  # uniform


@pytest.fixture
def small_networks(monkeypatch):
    monkeypatch.setattr(DDPG, "hidden", 16)
    monkeypatch.setattr(DDPG, "imitations", 10)


def some_trials(problem, count):
    rng = np.random.default_rng(0)
    trials = []
    for n in range(count):
        widths = problem.project(problem.space.sample(rng))
        state = TrialState.FAIL if n % 7 == 3 else TrialState.COMPLETE
        metrics = {} if n % 7 == 3 else {"loss": float(rng.random())}
        trials.append(Trial(n, widths, state, metrics, probe=n % 11 == 5))
    return trials


@pytest.mark.parametrize("snapshots", [1, 16])
def test_amc_is_the_same_in_whatever_order_it_is_told(snapshots, small_networks, monkeypatch):
    """Rebuilding from a snapshot or from the start, corrections and late trials of the warm-up (0 to 3) included."""
    monkeypatch.setattr(AMC, "snapshots", snapshots)
    problem = chain((8, 16, 16), (16, 4, 4, 1), (9, 9, 9, 1), "macs<=50%")
    trials = some_trials(problem, 16)
    live, resumed = (AMC(problem, seed=3, num_trials=16) for _ in range(2))
    live.tell(Trial(9, problem.space.floor, TrialState.COMPLETE, {"loss": 9.0}))  # corrected below
    for count, at in enumerate(np.random.default_rng(1).permutation(16)):
        live.tell(trials[at])
        if count % 5 == 0:
            live.ask(30)  # learns, so that the next ones come late
    for trial in trials:
        resumed.tell(trial)
    assert [live.ask(n) for n in range(16, 20)] == [resumed.ask(n) for n in range(16, 20)]
    states = np.random.default_rng(0).random((50, STATE))
    assert np.array_equal(live._agent(16).act(states), resumed._agent(16).act(states))


def test_amc_learns_again_only_from_the_late_trial_on(small_networks, monkeypatch):
    problem = chain((8, 16, 16), (16, 4, 4, 1), (9, 9, 9, 1), "macs<=50%")
    trials, episodes = some_trials(problem, 24), []
    learn = AMC._learn
    monkeypatch.setattr(AMC, "_learn", lambda self, agent, t: (episodes.append(t[-1].number), learn(self, agent, t)))
    strategy = AMC(problem, num_trials=24)
    for trial in trials:
        if trial.number != 20:
            strategy.tell(trial)
    strategy._agent(24)
    # A quarter of the search is the warm-up, and trial 16 a probe.
    assert episodes == [n for n in range(6, 24) if n not in (16, 20)]
    episodes.clear()
    strategy.tell(trials[20])
    strategy.ask(24)
    strategy.ask(24)
    assert episodes == [20, 21, 22, 23]


def test_waves_by_hand():
    def ends(workers, last=True):
        return waves([Trial(n, (1,), worker=w) for n, w in enumerate(workers)], 1, last)

    assert ends("xxxx") == [2, 3, 4]  # one worker: each episode by itself
    assert ends("xabcabca") == [4, 7, 8]
    assert ends("xabcabca", last=False) == [4, 7]  # somebody may still join the last one
    assert ends("x") == ends("") == []


def test_amc_learns_once_a_wave_and_from_what_has_settled(small_networks, monkeypatch):
    problem, learnt = chain((8, 16, 16), (16, 4, 4, 1), (9, 9, 9, 1), "macs<=50%"), []
    learn = AMC._learn
    monkeypatch.setattr(AMC, "_learn", lambda self, agent, t: (learnt.append(t[-1].number), learn(self, agent, t)))
    strategy = AMC(problem, num_trials=40)  # ten of warm-up
    for trial in some_trials(problem, 30):
        if trial.probe:
            strategy.asked(replace(trial, state=TrialState.RUNNING))
        else:
            strategy.tell(replace(trial, worker=f"w{trial.number % 4}"))
    assert len(strategy.running) == 3
    strategy.ask(30)  # three run: what is below 24 has settled
    assert all(number < 24 for number in learnt)
    assert 3 <= len(learnt) <= 5
    strategy.ask(10 + 2)
    assert len(learnt) <= 5


def test_amc_begins_with_the_best_it_was_told():
    problem = chain((8, 16, 16), (16, 4, 4, 1), (9, 9, 9, 1), "macs<=50%")
    trials = [t for t in some_trials(problem, 6) if not t.probe]
    strategy = AMC(problem, num_trials=24)
    for trial in trials:
        strategy.tell(trial)
    best = min(trials, key=lambda t: t.loss).widths
    ratios = strategy._agent(6).act(strategy._walk.states(best))
    assert ratios == pytest.approx(np.array(best) / problem.space.full, abs=0.02)


def test_ddpg_finds_the_better_action_and_leaves_the_global_generator_alone(small_networks, monkeypatch):
    """One step, reward -10 (action - 0.3)^2; told actions are spread evenly, so this is learnt off the policy."""
    monkeypatch.setattr(DDPG, "actor_rate", 2e-3)
    monkeypatch.setattr(DDPG, "critic_rate", 1e-2)
    before = torch.random.get_rng_state()
    agent, rng = DDPG(2, seed=0), np.random.default_rng(0)
    states, actions = rng.random((200, 2)), rng.random(200)
    rewards = -10 * (actions - 0.3) ** 2
    agent.learn(states, actions, rewards, np.ones(200), rng.integers(200, size=(600, 64)))
    assert agent.act(states) == pytest.approx(np.full(200, 0.3), abs=0.1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_utilities():
    # ln(4 / 2 + 1) - ln(1, 2, 3, 4) = 1.0986, 0.4055, 0, (below 0); over their sum 1.5041, less 1/4
    assert utilities(np.array([3.0, 1, 9, 2])) == pytest.approx([-0.25, 0.4804, -0.25, 0.0196], abs=1e-4)
    assert utilities(np.arange(7.0)).sum() == pytest.approx(0)


def test_natural_gradient():
    """Scores by finite differences of the log-density; their information as the variance of the score."""
    mean, concentration = np.array([0.3, 0.8]), np.array([9.0, 4.0])

    def log_density(x, m, k):
        return beta(m * k, (1 - m) * k).logpdf(x)

    def score(x):  # [2, N, D]
        h = 1e-5
        by_mean = log_density(x, mean + h, concentration) - log_density(x, mean - h, concentration)
        by_concentration = log_density(x, mean, concentration + h) - log_density(x, mean, concentration - h)
        return np.array([by_mean, by_concentration]) / (2 * h)

    draws = beta(mean * concentration, (1 - mean) * concentration).rvs((20_000, 2), random_state=0)
    points, worth = draws[:3], np.array([0.5, 0.1, -0.6])
    expected = np.einsum("n,knd->kd", worth, score(points)) / score(draws).var(axis=1)
    assert np.array(natural_gradient(points, worth, mean, concentration)) == pytest.approx(expected, rel=0.05)


def test_reinforce_counts_ranks_only():
    problem = chain((8, 16, 16), (16, 4, 4, 1), (9, 9, 9, 1), "macs<=50%")
    plain, bent = Reinforce(problem), Reinforce(problem)
    for t in some_trials(problem, 24):
        plain.tell(t)
        bent.tell(Trial(t.number, t.widths, t.state, {k: math.exp(9 * v) for k, v in t.metrics.items()}, probe=t.probe))
    assert np.array_equal(plain.policy(), bent.policy())


def test_reinforce_narrows_around_what_is_better():
    """More of the last group is better: its mean rises, and nothing pulls it back."""
    problem = chain((8, 16, 16), (16, 4, 4, 1), (9, 9, 9, 1), "macs<=50%")
    strategy = Reinforce(problem, seed=1)
    start = strategy.policy()[0][2]
    for number in range(36):
        widths = strategy.ask(number)
        strategy.tell(Trial(number, widths, TrialState.COMPLETE, {"loss": 1 - widths[2] / 16}))
    assert strategy.policy()[0][2] > max(0.9, start)
