"""What a GPU would be asked to do, on a pretended one: no tensor on the wrong device, few launches, hardly a wait."""

from dataclasses import replace

import pytest
import torch
from pretend import pretended
from small_images import SOME, data, evaluator, images

from autoprune.compute import Compute
from autoprune.training.dropout import dropout
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
    assert device.to_device == 3  # which units stay; each of two padded shortcuts sends its own


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
