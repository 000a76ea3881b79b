"""The command line by verb, from the parser itself."""

import argparse
from pathlib import Path

from autoprune.cli import parser
from autoprune.config import SETTINGS
from generate.tables import code, plain, table

HEAD = """# Command line

Made from the parser. `autoprune <command> --help` says the same in a terminal. Settings are the names of
[Every setting](settings.md), where each has its unit, range and default; what a command takes besides stands here.

Exit codes: 0 done · 1 a search or a training had to stop (it can be resumed) · 2 bad input, or the output could not be
written · 130 Ctrl-C · 143 SIGTERM · 129 SIGHUP.

"""
ANOTHER = {("export", "epochs")}  # flags of the name of a setting that mean something else


def verbs() -> dict[str, argparse.ArgumentParser]:
    """Name of a command -> its parser."""
    return dict(next(a.choices for a in parser()._actions if isinstance(a, argparse._SubParsersAction)))


def page(root: Path) -> str:
    """The text of the page."""
    return HEAD + "\n".join(_verb(name, sub) for name, sub in verbs().items())


def _verb(name: str, sub: argparse.ArgumentParser) -> str:
    own, settings = [], []
    for action in sub._actions:
        about, hidden = SETTINGS.get(action.dest), action.help == argparse.SUPPRESS
        if about and about.is_taken_by(name) and (name, about.name) not in ANOTHER:
            settings += [about.name] * about.is_shown_by(name)
        elif not hidden and not isinstance(action, argparse._HelpAction):
            own.append([code(_shown(action)), plain((action.help or "").replace("%%", "%"))])
    text = f"## autoprune {name} {{ #{name} }}\n\n{plain(sub.description or '')}\n"
    if own:
        text += "\n" + table(["argument", "what it is"], own)
    if settings:
        links = ", ".join(f"[`{setting}`](settings.md#{setting})" for setting in settings)
        text += f"\nSettings: {links}.\n"
    if sub.epilog:
        text += f"\n```text\n{sub.epilog}\n```\n"
    return text


def _shown(action: argparse.Action) -> str:
    flag = ", ".join(action.option_strings) or action.metavar or action.dest
    unit = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    return f"{flag} {unit}" if action.option_strings and unit and action.nargs != 0 else str(flag)
