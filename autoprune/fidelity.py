"""`Fidelity`: what is done to a candidate before it is scored, in the words of users, the ledger and the report.

raw                 nothing: the weights and the batch-norm statistics as they were cut out of the dense network
proxy               batch-norm re-estimated; proxy:4000 on that many training samples
reconstructed       layers fitted to the dense network's outputs by least squares, then as "proxy"
short               a short fine-tune, then as "proxy"
short:200           so many steps at the full rate from the weights as cut, as a longer training begins; then as "proxy"
"""

from __future__ import annotations

import math

KINDS = ("raw", "proxy", "reconstructed", "short")  # from the lowest to the highest
KNOWN = "raw, proxy, reconstructed, short; proxy:SAMPLES, reconstructed:SAMPLES, short:STEPS"


class Fidelity(str):
    """One of the words above. It is stored as it is written; `<` means that its losses are trusted less.

    What a ledger of others may hold and nobody knows is lower than all.

    Attributes:
        kind: The word without a number.
        amount: Samples or steps; 0: as many as the settings say.

    Example:
        assert Fidelity("proxy") < Fidelity("short:100") < Fidelity("short")
    """

    __slots__ = ("amount", "kind")
    kind: str
    amount: int

    def __new__(cls, text: str) -> Fidelity:
        """Read it, once."""
        if isinstance(text, Fidelity):
            return text
        found = super().__new__(cls, text)
        found.kind, _, number = text.partition(":")
        found.amount = int(number) if number.isascii() and number.isdecimal() else 0
        return found

    @classmethod
    def parse(cls, text: str) -> Fidelity:
        """One that a user has written.

        Raises:
            ValueError: If there is no such fidelity.
        """
        found = cls(text)
        is_numbered = ":" in text
        if found.kind not in KINDS or (is_numbered and (found.kind == "raw" or not found.amount)):
            raise ValueError(f"unknown fidelity '{text}'; known: {KNOWN}")
        return found

    @property
    def trains(self) -> bool:
        """Whether the candidate is trained before it is scored."""
        return self.kind == "short"

    @property
    def _order(self) -> tuple[int, float]:
        return (KINDS.index(self.kind) if self.kind in KINDS else -1, self.amount or math.inf)

    def __lt__(self, other: str) -> bool:
        return self._order < Fidelity(other)._order

    def __gt__(self, other: str) -> bool:
        return self._order > Fidelity(other)._order

    def __le__(self, other: str) -> bool:
        return not self > other

    def __ge__(self, other: str) -> bool:
        return not self < other

    def __reduce__(self) -> tuple[type[Fidelity], tuple[str]]:
        return Fidelity, (str(self),)


PROXY, FINAL = Fidelity("proxy"), Fidelity("short")  # of a search by default; of its finalists
