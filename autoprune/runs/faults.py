"""What befalls a search in the middle, said with the way on."""

from __future__ import annotations

from autoprune.errors import Diverged, SearchStopped
from autoprune.failures import device_broken, out_of_memory
from autoprune.files import DiskError
from autoprune.report.ending import resuming
from autoprune.runs.directory import RunDirectory


def resumable(error: Exception, run: RunDirectory) -> Exception | None:
    """What befell this process after the search had begun (a full disk, no memory, a lost device), with the way out."""
    again = f"all finished trials are safe: then `{resuming(run)}`"
    if isinstance(error, (SearchStopped, Diverged)) or not (run.path / "config.toml").exists():
        return None
    why = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
    if isinstance(error, DiskError):
        return DiskError(f"{why}; {again}")
    if out_of_memory(error):
        return SearchStopped(f"out of memory ({why}); free some, or choose another --device; {again}")
    if device_broken(error):
        return SearchStopped(f"the device is lost to this process ({why}); {again}")
    return None
