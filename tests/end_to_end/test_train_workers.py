"""Processes of Ray Train that train one network together: what one process does with the same batches."""

import gc
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import autoprune
from autoprune.errors import SearchStopped
from autoprune.exporting import read_architecture
from autoprune.training import Checkpoints, finetune

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import ray_faults
from ray_training import SETTINGS, STEPS, Fatal, network, task

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray leaves sockets and log files to the garbage collector
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of what Ray itself calls
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_TMPDIR", "RAY_worker_niceness", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
            patch.delenv(name, raising=False)  # so that they are gone afterwards
        with ray_faults.cluster() as made:
            yield made


@pytest.fixture(autouse=True)
def tidy():
    yield
    gc.collect()


def train(method=None, path=None):
    net = network()
    log = finetune(net, task(), SETTINGS, steps=STEPS, method=method, checkpoints=path and Checkpoints(path))
    return net, log


def train_together(path, method=None, **told):
    from autoprune.workers.cluster import Share
    from autoprune.workers.cluster.data_parallel import Training, train_on_cluster

    training = Training(network(), task(), SETTINGS, STEPS, method=method)
    train_on_cluster(training, Share(2, 1), path, every=4, **told)


def test_after_a_killed_process_two_have_trained_as_one(cluster, tmp_path):
    net, log = train()
    heard = []
    path = tmp_path / "training.pt"
    train_together(path, Fatal(tmp_path, 6), listener=lambda done, total, loss: heard.append((done, total)))
    assert (tmp_path / "killed").exists()
    steps = [int(line) for line in (tmp_path / "steps.txt").read_text().split()]
    assert steps[-8:] == list(range(4, STEPS))  # on from the checkpoint after four steps, and no further back
    assert len(steps) <= STEPS + 3
    assert {total for _, total in heard} <= {STEPS}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed", "steps.txt", "training.pt"]
    own, found = train(Fatal(tmp_path, 99), path)  # takes over the end
    assert found.resumed_from == STEPS
    assert found.losses == pytest.approx(log.losses, rel=1e-4)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], value, rtol=2e-4, atol=2e-5)


def test_an_error_of_the_loop_comes_back_as_it_is(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("autoprune.workers.cluster.data_parallel.MAX_DEATHS", 1)
    with pytest.raises(ValueError, match=r"^broken by the test$"):
        train_together(tmp_path / "training.pt", Fatal(tmp_path, 2, "break"))


def test_processes_that_die_again_and_again_are_an_error(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("autoprune.workers.cluster.data_parallel.MAX_DEATHS", 0)
    with pytest.raises(SearchStopped, match=r"training: its processes on the cluster died .* call it again to go on"):
        train_together(tmp_path / "training.pt", Fatal(tmp_path, 6))
    train_together(tmp_path / "training.pt", Fatal(tmp_path, 6))
    steps = [int(line) for line in (tmp_path / "steps.txt").read_text().split()]
    assert steps[-8:] == list(range(4, STEPS))  # the second call, on from the checkpoint of the first


def test_finetune_trains_on_a_cluster(cluster, digits_weights, here):
    model = {"model": "search_spaces.models:digits_cnn", "data": "digits", "weights": str(digits_weights)}
    quick = {"trials": 1, "finalists": 0, "warm_starts": "none", "strategy": "random", "criterion": "l1", "epochs": 0}
    autoprune.search(**model, **quick, name="r", device="cpu", reconstruct=False)
    told = {"epochs": 0.5, "batch_size": 64, "lr": 0.005}
    autoprune.finetune("results/r", **told, cluster="auto", train_workers=2)
    autoprune.finetune("results/r", **told, to="alone")
    losses = [read_architecture(Path(p))["metrics"]["training"]["loss"] for p in ("results/r/finetuned", "alone")]
    assert losses[0] == pytest.approx(losses[1], rel=0.3)  # batch-norm normalises by each process's part
    assert losses[0] != losses[1]
    assert list((here / "results/r/finetune").iterdir()) == []
    with pytest.raises(ValueError, match=r"cannot be shared by 64 processes"):
        autoprune.finetune("results/r", **told | {"batch_size": 32}, cluster="auto", train_workers=64)
    with pytest.raises(ValueError, match="give --train-workers 2"):
        autoprune.finetune("results/r", **told, cluster="auto", train_workers=3)
