"""A `train` run that is really killed goes on to the same bits."""

import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

import autoprune
from autoprune.architecture import read_architecture

MODEL = "search_spaces.models:digits_cnn"


@pytest.mark.slow
@pytest.mark.parametrize(("method", "more"), [("chex", []), ("nested", ["--budget-list=20%"])])
def test_killed_while_a_method_trains(here, digits_weights, method, more):
    command = [
        sys.executable, "-m", "autoprune", "train", f"--model={MODEL}", f"--weights={digits_weights}", "--data=digits",
        "--data-args", "max_images=200", f"--method={method}", "--budget=macs<=40%", "--method-epochs=8", "--epochs=0",
        "--batch-size=4", "--criterion=l1", "--device=cpu", "--lr=0.01", *more,
    ]  # fmt: skip
    subprocess.run([*command, "--name=whole"], check=True, capture_output=True)
    state = here / f"results/torn/finetune/method-{method}.pt"
    with subprocess.Popen([*command, "--name=torn"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while running.poll() is None and not state.exists():
            time.sleep(0.01)
        os.kill(running.pid, signal.SIGKILL)
    assert not (here / "results/torn/best").exists()
    autoprune.resume("results/torn", progress=False)
    one, other = (here / f"results/{name}/best" for name in ("whole", "torn"))
    assert read_architecture(one)["kept"] == read_architecture(other)["kept"]
    first, second = (load_file(place / "weights.safetensors") for place in (one, other))
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)
