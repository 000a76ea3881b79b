"""The page of a run, written anew when the run has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from autoprune.report.freshness import PAGE, is_old_page
from autoprune.report.page import write_page

if TYPE_CHECKING:
    from autoprune.runs.directory import RunDirectory


def renew(run: RunDirectory, say: Callable[[str], None]) -> None:
    """Write report.html anew if there is one that is older than the run, or say that it is.

    Called last, whatever the verb has come to: it raises nothing of its own.
    """
    page = run.path / PAGE
    try:
        if page.is_file() and is_old_page(run, run.record()):
            write_page(run)
            say(f"page: {page}, written anew")
    except (ValueError, OSError) as error:
        say(f"{PAGE} is older than the run, and could not be written anew: {error}")
