"""What a GPU would be asked to do, on a pretended one: no tensor on the wrong device, few launches, hardly a wait."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from pretend import pretended
from small_images import SOME, data, evaluator, images, traced

from autoprune.compute import Compute
from autoprune.criteria import score_all
from autoprune.evaluation import Together
from autoprune.tasks import as_task
from autoprune.training import Cut, TrainingSettings
from autoprune.training.dropout import dropout
from autoprune.training.loop import plan_of
from autoprune.training.state import TrainingState
from search_spaces import trace, verify
from search_spaces.models import resnet20, resnet56


@pytest.fixture
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.mark.parametrize("fidelity", ["raw", "proxy", "reconstructed"])  # backwards only a real GPU can
def test_a_gpu_gives_what_a_cpu_gives(patch, fidelity):
    found = data()
    here, space = evaluator(resnet20, found, "cpu")
    widths = space.clip(g.size * 0.6 for g in space.groups)
    expected = here(widths, fidelity)
    with pretended(patch, memory=0) as device:  # as large as the training's batches, as on the CPU
        there, _ = evaluator(resnet20, found, "cuda:1")
        answer = there(widths, fidelity)
    assert device.total > 0
    assert answer["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert answer["batch_losses"] == pytest.approx(expected["batch_losses"], rel=1e-3)


@pytest.mark.parametrize(
    ("fidelity", "most"), [pytest.param("proxy", 1000, marks=pytest.mark.slow), ("reconstructed", 4000)]
)
def test_a_candidate_of_resnet56_launches_few_kernels_and_hardly_waits(patch, fidelity, most):
    """A tenth of the default images in as many passes as those take."""
    settings = replace(SOME, bn_samples=100, fit_samples=50, val_samples=200, batch_size=10, amp="auto")
    with pretended(patch) as device:
        there, space = evaluator(resnet56, replace(data(), val=images(200)), "cuda:1", settings)
        widths = space.clip(g.size * 0.6 for g in space.groups)
        there(space.clip(g.size * 0.5 for g in space.groups), fidelity)  # what is worked out once is not counted
        device.clear()
        answer = there(widths, fidelity, [1e9] * 7)
    assert answer["samples"] == 200
    assert 100 < device.total <= most
    assert device.to_host == 2  # a look half-way, and the losses: all that waits
    assert device.to_device == 0  # which units stay is sent on the way


@pytest.mark.parametrize(("fidelity", "amp"), [("raw", "auto"), ("reconstructed", "off")])
def test_candidates_in_one_pass_wait_once(patch, fidelity, amp):
    with pretended(patch) as device:
        there, space = evaluator(resnet20, data(), "cuda:1", replace(SOME, abandon=False, amp=amp))
        some = [space.clip(g.size * share for g in space.groups) for share in (0.4, 0.7)]
        together = Together(there)
        together(some, fidelity)  # what is worked out once is not counted
        device.clear()
        found = together(some[::-1], fidelity)
        waited = device.to_host, device.to_device
        alone = [there(widths, fidelity) for widths in some[::-1]]
    assert waited == (1, 0)  # for the losses of all
    for one, other in zip(found, alone, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5 if amp == "off" else 2e-2)


def test_a_network_is_traced_and_verified_there(patch):
    net, space = traced(resnet20)
    with pretended(patch) as device:
        there, example = copy.deepcopy(net).to("cuda:1"), data().example.to("cuda:1")
        assert trace(there, example).fingerprint == space.fingerprint
        assert verify(there, space, example, seeds=(0,)) < 1e-6
    assert device.total > 1000


@pytest.mark.parametrize("criterion", ["apoz", "hrank", "mean_activation"])  # others go backwards
def test_channels_are_scored_there(patch, criterion):
    (net, space), task = traced(resnet20), as_task(data())

    def scores(device):
        batches = task.draw("calibration", 16, 0).batches(8)
        return score_all(criterion, net, space, batches, 0, task, torch.device(device))

    expected = scores("cpu")
    with pretended(patch) as device:
        found = scores("cuda:1")
    assert device.total > 100
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize(("card", "unknowns", "kind"), [
    ((9, 0), 4608, torch.float64), ((8, 9), 4608, torch.float32), ((8, 9), 576, torch.float32),
    ((8, 9), 288, torch.float64),
])  # fmt: skip
def test_large_systems_are_solved_in_float32_where_float64_is_slow(patch, card, unknowns, kind):
    with pretended(patch):
        patch.setattr(torch.cuda, "get_device_capability", lambda device=None: card)
        assert Compute.choose("cuda:1").solves_in(unknowns) is kind
    assert Compute.choose("cpu").solves_in(unknowns) is torch.float64


def test_all_else_that_only_goes_forwards_runs_there(patch):
    """The dense network, a finalist in the middle of its training, a batch of training with its loss."""
    softer = TrainingSettings(label_smoothing=0.1, mixup=0.2, batch_size=16, device="cuda:1", amp="off")
    with pretended(patch, memory=0) as device:
        here, space = evaluator(resnet20, data(), "cpu")
        there, _ = evaluator(resnet20, data(), "cuda:1")
        state, full = here.dense.state_dict(), space.full
        for metrics in (there.evaluate_dense(), there.glance(full, state)):
            assert metrics["samples"] == 64
        assert there.evaluate_dense()["loss"] == pytest.approx(here.evaluate_dense()["loss"], rel=1e-4)
        assert there.glance(full, state)["loss"] == pytest.approx(here.glance(full, state)["loss"], rel=1e-4)
        losses = []
        for found in (here, there):
            plan, batches = plan_of(found.task, softer, found.compute, 2)
            training = TrainingState(copy.deepcopy(found.dense), plan, 1, found.dense, Cut())
            device.clear()
            batch = next(iter(batches.between(1, 2)))
            assert (device.to_host, device.to_device) == (0, 0)
            with torch.no_grad():
                losses.append(float(training._loss(training._soften(batch, 1))[1]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert device.total > 100


def test_a_hopeless_candidate_is_given_up_half_way(patch):
    settings = replace(SOME, val_samples=640, batch_size=40)
    with pretended(patch) as device:
        there, space = evaluator(resnet20, replace(data(), val=images(640)), "cuda:1", settings)
        best = [0.0] * 20
        device.clear()
        answer = there(space.floor, "proxy", best)
    assert answer["abandoned"]
    assert 320 <= answer["samples"] < 640


def test_dropout_is_seeded_where_it_draws(patch):
    compute = Compute(torch.device("cuda:1"), amp=False)
    with pretended(patch):
        first, second = torch.cuda.default_generators
        before = [g.get_state() for g in (first, second)]
        drawn = []
        for _ in range(2):
            with dropout(0, 3, compute):
                drawn.append(torch.rand(3, generator=second))
                assert torch.equal(first.get_state(), before[0])  # the user's, of a device that is not in use
            second.manual_seed(5)
            second.set_state(before[1])
        assert torch.equal(*drawn)
        assert all(map(torch.equal, before, (g.get_state() for g in (first, second))))
