"""SIGTERM and SIGHUP end a command in good order; processes that really get them, the first of a container, too."""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

import autoprune
from autoprune.cli import main
from autoprune.process import Stopped, Terminated, at_work
from search_spaces.models import digits_cnn

# What `autoprune.cli.main` does around a command.
COMMAND = """
import os, sys, time
from autoprune.process import Stopped, Terminated, at_work
try:
    with at_work():
        try:
            print(os.getpid(), flush=True)
            time.sleep(60)
        finally:
            os.kill(os.getpid(), 15)  # a second one while it cleans up changes nothing
            time.sleep(0.1)
            open(sys.argv[1], "w").write("cleaned up")
except Terminated as end:
    sys.exit(end.code)
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(autoprune.__file__).parents[1])}
CONTAINER = ["unshare", "--pid", "--fork"]


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*CONTAINER, "true"], capture_output=True).returncode != 0,
    reason="containers are not allowed here",
)
def test_the_first_process_of_a_container_hears_sigterm(tmp_path):
    """The kernel withholds it from a first process that has no handler."""
    command = [*CONTAINER, sys.executable, "-c", COMMAND, tmp_path / "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True) as process:
        assert process.stdout.readline() == "1\n"
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
            os.kill(int(file.read()), signal.SIGTERM)
    assert (process.returncode, (tmp_path / "out").read_text()) == (143, "cleaned up")


def test_a_terminal_that_is_closed_ends_a_command_in_good_order(tmp_path):
    ours, theirs = os.openpty()
    code = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{COMMAND}"
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "out"],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=ENVIRONMENT,
    )  # fmt: skip
    os.close(theirs)
    assert os.read(ours, 100)
    os.close(ours)  # the kernel sends SIGHUP
    assert (process.wait(60), (tmp_path / "out").read_text()) == (129, "cleaned up")


def raise_both():
    with at_work():
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)


def test_handlers_are_as_before_and_those_of_others_stay():
    mine = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(Terminated, match="terminated"):
            raise_both()
        assert signal.getsignal(signal.SIGTERM) is before
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, mine)


@pytest.mark.parametrize(
    ("words", "again"),
    [
        (["search", "--model=a:b", "--data=digits"], "there was no run yet: type the same again"),
        (["finetune", "results/run"], "type the same again: it goes on from its last checkpoint"),
        (["export", "results/run"], "nothing was written: type the same again"),
    ],
)
@pytest.mark.parametrize(("number", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_the_last_line_says_what_to_type_where_no_run_was_stopped(
    words, again, number, code, word, monkeypatch, capsys
):
    def stopped(**_):
        signal.raise_signal(getattr(signal, number))

    monkeypatch.setattr(f"autoprune.verbs.{words[0]}", stopped)
    assert main(words) == code
    assert capsys.readouterr().err == f"autoprune: {word}; {again}\n"


def test_an_impatient_second_interrupt_leaves_the_last_line_as_it_is(monkeypatch, capsys):
    def stopped(**_):
        try:
            raise Stopped(KeyboardInterrupt(), "go on with: this") from None
        finally:  # while Ray ends, or the table is written
            raise KeyboardInterrupt

    monkeypatch.setattr("autoprune.verbs.search", stopped)
    assert main(["search", "--model=a:b", "--data=digits"]) == 130
    assert capsys.readouterr().err == "autoprune: interrupted; go on with: this\n"


def test_in_python_the_last_line_of_the_traceback_is_the_call_that_goes_on(here, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("autoprune.search"), "run_here", stopped)
    quick = {"criterion": "l1", "trials": 1, "finalists": 0, "epochs": 0, "val_samples": 64}
    with pytest.raises(KeyboardInterrupt) as caught:
        autoprune.search(digits_cnn(), "digits", "macs<=50%", name="mine", progress=False, **quick)
    *_, last = traceback.format_exception(caught.value)
    run = Path("results", "mine")
    assert last == (
        f"autoprune.process.Stopped: interrupted; the run is in {run}; go on with: "
        f"autoprune.resume('{run}', model=...)\n"
    )
