"""`--cluster ray://host:port`: a search through Ray's client; its driver shares only files with the head."""

import os
import signal
import socket
import subprocess
import sys
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
    "--finalists 1 --fidelity proxy --criterion l1 --epochs 0 --bn-images 64 --val-images 100 --short-steps 400 "
    "--batch-size 32"
).split()


def environment(**more):
    """Of the head and of its drivers."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "RAY_worker_niceness": "0", **TOKEN, **more}


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """The address of a head that a process of its own started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("ray")
    command = f"start --head --block --num-cpus=2 --port=0 --include-dashboard=false --ray-client-server-port={port}"
    command += f" --object-store-memory={100 * 2**20} --node-ip-address=127.0.0.1"
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", *command.split()],
            env=environment(RAY_TMPDIR=str(folder)), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    yield f"ray://127.0.0.1:{port}"
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


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


def test_a_search_through_the_client_is_that_of_this_machine_although_its_driver_was_killed(head, here, settings):
    finish(autoprune(*settings, "--name", "near"))
    far = autoprune(*settings, "--name", "far", "--cluster", head)
    give_up = time.monotonic() + 120
    while not list(here.glob("results/far/ray/finalists-0/*/checkpoint_000001/*.pt")):
        assert far.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.05)
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
