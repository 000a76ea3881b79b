"""`autoprune completion`: a script that lets a shell complete commands, flags and files, made by shtab."""

from __future__ import annotations

import argparse
from typing import Any

import shtab

PLACES = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY}  # metavar to what stands for it


def script(top: Any, shell: str) -> str:
    """The script for one shell: bash, zsh or fish.

    Args:
        top: The parser of the whole command line; from now on it shows all flags.
        shell: Which.
    """
    top.show_all()
    _name_places(top)
    return str(shtab.complete(top, shell=shell))


def _name_places(parser: argparse.ArgumentParser) -> None:
    """Say which values are files and directories."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                _name_places(sub)
        elif place := shtab.DIRECTORY if action.dest in ("run", "runs") else PLACES.get(str(action.metavar)):
            action.complete = place  # type: ignore[attr-defined]
