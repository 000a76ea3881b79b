"""Deep deterministic policy gradient: an actor, a critic, and slow copies of both.

Letters: `N` stored transitions, `S` numbers of a state, `B` transitions of a batch.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.encodings import Floats


class DDPG:
    """DDPG (Lillicrap et al. 2016, https://arxiv.org/abs/1509.02971) for actions in [0, 1], with AMC's settings.

    A function of the seed and of what it learnt in which order; `copy.deepcopy` makes a snapshot.

    Args:
        size: Numbers `S` of a state.
        seed: Of the first weights.
    """

    hidden = 300
    actor_rate, critic_rate = 1e-4, 1e-3  # of Adam
    tau = 0.01  # how far the slow copies follow with each step
    batch = 64
    discount = 1.0
    imitations = 200  # gradient steps of an imitation
    follow = 0.5  # how far the baseline follows the mean reward of each batch

    def __init__(self, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.actor, self.critic = self._network(size, generator), self._network(size + 1, generator)
        self._slow_actor, self._slow_critic = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self._adams = [
            torch.optim.Adam(self.actor.parameters(), self.actor_rate, fused=True),
            torch.optim.Adam(self.critic.parameters(), self.critic_rate, fused=True),
        ]
        self.baseline: float | None = None

    def act(self, states: Floats) -> Floats:
        """The actor's actions [B] in the states [B, S]."""
        with torch.no_grad():
            actions: Floats = _act(self.actor, torch.as_tensor(states, dtype=torch.float32)).double().numpy()
        return actions

    def imitate(self, states: Floats, actions: Floats) -> None:
        """Fit the actor to the actions [N] in the states [N, S]."""
        s, a = (torch.as_tensor(x, dtype=torch.float32) for x in (states, actions))
        adam = torch.optim.Adam(self.actor.parameters(), self.critic_rate, fused=True)
        for _ in range(self.imitations):
            self._descend(F.mse_loss(_act(self.actor, s), a), self.actor, adam)
        self._slow_actor.load_state_dict(self.actor.state_dict())

    def learn(
        self,
        states: NDArray[Any],
        actions: NDArray[Any],
        rewards: NDArray[Any],
        ends: NDArray[Any],
        batches: Iterable[NDArray[np.int64]],
    ) -> None:
        """One gradient step of critic and actor per batch.

        Args:
            states: [N, S]; the state that follows stands one row below.
            actions: [N].
            rewards: [N].
            ends: [N] whether the episode ends.
            batches: Numbers of transitions, [B] each.
        """
        s, a, r, end = (torch.as_tensor(x, dtype=torch.float32) for x in (states, actions, rewards, ends))
        after = torch.cat([s[1:], s[-1:]])
        for batch in batches:
            i = torch.as_tensor(batch)
            mean = float(r[i].mean())
            self.baseline = mean if self.baseline is None else self.baseline + self.follow * (mean - self.baseline)
            self._step(s[i], a[i], r[i] - self.baseline, after[i], 1 - end[i])

    def _step(self, states: Tensor, actions: Tensor, gains: Tensor, after: Tensor, goes_on: Tensor) -> None:
        with torch.no_grad():
            later = _value(self._slow_critic, after, _act(self._slow_actor, after))
        target = gains + self.discount * goes_on * later
        self._descend(F.mse_loss(_value(self.critic, states, actions), target), self.critic, self._adams[1])
        value = _value(self.critic, states, _act(self.actor, states)).mean()
        self._descend(-value, self.actor, self._adams[0])
        fast = itertools.chain(self.actor.parameters(), self.critic.parameters())
        slow = itertools.chain(self._slow_actor.parameters(), self._slow_critic.parameters())
        with torch.no_grad():
            for copied, weights in zip(slow, fast, strict=True):
                copied.lerp_(weights, self.tau)

    def _descend(self, loss: Tensor, network: nn.Module, adam: torch.optim.Adam) -> None:
        parameters = list(network.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        adam.step()

    def _network(self, inputs: int, generator: torch.Generator) -> nn.Sequential:
        """Two hidden layers; PyTorch's first weights, but not from its global generator."""
        sizes = [inputs, self.hidden, self.hidden, 1]
        layers: list[nn.Module] = []
        for ins, outs in itertools.pairwise(sizes):
            linear = nn.utils.skip_init(nn.Linear, ins, outs)
            for parameter in linear.parameters():
                nn.init.uniform_(parameter, -(ins**-0.5), ins**-0.5, generator=generator)
            layers += [linear, nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def _act(actor: nn.Module, states: Tensor) -> Tensor:
    """[B, S] -> [B] in [0, 1]."""
    actions: Tensor = actor(states).squeeze(1).sigmoid()
    return actions


def _value(critic: nn.Module, states: Tensor, actions: Tensor) -> Tensor:
    """[B, S], [B] -> [B]."""
    values: Tensor = critic(torch.cat([states, actions[:, None]], dim=1)).squeeze(1)
    return values
