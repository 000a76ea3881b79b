"""Reinforcement learning that walks from group to group."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import takewhile

import numpy as np
from scipy.special import expit, ndtr, ndtri

from autoprune.allocation import uniform
from autoprune.problem import Problem, Trial
from autoprune.strategies.ddpg import DDPG
from autoprune.strategies.strategy import Strategy
from autoprune.strategies.walk import STATE, Walk
from autoprune.strategies.waves import waves
from search_spaces import Widths
from search_spaces.encodings import Floats


class AMC(Strategy):
    """AMC, AutoML for model compression (He et al. 2018, https://arxiv.org/abs/1802.03494).

    An agent (DDPG) decides the groups one after the other; an episode is a trial, and its reward is given to each of
    its decisions. As published: the reward of the resource-constrained search (the accuracy; `amc_guaranteed` has the
    other one), networks, replay of the last 100 episodes, baseline, one gradient step per decision after each episode,
    noise of 0.5 (a truncated normal distribution), for 100 episodes to fill the replay and 300 in which it falls by
    0.95 each; here both are scaled to `num_trials`.

    Differs from the publication: the wall is exact (see `Walk`), what is left of the budgets after the walk is filled
    up, and an episode is remembered by the ratios that came out, so that candidates of other sources are episodes too.
    The first episodes are drawn around the best one told, not uniformly, and when learning begins the actor imitates
    it: from random weights the actor is no better than random search in 60 evaluations (its best loss over that of
    random search, mean of 5 problems: 1.02; so: 0.86). See `accuracy` for what is learnt from with which `--metric`.

    With several workers the episodes that run side by side (successive trials of different workers) make a wave; the
    agent is frozen while it runs and then takes as many steps as after one episode. It is a function of the seed and
    the trials in the order of their numbers, without the latest ones, among which some still run. It is kept in memory
    after each of the latest waves; a trial that comes late all the same has it rebuilt from the state before it.

    Args:
        problem: Space, budgets and scores.
        seed: Of all draws.
        num_trials: How many evaluations the search plans, for the schedule.
    """

    name = "amc"
    warmup, trained = 100, 300  # episodes
    sigma, decay = 0.5, 0.95  # of the noise
    memory = 100  # episodes in the replay
    snapshots = 16

    def __init__(self, problem: Problem, *, seed: int = 0, num_trials: int = 100) -> None:
        super().__init__(problem, seed=seed, num_trials=num_trials)
        self._walk = Walk(problem)
        self._stretch = num_trials / (self.warmup + self.trained)  # trials per published episode
        self._learnt: list[Trial] = []  # what the last snapshot has seen
        self._snapshots: list[tuple[int, DDPG]] = []  # (trials seen, agent), never changed
        self._episodes: dict[Widths, Floats] = {}  # states of an episode

    def ask(self, number: int) -> Widths:
        """Where the walk ends."""
        rng, sigma = self.rng(number), self.noise(number)
        settled = self._settled(number)
        agent = None if self._warming(settled) else self._agent(settled)
        best = self._ratios(self._best(self.scored()))
        widths: list[int] = []
        for group in range(len(best)):
            mean = float(agent.act(self._walk.states(widths, group))[0] if agent else best[group])
            widths.append(self._walk.step(widths, truncated_normal(mean, sigma, rng.random())))
        return self.fresh(self.problem.space.settled(widths), rng, fill=self.fills)

    def noise(self, number: int) -> float:
        """The standard deviation of the noise of an episode."""
        episode = number / self._stretch - self.warmup  # as published
        return max(1e-6, float(self.sigma * self.decay ** max(0.0, episode)))

    def reward(self, trial: Trial) -> float:
        """Higher is better; not a number for a failed trial."""
        return self.accuracy(trial) if math.isfinite(trial.loss) else math.nan

    def accuracy(self, trial: Trial) -> float:
        """A number in [0, 1] that rises as a candidate gets better.

        Where the loss or the problem's `fraction` is minimised it is that fraction: of classification the accuracy, as
        published (where an evaluator gives none, exp(-loss): of a cross-entropy the geometric mean of the probability
        of the true class). With any other metric it is the logistic function of minus the trial's loss,
        1 / (1 + exp(loss)), for losses of either sign; the reward tells candidates apart best where losses lie within a
        few units of 0. An abandoned trial's loss is an estimate for all samples, but its fraction is that of those it
        has seen.
        """
        if self.problem.metric in ("loss", self.problem.fraction):
            return float(trial.metrics.get(self.problem.fraction, math.exp(-max(trial.loss, 0.0))))
        return float(expit(-trial.loss))

    def _warming(self, number: int) -> bool:
        return number < self.warmup * self._stretch

    def _settled(self, number: int) -> int:
        """Trials below this number have finished, in all likelihood: those that run are among the latest."""
        return number - 2 * len(self.running)

    def _agent(self, settled: int) -> DDPG:
        """The agent that has learnt from all trials told below this number."""
        trials = [t for t in self.trials if not t.probe and t.number < settled]
        opening = sum(self._warming(t.number) for t in trials)
        ends = [opening, *waves(trials, opening, last=not self.running)]
        same = len(list(takewhile(lambda pair: pair[0] is pair[1], zip(self._learnt, trials, strict=False))))
        usable = [s for s in self._snapshots if s[0] in ends and s[0] <= same]
        self._snapshots = usable or [(opening, self._start(trials[:opening]))]
        for count in ends[ends.index(self._snapshots[-1][0]) + 1 :]:
            agent = copy.deepcopy(self._snapshots[-1][1])
            self._learn(agent, trials[max(0, count - self.memory) : count])
            self._snapshots.append((count, agent))
            del self._snapshots[1 : -self.snapshots]
        self._learnt = trials
        return self._snapshots[-1][1]

    def _start(self, opening: Sequence[Trial]) -> DDPG:
        """An agent that imitates the best of the opening, without one the uniform allocation."""
        best = self._best(opening)
        agent = DDPG(STATE, self.seed)
        agent.imitate(self._states(best), self._ratios(best))
        return agent

    def _best(self, trials: Sequence[Trial]) -> Widths:
        best = min(trials, key=lambda t: t.loss, default=None)
        return best.widths if best and math.isfinite(best.loss) else uniform(self.problem)

    def _learn(self, agent: DDPG, episodes: Sequence[Trial]) -> None:
        """As many gradient steps as groups, on decisions drawn from the episodes; the last of these is the new one."""
        rewards = np.array([self.reward(t) for t in episodes])
        if np.isnan(rewards).all():
            return
        rewards[np.isnan(rewards)] = np.nanmin(rewards)  # a failed one is as bad as the worst
        groups = len(self.problem.space.groups)
        rng = np.random.default_rng([self.seed, episodes[-1].number, 1])
        agent.learn(
            np.concatenate([self._states(t.widths) for t in episodes]),
            np.concatenate([self._ratios(t.widths) for t in episodes]),
            np.repeat(rewards, groups),
            np.tile(np.arange(groups) == groups - 1, len(episodes)),
            rng.integers(groups * len(episodes), size=(groups, agent.batch)),
        )

    def _states(self, widths: Widths) -> Floats:
        if widths not in self._episodes:
            self._episodes[widths] = self._walk.states(widths)
        return self._episodes[widths]

    def _ratios(self, widths: Widths) -> Floats:
        return self._walk.ratios(widths)


def truncated_normal(mean: float, sigma: float, quantile: float) -> float:
    """The quantile in [0, 1] of the normal distribution cut off below 0 and above 1 (AMC's noise)."""
    low, high = ndtr(-mean / sigma), ndtr((1 - mean) / sigma)
    return float(np.clip(mean + sigma * ndtri(low + quantile * (high - low)), 0, 1))
