"""The errors a caller would catch by name; everything else is a plain ValueError."""

from __future__ import annotations


class CandidateFailed(Exception):
    """This candidate cannot be scored (a NaN loss, out of memory): its trial fails, the search goes on."""


class DeviceBroken(RuntimeError):
    """The device is lost to this process (an illegal memory access ...): all it computes from now on fails, too."""


class Diverged(RuntimeError):
    """The training loss is no longer a number."""


class LedgerMismatch(ValueError):
    """The ledger belongs to another problem; the message names the fields that differ."""


class NotTrusted(ValueError):
    """A file names something that would be imported, run or connected to, and nobody has allowed it."""


class RunIsLive(ValueError):
    """Another controller is writing this run at the moment."""


class LedgerUnwritable(OSError, ValueError):
    """The ledger cannot be written (disk full, read-only, database gone); all that was told before is safe."""


class SearchStopped(RuntimeError):
    """The search cannot go on (every candidate fails, or a worker cannot be built); the run stays resumable."""


class DeliveredElsewhere(Exception):
    """The search that was joined is over, and another controller delivers the winner: news, not a failure."""
