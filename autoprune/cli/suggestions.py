"""What to type next, where something is missing or misspelt."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

EXAMPLES = {  # what stands for a setting that is missing; mine.py is a file of the user's
    "model": "--model mine:network --weights mine.safetensors",
    "data": "--data mine:data",
    "method": "--method slimming",
}
FIRST = "to see one first: autoprune demo"


class Missing(ValueError):
    """Settings without which a command cannot begin.

    Args:
        message: What is missing.
        needed: What to type in addition.
        first: What else could be typed, in words.
    """

    def __init__(self, message: str, needed: str, first: str = "") -> None:
        super().__init__(message)
        self.needed, self.first = needed, first

    def told(self, words: Sequence[str]) -> str:
        """The message, and the command with what is missing.

        Args:
            words: What was typed after "autoprune".
        """
        return f"{self}; {self.first}{'; ' if self.first else ''}next: {completed('autoprune', words, self.needed)}"


def completed(program: str, words: Iterable[str], needed: str) -> str:
    """The command that was typed, with what it lacks."""
    return " ".join(filter(None, (program, shlex.join(words), needed)))


def near(word: str, known: Iterable[str]) -> str:
    """A question whether the closest of the known words was meant; empty where none is close."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {found[0]}?)" if found and found[0] != word else ""


def latest_run() -> Path | None:
    """The run under results/ that was written to last."""
    found = Path("results").glob("*/config.toml")
    return max((path.parent for path in found), key=lambda run: run.stat().st_mtime, default=None)


def welcome() -> str:
    """What `autoprune` alone says."""
    run = latest_run()
    follow = f"autoprune status {run}" if run else "autoprune demo"
    return f"""\
autoprune prunes a trained PyTorch network to a budget.

  autoprune doctor     what is installed here, and what is missing for what
  autoprune demo       train a small network and halve its multiply-adds: a minute
  autoprune search     prune a network of yours (autoprune search --help)
  autoprune --help     all commands

next: {follow}"""
