"""Processes of Ray Train that train one network together: what one process does with the same batches."""

import gc
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

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
