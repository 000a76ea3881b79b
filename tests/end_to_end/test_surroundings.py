"""What a command does when its surroundings fail it: a pipe that closes, a full disk, ASCII, no streams, signals."""

import contextlib
import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import autoprune
from autoprune.cli import main
from autoprune.process import Lasting, at_work

VERBS = {
    "status": ["status", "results/run"],
    "report": ["report", "results/run", "--no-html"],
    "compare": ["compare", "results/run", "results/other", "--no-html"],
    "export": ["export", "results/run", "--trial=1", "--to=elsewhere"],
    "finetune": ["finetune", "results/run", "--epochs=0", "--to=elsewhere"],
    "resume": ["resume", "results/run", "--trials=6"],
    "profile": ["profile", "--model=search_spaces.models:digits_cnn", "--data=digits", "--criterion=l1"],
    "search": "search --model=search_spaces.models:digits_cnn --weights=w.safetensors --data=digits --criterion=l1 "
    "--trials=1 --finalists=0 --epochs=0 --device=cpu --name=new".split(),
}
MADE = {"export": "elsewhere", "finetune": "elsewhere", "resume": "results/run/best", "search": "results/new/best"}


@pytest.fixture
def copied(finished, here):
    shutil.copytree(finished, here, dirs_exist_ok=True)
    shutil.copytree(finished / "results/run", here / "results/other")
    return here


class Failing(io.StringIO):
    """A standard output that fails with one error number."""

    encoding, errors = "utf-8", "strict"

    def __init__(self, number):
        super().__init__()
        self.number, self.writes = number, 0

    def write(self, text):
        self.writes += 1
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("arguments", VERBS.values(), ids=VERBS)
def test_work_goes_on_without_its_audience(arguments, copied, monkeypatch, capsys):
    for number, code, said in (
        (errno.EPIPE, 0, ""),
        (errno.ENOSPC, 2, "autoprune: the standard output cannot be written (No space left on device); whatever else "),
    ):
        stream = Failing(number)
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", stream)
            assert main(arguments) == code
        error = capsys.readouterr().err
        assert error.startswith(said)
        assert error.count("\n") == bool(said)
        assert stream.writes == 1
        if made := MADE.get(arguments[0]):
            assert (copied / made / "architecture.json").is_file()
            if arguments[0] == "search":
                shutil.rmtree(copied / "results/new")


@pytest.mark.parametrize("arguments", [VERBS["report"], VERBS["profile"], ["--help"]], ids=str)
def test_ascii_is_enough(arguments, copied, monkeypatch):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", stream)
        with contextlib.suppress(SystemExit):  # of --help
            assert main(arguments) == 0
    assert len(raw.getvalue().decode("ascii")) > 300


def test_the_rest_of_a_pipe_goes_nowhere():
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        lasting = Lasting(stream)
        lasting.write("first\n")
        lasting.flush()
        lasting.write("second\n")
        assert lasting.lost == ""
    # closing it did not raise: its number stands for /dev/null now


@pytest.mark.parametrize(("number", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_signal_ends_a_command_in_good_order(number, code, word, copied, monkeypatch, capsys):
    from autoprune.evaluation import Evaluator

    before = Evaluator.__call__

    def evaluate(self, *arguments, **more):
        os.kill(os.getpid(), getattr(signal, number))
        time.sleep(10)
        return before(self, *arguments, **more)

    monkeypatch.setattr(Evaluator, "__call__", evaluate)
    assert main(VERBS["search"]) == code
    said = capsys.readouterr()
    assert said.err == f"autoprune: {word}; the run is in results/new; go on with: autoprune resume results/new\n"
    assert "stopped; all finished trials are safe: autoprune resume results/new" in said.out
    monkeypatch.undo()
    os.chdir(copied)
    assert main(["resume", "results/new"]) == 0


def test_handlers_are_put_back_and_other_threads_can_run_commands():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with at_work():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main(["status", "nowhere"])))
    thread.start()
    thread.join()
    assert codes == [2]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(autoprune.__file__).parents[1])}


@pytest.mark.parametrize(("number", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_signal_while_modules_are_imported_is_no_traceback(number, code, word, here):
    command = [sys.executable, "-B", "-X", "importtime", "-m", "autoprune", "status", "nowhere"]
    with subprocess.Popen(command, env=ENVIRONMENT, text=True, stderr=subprocess.PIPE) as process:
        for line in process.stderr:  # one for each module, when it is there
            if line.rpartition("|")[2].strip() == "numpy":
                break
        process.send_signal(getattr(signal, number))
        text = process.stderr.read()
        assert process.wait(60) == code
    assert text.endswith(f"autoprune: {word}\n")
    assert "Traceback" not in text


@pytest.mark.slow
def test_closed_streams_are_no_place_for_files(copied):
    command = f"{sys.executable} -B -m autoprune {' '.join(VERBS['search'])} <&- >&- 2>&-"
    assert subprocess.run(command, shell=True, env=ENVIRONMENT, timeout=300, check=False).returncode == 0
    assert all(line.startswith("{") for line in (copied / "results/new/ledger.log").read_text().splitlines())
