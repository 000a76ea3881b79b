"""A strategy from outside: what it raises or answers wrongly is told in its name."""

from __future__ import annotations

from autoprune.problem import Proposal, Trial
from autoprune.strategies.strategy import Strategy
from objectives.plugins import PluginError, running
from search_spaces import Widths


class Foreign(Strategy):
    """Asks and tells the strategy of a plug-in.

    Args:
        title: What the user called it, "package.module:Name".
        inner: The strategy.
    """

    def __init__(self, title: str, inner: Strategy) -> None:
        self._who, self._inner = f"strategy '{title}'", inner
        with running(self._who, "while it was made (does its __init__ call super().__init__?)"):
            super().__init__(inner.problem, seed=inner.seed, num_trials=inner.num_trials)
            self.name = getattr(inner, "name", title)  # type: ignore[misc]  # of this very one
            self.opens, self.fills = bool(inner.opens), bool(inner.fills)  # type: ignore[misc]

    def ask(self, number: int) -> Widths:
        """What it answers, if these are widths."""
        with running(self._who, f"when asked for trial {number}"):
            return self._checked(self._inner.ask(number), number)

    def propose(self, number: int) -> Proposal | None:
        """Likewise."""
        self._inner.begin = self.begin
        with running(self._who, f"when asked for trial {number}"):
            proposal = self._inner.propose(number)
        if proposal is not None and not isinstance(proposal, Proposal):
            raise PluginError(f"{self._who}: must propose a Proposal or None, got {type(proposal).__name__}")
        if proposal is not None:
            self._checked(proposal.widths, number)
        return proposal

    def asked(self, trial: Trial) -> None:
        """Passed on."""
        with running(self._who, f"when told that trial {trial.number} runs"):
            self._inner.asked(trial)

    def tell(self, trial: Trial) -> None:
        """Passed on."""
        with running(self._who, f"when told of trial {trial.number}"):
            self._inner.tell(trial)

    def _checked(self, widths: Widths, number: int) -> Widths:
        """One finite number for each group."""
        wanted = len(self.problem.space.groups)
        try:
            good = len(widths) == wanted and all(abs(float(width)) < 1e9 for width in widths)
        except (TypeError, ValueError):
            good = False
        if not good:
            found = " ".join(repr(widths).split())[:80]
            raise PluginError(f"{self._who}: must answer trial {number} with {wanted} finite widths, got {found}")
        return widths
