"""The command line, or a function, in a process of its own that starts at once.

It is forked from a server that has imported everything and done nothing: a fresh interpreter would spend seconds on the
imports. What is killed, stopped or limited is a process like any other.
"""

import importlib.util
import multiprocessing as mp
import os
import resource
import signal
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

PATIENCE_S = 900.0  # before a test is given up: no measure of how long anything takes
SERVER = mp.get_context("forkserver")
SERVER.set_forkserver_preload(["autoprune.cli", "autoprune.search", "sklearn.datasets"])


@dataclass
class Ended:
    """How a process ended: its exit code (-9: killed) and what it said."""

    code: int
    out: str
    err: str


class Started:
    """A process that runs `file:function(*arguments)`, or `autoprune ARGUMENTS`, in the directory `where`.

    Args:
        where: Its working directory.
        function: E.g. "/tests/data/joint.py:main".
        arguments: Strings and numbers.
        most_bytes: No file may grow beyond that, as on a full disk.
    """

    def __init__(self, where, function, *arguments, most_bytes=None):
        pipes = [SERVER.Pipe(duplex=False) for _ in ("out", "err")]
        self.process = SERVER.Process(
            target=_live, args=(str(where), [end for _, end in pipes], most_bytes, function, arguments)
        )
        self.process.start()
        self.pid = self.process.pid
        self._said = [bytearray(), bytearray()]
        self._listeners = []
        for (mine, its), said in zip(pipes, self._said, strict=True):
            its.close()
            self._listeners.append(threading.Thread(target=_listen, args=(mine, said), daemon=True))
            self._listeners[-1].start()

    def is_alive(self):
        return self.process.is_alive()

    def send(self, number):
        os.kill(self.pid, number)

    def end(self):
        """Wait for it."""
        self.process.join(PATIENCE_S)
        assert not self.process.is_alive(), f"no end within {PATIENCE_S:g} s"
        for listener in self._listeners:
            listener.join()
        return Ended(self.process.exitcode, *(said.decode() for said in self._said))

    def kill(self):
        """`kill -9`, if it lives; then wait for it."""
        self.process.kill()
        return self.end()

    def wait_until(self, happened):
        """Until something has happened, while it lives."""
        give_up = time.monotonic() + PATIENCE_S
        while not happened():
            assert self.is_alive(), self.end()
            assert time.monotonic() < give_up
            time.sleep(0.005)


def _listen(pipe, said):
    with pipe:
        while piece := os.read(pipe.fileno(), 2**16):
            said += piece


def _live(where, pipes, most_bytes, function, arguments):
    for stream, pipe in zip((1, 2), pipes, strict=True):
        os.dup2(pipe.fileno(), stream)
        pipe.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(where)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    if function == "autoprune":
        from autoprune.cli import main

        sys.exit(main(list(arguments)))
    path, _, name = function.rpartition(":")
    sys.path.insert(0, str(Path(path).parent))
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.exit(getattr(module, name)(*arguments))


def server_cpu_s():
    """Processor time of the server and of all that it has forked and that have ended."""
    pid = forkserver._forkserver._forkserver_pid
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
