"""`main`: one command, from its words to its exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from autoprune.cli.arguments import parser
from autoprune.cli.commands import settings
from autoprune.cli.suggestions import Missing, completed, welcome
from autoprune.errors import DeliveredElsewhere, Diverged, SearchStopped, Unnamed
from autoprune.printable import printable
from autoprune.process import Stopped, at_work, lasting_streams

AGAIN = {  # of what is stopped before there is a run, or after its search
    **dict.fromkeys(("search", "train"), "there was no run yet: type the same again"),
    "resume": "nothing was changed: type the same again",
    "finetune": "type the same again: it goes on from its last checkpoint",
    **dict.fromkeys(("export", "attach"), "nothing was written: type the same again"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 if the search or the fine-tune had to stop, or if `doctor` found something broken; 2 for bad input, or if
        the standard output could not be written (whatever the command did is done); 130 after Ctrl-C, 143 after
        SIGTERM, 129 after SIGHUP.
    """
    said: SystemExit | None = None
    with lasting_streams() as out, contextlib.ExitStack() as work:
        try:
            words = sys.argv[1:] if argv is None else list(argv)
            if not words:
                print(welcome(), file=sys.stderr)
                return 2
            arguments = vars(parser().parse_args(words))
            import autoprune.verbs  # noqa: F401  here, because --help need not wait for torch

            work.enter_context(at_work())  # only now: while modules are imported Ctrl-C just ends it (see `interrupts`)
            code = _run(arguments, words)
        except SystemExit as stop:  # --help, or a flag that is wrong
            code, said = int(stop.code or 0), stop
        out.flush()
        if out.lost and not code:
            _complain(f"the standard output cannot be written ({out.lost}); whatever else was written is safe")
            code = 2
    if said:
        raise SystemExit(code)
    return code


def _run(arguments: dict[str, Any], words: Sequence[str]) -> int:
    from objectives.plugins import PluginError, described

    command, debug = arguments.pop("command"), arguments.pop("debug")
    try:
        _find_code_here()
        return int(command(settings(arguments) if "run" in arguments else arguments) or 0)
    except KeyboardInterrupt as stop:
        end = Stopped.within(stop) or Stopped(stop, AGAIN.get(command.__name__, ""))
        _complain(str(end))
        return end.code
    except DeliveredElsewhere as news:
        print(news)
        return 0
    except (Exception, SystemExit) as error:
        if debug:
            traceback.print_exc()
        hint = "; --debug shows the traceback" if isinstance(error, PluginError) and not debug else ""
        if isinstance(error, (ValueError, OSError, SearchStopped, Diverged)):
            _complain(_told(error, words) or f"{error}{hint}")
            return 1 if isinstance(error, RuntimeError) else 2
        _complain(f"unexpected: {described(error)}; --debug shows the traceback, please report it")
        return 1


def _told(error: BaseException, words: Sequence[str]) -> str:
    """What is said of an error that another command would mend, with that command; "" for others."""
    if isinstance(error, Unnamed):
        return error.told(completed("autoprune", words, error.flags))
    return error.told(words) if isinstance(error, Missing) else ""


def _complain(text: str) -> None:
    print(f"autoprune: {printable(' '.join(text.split()))}", file=sys.stderr)


def _find_code_here() -> None:
    """--model my_package.module:factory, from the directory one stands in."""
    from objectives.guard import look_in

    if "" not in sys.path and os.getcwd() not in sys.path:
        look_in(os.getcwd())
