"""How Ray and Tune show themselves, and what they leave of this process."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

TABLE_S = 30  # seconds between two tables
ALWAYS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output has no table of one's own columns
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger has it all, and Tune leaves its files open when stopped
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # finalists have no loss between rungs
}


@contextlib.contextmanager
def same_handlers() -> Iterator[None]:
    """After the block signals do what they did before.

    Ray's handler of SIGTERM would end this process without a word, and Tune's of Ctrl-C swallow the first one of
    whatever follows, such as the winner's fine-tune. What Ray's made of a SIGTERM is handled as before.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit as end:
        if end.code == signal.SIGTERM and callable(handler := before[signal.SIGTERM]):
            handler(signal.SIGTERM, None)
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)


@contextlib.contextmanager
def tune_environment() -> Iterator[None]:
    """What every run of Tune here needs among the environment variables, for the time of the block."""
    with same_handlers(), _variables():
        yield


@contextlib.contextmanager
def _variables() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in ALWAYS}
    os.environ.update(ALWAYS)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def reporter(**columns: str) -> Any:
    """Tune's table with these columns."""
    from ray import tune

    return tune.CLIReporter(metric_columns=columns, max_report_frequency=TABLE_S)


def reason(trial: Any) -> str:
    """The last error of a Tune trial, in a few words."""
    error = trial.get_pickled_error() if trial.pickled_error_file else None
    text = " ".join(str(error).split()) if error else "its process died"
    return text[:300]
