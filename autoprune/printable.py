"""Texts from outside, made harmless where they enter: no terminal obeys what a failure, a file or a class is called."""

from __future__ import annotations

import re

# What terminals obey: colours and cursors (CSI), titles and links (OSC), and two-letter commands.
_COMMANDS = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\].*?(?:\x07|\x1b\\)|[@-Z\\^_])|\x9b[0-?]*[ -/]*[@-~]", re.DOTALL)


def printable(text: str) -> str:
    """One line without terminal commands; other characters that nobody can see become Python's escapes."""
    if text.isprintable():
        return text
    line = " ".join(_COMMANDS.sub("", text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)


def decimals(value: float) -> str:
    """A loss to four decimals, or to four digits where it is so small that these would not tell two apart."""
    short, long = f"{value:.4f}", f"{value:.4g}"
    return short if abs(value) >= 0.1 or float(short) == float(long) else long
