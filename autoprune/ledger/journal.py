"""The file under a ledger: one JSON record a line, safe against `kill -9`, torn lines and full disks.

Optuna's own `JournalFileBackend` stalls 30 s after a `kill -9` (its lock, a symbolic link, outlives the owner), and a
torn last line spoils its file for good. This one locks with `flock`, which the kernel frees when a process dies, and
cuts a torn tail off before it writes. The format is the same: `optuna-dashboard` and `optuna.load_study` read it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from autoprune.errors import LedgerUnwritable
from autoprune.files import check_plain

BLOCK = 4096  # bytes read backwards at a time to find the last newline
DURABLE = frozenset({0, 2, 6})  # Optuna's codes of: create study, set study attribute, finish trial. These are fsynced
PASSING = frozenset(  # may be over in a moment (the last two: of a file server): tried again
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EAGAIN, errno.ESTALE, errno.ETIMEDOUT}
)
PAUSES_S = (0.2, 1.0)


class Journal(BaseJournalBackend):
    """An append-only file of Optuna's journal records.

    Args:
        path: The file; made if missing, unless `read_only`.
        read_only: Never write, so that a run can be watched while its controller writes.

    Raises:
        LedgerUnwritable: If the file cannot be made.
        ValueError: If it is missing (`read_only`) or a line of it is no record.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self.read_only = read_only
        self._next = (0, 0)  # number and first byte of the first record not yet read
        if self.path.exists():
            try:
                check_plain(self.path)
            except ValueError as error:
                raise ValueError(f"ledger '{self.path}': {error}; restore it from a copy") from error
            return
        if read_only:
            raise ValueError(f"ledger '{self.path}': no such file; is this the directory of a run?")
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o644))
            folder = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(folder)  # the name of the file must survive a power cut too
            os.close(folder)
        except OSError as error:
            raise self._unwritable(error) from error

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """All whole records from that number on; a torn tail (being written, or cut by a kill) is not there yet."""
        number, start = self._next if self._next[0] <= log_number_from else (0, 0)
        try:
            with open(self.path, "rb") as file:
                file.seek(start)
                data = file.read()
        except OSError as error:
            text = f"ledger '{self.path}': cannot be read ({error.strerror}); make it readable, or restore it"
            raise ValueError(f"{text} from a copy") from error
        data = data[: data.rfind(b"\n") + 1]
        logs: list[dict[str, Any]] = []
        for line in data.split(b"\n")[:-1]:
            if number >= log_number_from:
                logs.append(self._parse(line, number + 1))
            number += 1
        self._next = (number, start + len(data))
        return logs

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append all records or none.

        Raises:
            LedgerUnwritable: If the disk is full (after two more tries) or read-only, or the file is gone.
        """
        data = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        durable = any(log["op_code"] in DURABLE for log in logs)
        for pause_s in (*PAUSES_S, None):
            try:
                return self._append(data, durable)
            except OSError as error:
                if pause_s is None or error.errno not in PASSING:
                    raise self._unwritable(error) from error
                time.sleep(pause_s)

    def _append(self, data: bytes, durable: bool) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, "opened for reading only")
        file = os.open(self.path, os.O_RDWR | os.O_APPEND)  # not O_CREAT: a ledger that vanished must not begin anew
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            whole = _whole(file)
            os.ftruncate(file, whole)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(file, rest) :]
                if durable:
                    os.fsync(file)
            except OSError:
                os.ftruncate(file, whole)
                raise
        finally:
            os.close(file)

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            log = json.loads(line)
            log["op_code"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError(
                f"ledger '{self.path}': line {number} is no journal record ({line[:40]!r}); "
                "something other than autoprune has changed the file: restore it from a copy, or begin the search anew "
                f"with `autoprune resume {self.path.parent} --restart`"
            ) from None
        return log  # type: ignore[no-any-return]

    def _unwritable(self, error: OSError) -> LedgerUnwritable:
        what = f"ledger '{self.path}': cannot be written ({error.strerror or error})"
        again = f"then `autoprune resume {self.path.parent}`"
        if error.errno == errno.ENOENT:
            return LedgerUnwritable(f"{what}: it was removed while it was in use; restore it from a copy, {again}")
        return LedgerUnwritable(f"{what}; everything recorded before is safe: free space or make it writable, {again}")


def _whole(file: int) -> int:
    """Length of the file in bytes up to its last newline: what is behind it was torn by a kill."""
    end = os.fstat(file).st_size
    while end > 0:
        block = os.pread(file, min(BLOCK, end), max(0, end - BLOCK))
        newline = block.rfind(b"\n")
        if newline >= 0:
            return end - len(block) + newline + 1
        end -= len(block)
    return 0
