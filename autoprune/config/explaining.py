"""What `help()` and `inspect.signature` say of a verb's keywords, made of `SETTINGS`."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any, TypeVar

from autoprune.config.run import SETTINGS
from autoprune.settings import Setting

F = TypeVar("F", bound=Callable[..., Any])
KEYWORD = inspect.Parameter.KEYWORD_ONLY


class Kept:
    """Stands for what a keyword is if it is not given, where that is no value."""

    def __init__(self, words: str) -> None:
        self.words = words

    def __repr__(self) -> str:
        return f"<{self.words}>"


def explained(keywords: type, of_run: bool = False) -> Callable[[F], F]:
    """Spell the `**settings` of a function out, in its signature and in its docstring.

    Args:
        keywords: The `TypedDict` of its keywords.
        of_run: Whether what is not given stays as in the run.
    """

    def explain(function: F) -> F:
        signature = inspect.signature(function)
        settings = [SETTINGS[name] for name in keywords.__annotations__]
        listed = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        for about in settings:
            default = Kept("as in the run" if of_run else about.usual)
            if not of_run and (about.default not in (None, "") or not about.usual):
                default = about.default
            written = getattr(keywords.__annotations__[about.name], "__forward_arg__", Any)
            listed.append(inspect.Parameter(about.name, KEYWORD, default=default, annotation=written))
        shown: Any = function
        shown.__signature__ = signature.replace(parameters=listed)
        doc = inspect.getdoc(function) or ""
        head = "Settings, as on the command line" + ("; what is not given stays as in the run:" if of_run else ":")
        lines = "\n".join(_line(about, of_run) for about in settings)
        function.__doc__ = f"{doc}\n\n{head}\n{lines}\n"
        return function

    return explain


def _line(about: Setting, of_run: bool) -> str:
    unit = f" [{about.metavar}]" if about.metavar else ""
    usual = f" (default: {about.usual})" if about.usual and not of_run else ""
    return textwrap.fill(
        f"{about.name}{unit}: {about.help}{usual}",
        110,
        initial_indent="    ",
        subsequent_indent=" " * 8,
        break_on_hyphens=False,
    )
