import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from autoprune import data as data_sets
from autoprune.errors import Diverged
from autoprune.evaluation import EvaluationSettings, Evaluator
from autoprune.training import Checkpoints, Pruning, Sandwich, TrainingSettings, finetune
from autoprune.training.methods.sandwich import _slices, images_seen
from search_spaces import prune, trace


@pytest.fixture(scope="module")
def data():
    return data_sets.load("digits").without_test()


@pytest.fixture(scope="module")
def dense(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, 2),
            nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10),
        )  # fmt: skip
    finetune(model, data, TrainingSettings(epochs=2, batch_size=64, lr=0.1))
    return model


@pytest.fixture(scope="module")
def space(dense, data):
    return trace(dense, data.example)


@pytest.fixture(scope="module")
def scores(space):
    return tuple(np.random.default_rng(0).random(g.size) for g in space.groups)


def run(dense, data, space, scores, steps=3, project=None, smallest=0.25, listener=None, checkpoints=None, **settings):
    net, method = copy.deepcopy(dense), Sandwich(Pruning(space, scores, project=project), smallest)
    settings = TrainingSettings(**{"batch_size": 32} | settings)
    finetune(net, data, settings, steps=steps, method=method, listener=listener, checkpoints=checkpoints)
    return net


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_gradients_of_a_narrower_network_reach_the_dense_weights(dense, space, scores):
    kept = space.kept(space.clip(g.size / 2 for g in space.groups), scores)
    small, shared = prune(dense, space, kept), copy.deepcopy(dense)
    images = torch.randn(4, 1, 8, 8)
    out = functional_call(prune(shared, space, kept), _slices(shared, space, kept), (images,))
    torch.testing.assert_close(out, small(images))
    out.sum().backward()
    small(images).sum().backward()
    assert torch.allclose(shared[3].weight.grad[kept[1]][:, kept[0]], small[3].weight.grad)
    gone = np.setdiff1d(np.arange(12), kept[0])
    assert not shared[3].weight.grad[:, gone].any()
    assert not shared[0].weight.grad[gone].any()


def test_narrow_networks_gain(dense, data, space, scores):
    adapted = run(dense, data, space, scores, steps=20, batch_size=64)
    widths = space.clip(0.4 * g.size for g in space.groups)
    settings = EvaluationSettings(abandon=False)
    before, after = (Evaluator(m, data, space, scores, settings)(widths)["loss"] for m in (dense, adapted))
    assert after < 0.7 * before


def test_the_same_seed_gives_the_same_weights(dense, data, space, scores):
    before = copy.deepcopy(dense)
    state = torch.get_rng_state()
    first, second = (run(dense, data, space, scores, seed=1) for _ in range(2))
    assert same(first, second)
    assert not same(first, run(dense, data, space, scores, seed=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert same(dense, before)
    assert not first.training
    assert trace(first, data.example).fingerprint == space.fingerprint


def test_one_random_network_of_each_step_keeps_to_the_budgets(dense, data, space, scores):
    asked, told = [], []

    def project(widths):
        asked.append(widths)
        return space.floor

    run(dense, data, space, scores, project=project, smallest=0.5, listener=lambda *step: told.append(step[:2]))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert len(set(asked)) == 3
    assert all(w >= g.size / 2 for widths in asked for w, g in zip(widths, space.groups, strict=True))


def test_images_seen():
    assert images_seen(300) == 38_400  # 300 steps of 128


def test_the_smallest_network_is_a_fraction(dense, data, space, scores):
    for smallest in (0.0, 1.5):
        with pytest.raises(ValueError, match="sandwich: smallest must lie between 0 and 1"):
            run(dense, data, space, scores, smallest=smallest)


def test_divergence(dense, data, space, scores):
    with pytest.raises(Diverged, match="lower the learning rate"):
        run(dense, data, space, scores, steps=40, lr=1000.0)


class Stopped(Exception):
    pass


def test_stopped_and_resumed_is_never_stopped(dense, data, space, scores, tmp_path):
    def stop(step, steps, loss):
        if step == 3:
            raise Stopped

    kept = Checkpoints(tmp_path / "training.pt", 2)
    with pytest.raises(Stopped):
        run(dense, data, space, scores, steps=5, checkpoints=kept, listener=stop)
    first = run(dense, data, space, scores, steps=5)
    assert same(run(dense, data, space, scores, steps=5, checkpoints=kept), first)
    assert same(run(dense, data, space, scores, steps=5, checkpoints=kept), first)  # that had ended
