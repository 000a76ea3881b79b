"""`torchrun -m autoprune finetune RUN`: processes that train together, one of which is killed."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import autoprune
from autoprune.cli import main

pytestmark = pytest.mark.slow


def workers_of(launcher):
    """The processes that it has started."""
    found = subprocess.run(["ps", "--ppid", str(launcher), "-o", "pid="], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes with ps")
def test_a_killed_process_costs_what_was_done_since_the_last_checkpoint(digits_weights, here):
    problem = ["--model=search_spaces.models:digits_cnn", "--data=digits", f"--weights={digits_weights}"]
    quick = ["--trials=1", "--finalists=0", "--warm-starts=none", "--strategy=random", "--criterion=l1", "--epochs=0"]
    assert main(["search", *problem, *quick, "--name=r", "--device=cpu", "--no-reconstruct"]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1",
               "-m", "autoprune", "finetune", "results/r", "--epochs=2", "--batch-size=8", "--lr=0.005"]  # fmt: skip
    # about 320 steps, of which the checkpoint holds 200
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    launched = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        kept = here / "results/r/finetune"
        deadline = time.monotonic() + 400
        while not list(kept.glob("finetuned-*.pt")):
            assert launched.poll() is None, launched.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(workers_of(launched.pid)[-1], signal.SIGKILL)
        said = launched.communicate(timeout=300)[0]
    finally:
        launched.kill()
    assert launched.returncode == 0, said
    dense = autoprune.load("results/r/best")
    tuned = autoprune.load("results/r/finetuned")
    assert not torch.equal(next(dense.parameters()), next(tuned.parameters()))
    assert list(kept.iterdir()) == []
