"""The errors a caller would catch by name; everything else is a plain ValueError."""

from __future__ import annotations

from collections.abc import Sequence


class CandidateFailed(Exception):
    """This candidate cannot be scored (a NaN loss, out of memory): its trial fails, the search goes on."""


class DeviceBroken(RuntimeError):
    """The device is lost to this process (an illegal memory access ...): all it computes from now on fails, too."""


class Diverged(RuntimeError):
    """The training loss is no longer a number."""


class LedgerMismatch(ValueError):
    """The ledger belongs to another problem; the message names the fields that differ."""


class Unnamed(ValueError):
    """What a run was begun with as Python objects is needed, and was not given.

    Args:
        run: Its directory.
        verb: That needs it.
        missing: What it is: "model", "data" ...
        flags: What a command needs in addition; "" where no flag can name it.
        hint: What is said of these flags.
    """

    def __init__(self, run: str, verb: str, missing: Sequence[str], flags: str = "", hint: str = "") -> None:
        objects = " and ".join(f"a {name} object" for name in missing)
        self.why = f"run '{run}': was started from {objects}, and nothing on disk says how to make it"
        self.call = f"in Python: give {', '.join(f'{name}=...' for name in missing)} to autoprune.{verb}, too"
        self.flags, self.hint = flags, hint
        super().__init__("; ".join(filter(None, (self.why, self.call, flags and f"on a command line: {flags}{hint}"))))

    def told(self, command: str) -> str:
        """The message for somebody who typed a command.

        Args:
            command: With all that was typed, and the flags.
        """
        return f"{self.why}; next: {command}{self.hint}; {self.call}" if self.flags else str(self)


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
