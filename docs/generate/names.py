"""What a setting may name: criteria, strategies, methods, tasks, models; each with the first line of its docstring."""

import inspect
from pathlib import Path

from autoprune.criteria import CRITERIA
from autoprune.strategies import STRATEGIES
from autoprune.tasks import KINDS
from autoprune.training import METHODS
from generate.tables import code, plain, table

HEAD = """# What can be named

Made from the code: what stands behind each name, with its source. Anything of yours is `package.module:Name`
([your own parts](../guides/own-parts.md)).
"""


def page(root: Path) -> str:
    """The text of the page."""
    parts = [
        ("Criteria", "`--criterion`: which channels matter.", CRITERIA),
        ("Strategies", "`--strategy`: what is tried next.", STRATEGIES),
        ("Methods that train", "`--recovery` (given what stays) and `train --method` (finding what stays).", METHODS),
        ("Tasks", "Of `--data KIND:PLACE`, and in `autoprune.tasks`.", KINDS),
    ]
    return HEAD + "".join(f"\n## {title}\n\n{words}\n\n{_rows(known)}" for title, words, known in parts)


def _rows(known: dict) -> str:
    return table(["name", "what it is"], [[code(name), plain(summary(thing))] for name, thing in sorted(known.items())])


def summary(thing: object) -> str:
    """The first paragraph of a docstring."""
    return (inspect.getdoc(thing) or "").split("\n\n")[0]
