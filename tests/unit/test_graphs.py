"""What would be one CUDA graph, with a pretended capture: the same numbers, replayed, or one sentence why not."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from capturing import PretendedCapture
from small_images import SOME, data, evaluator
from torch import nn

from autoprune import graphs
from autoprune.compute import Compute
from autoprune.evaluation import Together, together
from autoprune.evaluation.ready import Ready
from autoprune.graphs import WARM, Graph
from autoprune.tasks import as_task
from autoprune.training import Cut, TrainingSettings, finetune, state
from autoprune.training.loop import plan_of
from autoprune.training.parallel import Processes
from autoprune.training.state import TrainingState
from search_spaces.models import resnet20

STEPS = WARM + 5


@pytest.fixture
def capture(monkeypatch):
    """Of all that this process would capture."""
    found, choose = PretendedCapture(), Compute.choose

    def chosen(*args, graphs=False, **kwargs):
        return replace(choose(*args, **kwargs), graphs=graphs)

    monkeypatch.setattr(Compute, "choose", staticmethod(chosen))
    for module in (state, together):
        monkeypatch.setattr(module, "capture_on", lambda device: found)
    return found


def network():
    """With batch-norm, dropout and a layer that nothing reads."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(216, 10)
        )  # fmt: skip


class Looking(nn.Module):
    """Decides by a value."""

    def forward(self, x):
        return x if x.sum() > -1e9 else -x


def trained(net, settings, **more):
    finetune(net, data(), settings, steps=STEPS, **more)
    return net.state_dict()


@pytest.mark.parametrize(
    "more",
    [{}, {"optimizer": "adamw", "label_smoothing": 0.1, "mixup": 0.2}, {"clip": 1.0, "ema": 0.9, "distill": 0.5}],
)
def test_a_training_ends_with_the_same_bits(capture, more):
    settings = TrainingSettings(lr=0.05, batch_size=32, seed=3, amp="off", device="cpu", **more)
    teacher = network().eval() if "distill" in more else None
    expected = trained(network(), settings, teacher=teacher)
    assert capture.captured == 0
    found = trained(network(), replace(settings, cuda_graphs=True), teacher=teacher)
    assert (capture.captured, capture.replayed) == (1, STEPS - WARM)
    assert all(torch.equal(a, b) for a, b in zip(expected.values(), found.values(), strict=True))


def test_what_cannot_be_captured_is_trained_as_it_is(capture):
    settings = TrainingSettings(lr=0.05, batch_size=32, amp="off", device="cpu")
    expected = trained(nn.Sequential(Looking(), network()), settings)
    with pytest.warns(RuntimeWarning, match=r"^training: .* cannot be one CUDA graph \(.*\) and goes on operator by"):
        found = trained(nn.Sequential(Looking(), network()), replace(settings, cuda_graphs=True))
    assert (capture.captured, capture.replayed) == (0, 0)
    assert all(torch.equal(a, b) for a, b in zip(expected.values(), found.values(), strict=True))


@pytest.mark.parametrize(("accumulate", "passes", "processes"), [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 2)])
def test_only_steps_of_one_pass_in_one_process_are_captured(capture, monkeypatch, accumulate, passes, processes):
    monkeypatch.setattr(Processes, "here", lambda: Processes(0, processes))
    monkeypatch.setattr(Processes, "agree_on", lambda *_: None)
    settings = TrainingSettings(lr=0.05, batch_size=32, device="cpu", accumulate=accumulate)
    plan, _ = plan_of(as_task(data()), settings, Compute.choose("cpu", graphs=True), 2)
    captured = TrainingState(network(), plan, passes, None, Cut())._captured
    assert (captured is not None) == (accumulate == passes == processes == 1)


@pytest.mark.parametrize("fidelity", ["raw", "reconstructed"])
def test_candidates_in_one_pass_get_what_each_gets_alone(capture, monkeypatch, fidelity):
    kept = "autoprune.evaluation.evaluator.ready"
    monkeypatch.setattr(kept, lambda draw, compute: Ready(draw.whole(len(draw)), draw))
    asked = replace(SOME, abandon=False, training=TrainingSettings(cuda_graphs=True))
    alone, space = evaluator(resnet20, data(), "cpu", asked)
    several = Together(alone)
    for number in range(WARM + 2):
        drawn = [space.sample(np.random.default_rng([number, k])) for k in range(2)]
        for widths, found in zip(drawn, several(drawn, fidelity), strict=True):
            assert found["loss"] == pytest.approx(alone(widths, fidelity)["loss"], rel=1e-5)
    assert (capture.captured, capture.replayed) == (1, 2)
    read = [weakref.ref(made) for made in alone._reconstructions.values()]
    alone._reconstructions.clear()  # as one that runs out of memory does
    assert all(made() for made in read)  # the graph goes on reading there
    several([space.floor], fidelity)  # another number of them
    assert capture.replayed == 2


def test_samples_that_are_not_kept_on_the_device_are_in_no_graph(capture):
    asked = replace(SOME, abandon=False, training=TrainingSettings(cuda_graphs=True))
    alone, space = evaluator(resnet20, data(), "cpu", asked)
    several = Together(alone)
    for _ in range(WARM + 1):
        several([space.floor], "raw")
    assert capture.captured == 0


def test_a_graph_is_run_as_it_is_first_then_captured_once():
    capture, x = PretendedCapture(), torch.zeros(3)
    graph = Graph(lambda: (x + 1, [x * 2]), "this", capture)
    for number in range(WARM + 3):
        x.fill_(number)
        one, (two,) = graph()
        assert (one[0], two[0]) == (number + 1, 2 * number)
        assert graph.is_captured == (number >= WARM)
    assert capture.captured == 1


def test_there_are_no_graphs_on_a_cpu():
    assert graphs.capture_on(torch.device("cpu")) is None
    assert not Compute.choose("cpu", graphs=True).graphs
