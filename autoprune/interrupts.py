"""Ctrl-C from the first moment on. Imported before everything else (PyTorch takes seconds), so it imports nothing."""

import os
import signal
import sys

INTERRUPTED, TERMINATED = 130, 143  # what a shell reports for Ctrl-C and for `kill`


def leave_at_once(number: int, _: object = None) -> None:
    """End without a traceback: while modules are imported there is nothing to save."""
    word, code = ("interrupted", INTERRUPTED) if number == signal.SIGINT else ("terminated", TERMINATED)
    try:
        os.write(2, f"autoprune: {word}\n".encode())
    finally:
        os._exit(code)


def is_command_line() -> bool:
    """Whether this process was started as `autoprune ...` or `python -m autoprune ...`."""
    first = sys.argv[0] if sys.argv else ""
    as_module = first == "-m" and ("-m", "autoprune") in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    return as_module or os.path.splitext(os.path.basename(first))[0] == "autoprune"


def _begin() -> None:
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):  # not of `nohup`
                signal.signal(number, leave_at_once)
    except ValueError:  # not in the main thread
        pass


if is_command_line():
    _begin()
