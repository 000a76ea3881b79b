"""Processes that train one network together, over gloo: what one process does with the same batches."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributed, nn

from autoprune.config import RunConfig
from autoprune.data import Streaming, load, load_or_stream
from autoprune.runs import training as runs_training
from autoprune.tasks import Classification, Portion, Share, as_task
from autoprune.training import Checkpoints, Method, TrainingSettings, finetune
from autoprune.training.methods import Fisher
from autoprune.training.parallel import Processes

PLAIN = TrainingSettings(batch_size=33, device="cpu", amp="off", lr=0.05, seed=3)
RICH = replace(
    PLAIN, optimizer="adamw", lr=2e-3, lr_schedule="cosine", label_smoothing=0.1, mixup=0.2, ema=0.9, clip=1.0,
    accumulate=2, distill=0.3,
)  # fmt: skip
STREAMED = replace(RICH, distill=0.0, batch_size=9)
KINDS = {"plain": PLAIN, "rich": RICH, "penalty": PLAIN, "batchnorm": PLAIN, "streamed": STREAMED, "broken": STREAMED}
STEPS = 8


class Pull(Method):
    """A penalty that every process sees as a whole."""

    name = "pull"

    def penalty(self, net, step):
        return 0.1 * net[0].weight.square().sum()


def network(kind, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        norm = [nn.BatchNorm2d(4)] if kind == "batchnorm" else []
        channels = 3 if KINDS[kind] is STREAMED else 1
        layers = [nn.Conv2d(channels, 4, 3), *norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)]
        layers[0].unused = nn.Parameter(torch.ones(2))  # without a gradient, weight decay does not touch it
        return nn.Sequential(*layers)


def streamed(folder, skip):
    """Images of a folder, of which one is damaged."""
    told = {"val_images": 4, "skip_damaged": skip, "mean": 0, "std": 1}
    found = load_or_stream(f"imagefolder:{folder}/pictures", Streaming(0), **told)
    return Classification(found).loading(1)


def train(kind, path=None, listener=None, folder=None):
    found = load("digits", test=False)
    found = replace(found, train=found.train[:200], augmentation="none")
    found = streamed(folder, kind == "streamed") if folder else found
    model = network(kind)
    kept = None if path is None else Checkpoints(path, 2)
    method = Pull() if kind == "penalty" else None
    log = finetune(
        model, found, KINDS[kind], steps=STEPS, teacher=network(kind, 1), method=method, checkpoints=kept,
        listener=listener,
    )  # fmt: skip
    return model, log if folder is None else (log, found.skipped())


def train_together(folder, attempt, kind, rank, killed="0"):
    """One of two processes."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet-{attempt}", rank=int(rank), world_size=2)

    def kill(done, *_):
        if killed != "0" and done == int(killed) and rank == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    pictures = folder if KINDS[kind] is STREAMED else None
    model, log = train(kind, f"{folder}/training.pt", kill, pictures)
    log, skipped = log if pictures else (log, [])
    found = {"losses": log.losses, "from": log.resumed_from, "model": model.state_dict(), "skipped": skipped}
    torch.save(found, f"{folder}/{attempt}-{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture
def pair(tmp_path, start):
    """Trains in two processes; what each came to, None for one that failed."""

    def run(attempt, kind, killed=0):
        begun = [
            start(tmp_path, f"{__file__}:train_together", tmp_path, attempt, kind, rank, killed) for rank in (0, 1)
        ]
        ended = [process.end() for process in begun]
        if killed:
            assert ended[1].code == -signal.SIGKILL
            assert ended[0].code != 0  # it does not wait for ever
            return None
        assert [e.code for e in ended] == [0, 0], ended
        return [torch.load(tmp_path / f"{attempt}-{rank}.pt", weights_only=True) for rank in (0, 1)]

    return run


def agree(one, other):
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=2e-4, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "rich", "penalty"])
def test_two_processes_train_as_one(pair, kind):
    model, log = train(kind)
    first, second = pair("a", kind)
    assert first["losses"] == second["losses"]
    assert first["losses"] == pytest.approx(log.losses, rel=1e-4)
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    agree(first["model"], model.state_dict())
    assert torch.equal(model[0].unused, torch.ones(2))


@pytest.fixture
def damaged(tmp_path):
    """A folder of 31 training images, of which one is cut off; the path of that one."""
    draws = np.random.default_rng(0)
    for number in range(31):
        path = tmp_path / "pictures" / "train" / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    bad = tmp_path / "pictures" / "train" / "b" / "17.png"
    bad.write_bytes(bad.read_bytes()[:60])
    return bad


@pytest.mark.slow
def test_damaged_images_of_a_stream_are_counted_once_by_all(pair, tmp_path, damaged):
    model, (log, skipped) = train("streamed", folder=tmp_path)
    first, second = pair("a", "streamed")
    assert first["losses"] == second["losses"] == pytest.approx(log.losses, rel=1e-4)
    agree(first["model"], model.state_dict())
    assert first["skipped"] == second["skipped"] == skipped == [str(damaged)]
    again, _ = pair("b", "streamed")  # at its end: what was left out before is in the checkpoint
    assert (again["from"], again["skipped"]) == (STEPS, skipped)


@pytest.mark.slow
def test_a_damaged_image_that_one_process_meets_stops_both_with_its_name(tmp_path, start, damaged):
    begun = [start(tmp_path, f"{__file__}:train_together", tmp_path, "a", "broken", rank) for rank in (0, 1)]
    for ended in [process.end() for process in begun]:
        assert ended.code == 1
        assert f"'{damaged}' is no readable image" in ended.err


@pytest.mark.slow
def test_statistics_of_batch_norm_are_shared(pair):
    """Each process normalises by its own part, so the losses are near and not the same."""
    model, log = train("batchnorm")
    first, second = pair("a", "batchnorm")
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    assert first["losses"] == pytest.approx(log.losses, rel=0.3)
    assert first["losses"] != pytest.approx(log.losses, rel=1e-6)
    torch.testing.assert_close(first["model"]["1.running_mean"], model[1].running_mean, rtol=0.2, atol=0.05)


@pytest.mark.slow
def test_after_a_killed_process_they_go_on_from_the_checkpoint_in_any_number(pair, tmp_path):
    whole, log = train("rich")
    assert pair("a", "rich", killed=3) is None
    assert pair("b", "rich", killed=5) is None
    state = (tmp_path / "training.pt").read_bytes()
    first, _ = pair("c", "rich")
    assert first["from"] == 4
    assert first["losses"] == pytest.approx(log.losses, rel=1e-4)
    agree(first["model"], whole.state_dict())
    (tmp_path / "training.pt").write_bytes(state)
    alone, rest = train("rich", tmp_path / "training.pt")  # one process goes on where two had come to
    assert rest.resumed_from == 4
    assert rest.losses == pytest.approx(log.losses, rel=1e-4)
    agree(alone.state_dict(), whole.state_dict())
    (tmp_path / "training.pt").unlink()
    with pytest.raises(KeyboardInterrupt):
        train("rich", tmp_path / "training.pt", interrupt)
    more, _ = pair("d", "rich")  # and two where one had come to
    assert more["from"] == 4
    assert more["losses"] == pytest.approx(log.losses, rel=1e-4)


def interrupt(done, *_):
    if done == 5:
        raise KeyboardInterrupt


def test_parts_are_all_of_a_batch():
    batch = (torch.arange(7), torch.arange(7) * 2)
    parts = [Portion.of(batch, Share(rank, 3)).own() for rank in range(3)]
    assert torch.cat([p[0] for p in parts]).tolist() == list(range(7))
    assert [len(p[1]) for p in parts] == [2, 2, 3]
    assert [Portion.of(batch, Share(rank, 9)).own() is None for rank in range(9)].count(True) == 2
    assert Portion.of(batch, Share()).own() is batch


def test_fewer_samples_than_processes_are_refused(monkeypatch):
    monkeypatch.setattr(Processes, "here", classmethod(lambda cls: cls(0, 4)))
    found = load("digits", test=False)
    with pytest.raises(ValueError, match="the 3 samples of a batch cannot be shared by 4 processes"):
        finetune(network("plain"), found, replace(PLAIN, batch_size=3), steps=1)


def test_what_several_processes_cannot_learn_is_refused_before_a_cluster_is_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(runs_training, "connect", lambda _: pytest.fail("a cluster was asked"))
    config = RunConfig.make(data="digits", cluster="auto", train_workers=2)
    with pytest.raises(ValueError, match="method 'fisher': learns from the samples that one process sees"):
        runs_training.train(config, network("plain"), as_task(load("digits", test=False)), steps=1, method=Fisher())
