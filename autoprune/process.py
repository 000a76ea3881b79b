"""What the process of a command has to do with its surroundings: signals, and standard streams that may go away."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from autoprune.interrupts import INTERRUPTED, is_command_line, leave_at_once

ENDS = (signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """The process is to end; it is answered as Ctrl-C is.

    Attributes:
        code: The exit code: 128 and the number of the signal.

    Args:
        number: SIGTERM: a batch system, a service manager or `docker stop` asks for it; SIGHUP: the terminal is closed.
    """

    def __init__(self, number: int) -> None:
        super().__init__("hung up" if number == signal.SIGHUP else "terminated")
        self.code = 128 + number


class Stopped(KeyboardInterrupt):
    """A run was stopped in its work by Ctrl-C or a signal, and has been left in order.

    Its message ends with how the run goes on: of a traceback in Python that is the last line.

    Attributes:
        code: The exit code.

    Args:
        stop: What stopped it.
        more: How it goes on, in a sentence without its full stop.
    """

    def __init__(self, stop: KeyboardInterrupt, more: str) -> None:
        super().__init__("; ".join(filter(None, (str(stop) or "interrupted", more))))
        self.code = stop.code if isinstance(stop, Terminated) else INTERRUPTED

    @classmethod
    def within(cls, stop: BaseException | None) -> Stopped | None:
        """It, or the one that was being handled when Ctrl-C came once more; None if there is none."""
        while stop is not None and not isinstance(stop, cls):
            stop = stop.__context__
        return stop


def open_closed_streams() -> None:
    """Give the standard streams that the process was started without (`>&-`) a place that takes everything.

    Else the next file that is opened has the number of the missing one, and whatever is printed is written into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """In the block Ctrl-C, SIGTERM and SIGHUP are exceptions, so that what must be left in order is.

    The first process of a container would not even get a signal that it has no handler for. A second SIGTERM or SIGHUP
    changes nothing. Who is to ignore them (`nohup`) or has a handler of its own keeps that.
    """

    def terminate(number: int, _: Any) -> None:
        for each in ENDS:
            signal.signal(each, signal.SIG_IGN)
        raise Terminated(number)

    before: dict[signal.Signals, Any] = {}
    with contextlib.suppress(ValueError):
        for number, handler in {signal.SIGINT: signal.default_int_handler, **dict.fromkeys(ENDS, terminate)}.items():
            if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL, leave_at_once):
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Lasting:
    """A standard stream that may go away (a pipe that is closed, a full disk) without taking the work with it.

    Args:
        stream: The stream; what it cannot encode becomes a question mark.

    Attributes:
        lost: Why the rest was not written; empty while all is well, and where nobody wanted to read more.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.lost, self._gone = stream, "", False
        if hasattr(stream, "reconfigure") and stream.errors == "strict":
            stream.reconfigure(errors="replace")

    def write(self, text: str) -> int:
        """As any stream, or nothing once it is gone."""
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Likewise."""
        self._try(self._stream.flush)

    def _try(self, act: Any, *arguments: Any) -> None:
        if self._gone:
            return
        try:
            act(*arguments)
        except OSError as error:
            self._gone = True
            self.lost = "" if error.errno == errno.EPIPE else error.strerror or str(error)
            with contextlib.suppress(OSError):  # what is still in its buffer goes nowhere, and says nothing at the end
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lasting_streams() -> Iterator[Lasting]:
    """In the block what is printed may be lost, but the work is not; gives the standard output."""
    before = sys.stdout, sys.stderr
    out, err = Lasting(before[0]), Lasting(before[1])
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


if is_command_line():
    open_closed_streams()  # now, before any file is opened
