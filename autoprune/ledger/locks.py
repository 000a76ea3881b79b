"""One controller per run: a lock that its holder's death sets free."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from autoprune.errors import LedgerUnwritable, RunIsLive

PATIENCE_S = 0.5  # `holder` takes the lock for an instant; a controller that starts then must not be refused


class Lock(Protocol):
    """Something held until it is released, or its process dies."""

    def release(self) -> None:
        """Let go; may be repeated."""


class FileLock:
    """An exclusive `flock` on a small file that says who holds it.

    Raises:
        RunIsLive: If another process holds it.
        LedgerUnwritable: If the file cannot be made.
    """

    def __init__(self, path: Path, what: str) -> None:
        try:
            self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            text = f"{what}: '{path}' cannot be written ({error.strerror}); free space or make it writable, then again"
            raise LedgerUnwritable(text) from error
        give_up = time.monotonic() + PATIENCE_S
        while not self._lock(what, path):
            if time.monotonic() > give_up:
                who = _name(self._file)
                self.release()
                raise RunIsLive(f"{what}: is being written by another controller ({who}); stop that one, or wait")
            time.sleep(0.02)
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same, only nameless
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def _lock(self, what: str, path: Path) -> bool:
        try:
            return self._file is not None and _try_lock(self._file, fcntl.LOCK_EX)
        except OSError as error:
            self.release()
            text = f"{what}: '{path}' cannot be locked ({error.strerror}); its file system or file server has no locks"
            raise LedgerUnwritable(f"{text}: put the run on another one") from error

    def release(self) -> None:
        """Let go; may be repeated."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """In the block nobody else writes a run.

    Raises:
        RunIsLive: If somebody does.
        LedgerUnwritable: If its lock cannot be made.
    """
    lock = FileLock(run / ".lock", f"run '{run}'")
    try:
        yield
    finally:
        lock.release()


def holder(run: str | Path) -> str:
    """Which process is writing this run directory at the moment; empty if none is."""
    try:
        file = os.open(Path(run) / ".lock", os.O_RDONLY)
    except OSError:
        return ""
    try:
        return "" if _try_lock(file, fcntl.LOCK_SH) else _name(file)
    except OSError:  # a file system without locks: no controller can hold one
        return ""
    finally:
        os.close(file)


def _name(file: int) -> str:
    return os.pread(file, 200, 0).decode(errors="replace").strip() or "unknown process"


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
