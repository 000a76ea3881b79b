"""`--cluster ray://host:port`: a search through Ray's client; its driver shares only files with the head."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("grpc", reason="Ray's client is not installed")

from autoprune.runs import RunDirectory

pytestmark = pytest.mark.slow
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
SETTINGS = (
    "--model search_spaces.models:digits_cnn --data digits --budget macs<=60% --strategy random --trials 12 "
    "--finalists 1 --fidelity proxy --criterion l1 --epochs 0 --bn-samples 64 --val-samples 100 --short-steps 1200 "
    "--batch-size 32"
).split()


def environment(**more):
    """Of the head and of its drivers."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "RAY_worker_niceness": "0", **TOKEN, **more}


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def kill_all(variable):
    """kill -9 of every process that has this in its environment."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if variable.encode() in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)


@contextlib.contextmanager
def start_head():
    """The address of a head, and what kills all of its processes at once; it is stopped, if it lives, at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # a short path: sockets lie in it
    command = f"start --head --block --num-cpus=2 --port=0 --include-dashboard=false --ray-client-server-port={port}"
    command += f" --object-store-memory={100 * 2**20} --node-ip-address=127.0.0.1"
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", *command.split()],
            env=environment(RAY_TMPDIR=str(folder)), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        give_up = time.monotonic() + 240
        while not listens(port) and time.monotonic() < give_up:
            assert process.poll() is None, (folder / "log.txt").read_text()
            time.sleep(0.2)
        yield f"ray://127.0.0.1:{port}", lambda: kill_all(f"RAY_TMPDIR={folder}")
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        kill_all(f"RAY_TMPDIR={folder}")
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def head():
    """The address of one that lives."""
    with start_head() as (address, _):
        yield address


@pytest.fixture
def settings(digits_weights):
    """Of a search whose candidates depend on nothing but its seed."""
    return ("search", *SETTINGS, "--weights", str(digits_weights), "--workers", "1")


def told(name):
    trials = RunDirectory.open(f"results/{name}").record().trials
    return sorted((t.number, t.widths, t.fidelity, t.state, t.loss) for t in trials)


def autoprune(*arguments, env=None):
    return subprocess.Popen(
        [sys.executable, "-m", "autoprune", *arguments], env=env or environment(), stderr=subprocess.PIPE, text=True
    )


def finish(process, code=0):
    """What it said on stderr until its end."""
    said = process.communicate(timeout=200)[1]
    assert process.returncode == code, said
    return said


def wait_for_checkpoint(process, run):
    """Until its finalist is in the middle of its schedule."""
    give_up = time.monotonic() + 240
    while not list(run.glob("ray/finalists-0/*/checkpoint_000001/*.pt")):
        assert process.poll() is None, finish(process)
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_a_search_through_the_client_is_that_of_this_machine_although_its_driver_was_killed(head, here, settings):
    finish(autoprune(*settings, "--name", "near"))
    far = autoprune(*settings, "--name", "far", "--cluster", head)
    wait_for_checkpoint(far, here / "results/far")
    far.kill()
    far.communicate()
    finish(autoprune("resume", "results/far", "--cluster", head))
    assert told("far") == told("near")
    assert RunDirectory.open("results/far").trial().number == RunDirectory.open("results/near").trial().number


def test_a_driver_without_the_token_of_the_head_is_told_how_to_get_in(head, here, settings):
    outside = {name: value for name, value in environment().items() if name not in TOKEN}
    said = finish(autoprune(*settings, "--cluster", head, env=outside | {"HOME": str(here)}), code=2)
    assert "RAY_AUTH_MODE=token" in said
    assert "Traceback" not in said
    assert not (here / "results").exists()


def test_a_lost_cluster_is_one_sentence_and_the_run_goes_on_without_it(here, settings):
    with start_head() as (address, kill):
        far = autoprune(*settings, "--name", "far", "--cluster", address)
        wait_for_checkpoint(far, here / "results/far")
        kill()
        said = finish(far, code=1)
    assert "the cluster is lost" in said
    assert "Traceback" not in said
    finish(autoprune("resume", "results/far", "--cluster", ""))
    finish(autoprune(*settings, "--name", "near"))
    assert told("far") == told("near")
