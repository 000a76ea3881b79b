"""A `train` run that is really killed, wherever it is, goes on to the same bits."""

import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from autoprune.architecture import read_architecture

MODEL = "search_spaces.models:digits_cnn"
TRAINED, BOOK, TUNED = "finetune/method-{}.pt", "ledger.log", "finetune/0.pt"  # what it leaves, in this order


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "more", "moments"),
    [
        ("chex", ["--epochs=6"], (TRAINED, BOOK, TUNED)),
        ("nested", ["--epochs=0", "--budget-list=20%"], (TRAINED, BOOK)),
    ],
)  # fmt: skip
def test_killed_at_several_moments_it_ends_with_the_same_bits(here, digits_weights, method, more, moments):
    autoprune = [sys.executable, "-m", "autoprune"]
    train = [
        *autoprune, "train", f"--model={MODEL}", f"--weights={digits_weights}", "--data=digits",
        "--data-args", "max_images=200", f"--method={method}", "--budget=macs<=40%", "--method-epochs=8",
        "--batch-size=4", "--criterion=l1", "--device=cpu", "--lr=0.01", "--val-samples=64", "--bn-samples=64", *more,
    ]  # fmt: skip
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*train, "--name=whole"], check=True, capture_output=True, env=env)
    command = [*train, "--name=torn"]
    for moment in moments:
        sign = here / "results/torn" / moment.format(method)
        assert not sign.exists()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env) as running:
            while running.poll() is None and not sign.exists():
                time.sleep(0.005)
            os.kill(running.pid, signal.SIGKILL)
        assert sign.exists()
        assert not (here / "results/torn/best").exists()
        command = [*autoprune, "resume", "results/torn"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    assert ended.returncode == 0, ended.stderr
    one, other = (here / f"results/{name}/best" for name in ("whole", "torn"))
    assert read_architecture(one)["kept"] == read_architecture(other)["kept"]
    first, second = (load_file(place / "weights.safetensors") for place in (one, other))
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)
