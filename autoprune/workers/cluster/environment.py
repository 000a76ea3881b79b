"""How Tune shows itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

TABLE_S = 30  # seconds between two tables


@contextlib.contextmanager
def tune_environment(**values: str) -> Iterator[None]:
    """Environment variables for the time of the block: these, and what every run of Tune here needs."""
    values |= {
        "RAY_AIR_NEW_OUTPUT": "0",  # the new output has no table of one's own columns
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger has it all, and Tune leaves its files open when stopped
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def reporter(**columns: str) -> Any:
    """Tune's table with these columns."""
    from ray import tune

    return tune.CLIReporter(metric_columns=columns, max_report_frequency=TABLE_S)
