"""What only a real GPU can show. Skipped where there is none; `make gpu` runs them and notes what they found."""

import copy
import multiprocessing
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from on_device import Jobs, MakeUnlucky, fill, tell_a_broken_context, train_deterministically
from small_images import SOME, data, evaluator, images, traced

from autoprune.controller import Job
from autoprune.criteria import score_all
from autoprune.data import ImageData
from autoprune.evaluation import Together
from autoprune.failures import device_broken, out_of_memory
from autoprune.graphs import WARM
from autoprune.tasks import as_task
from autoprune.training import TrainingSettings, finetune
from autoprune.workers import run_processes
from autoprune.workers.slots import assign_slots
from search_spaces import trace, verify
from search_spaces.models import resnet20

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: `make gpu` on a machine with one"),
]
DEVICE = f"cuda:{torch.cuda.device_count() - 1}" if torch.cuda.is_available() else "cuda"


def widths(space, share=0.6):
    return space.clip(share * g.size for g in space.groups)


@pytest.mark.parametrize("fidelity", ["raw", "proxy", "reconstructed", "short"])
def test_numbers_are_those_of_the_cpu(fidelity):
    here, space = evaluator(resnet20, data(), "cpu")
    there, _ = evaluator(resnet20, data(), DEVICE)
    tolerance = 0.1 if fidelity == "short" else 2e-2  # other sizes of batches for batch-norm, and training drifts
    assert there(widths(space), fidelity)["loss"] == pytest.approx(here(widths(space), fidelity)["loss"], rel=tolerance)


@pytest.mark.parametrize("fidelity", ["raw", "proxy", "reconstructed"])
def test_the_same_widths_get_the_same_bits(fidelity):
    first, space = evaluator(resnet20, data(), DEVICE)
    second, _ = evaluator(resnet20, data(), DEVICE)
    found = [e(widths(space), fidelity)["batch_losses"] for e in (first, second, first)]
    assert found[0] == found[1] == found[2]


def test_nothing_waits_inside_a_candidate():
    there, space = evaluator(resnet20, data(), DEVICE, replace(SOME, amp="auto"))
    there(space.floor, "reconstructed")
    kept = space.kept(widths(space), there.scores)
    torch.cuda.synchronize(DEVICE)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.no_grad():
            stays = there._dresser.stays(kept, packed=True)
            there.reconstruction(there.settings.fit_samples)(there._dresser.dress(stays).eval(), stays)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("criterion", ["group_fisher", "taylor", "obd", "thinet", "nisp"])  # go backwards, too
def test_scores_are_those_of_the_cpu(criterion):
    (net, space), task = traced(resnet20), as_task(data())
    found = []
    for device in ("cpu", DEVICE):
        batches = task.draw("calibration", 32, 0).batches(16)
        found.append(score_all(criterion, net, space, batches, 0, task, torch.device(device)))
    for here, there in zip(*found, strict=True):
        assert np.corrcoef(here, there)[0, 1] > 0.99


def test_a_network_is_traced_and_verified_there():
    net, space = traced(resnet20)
    there, example = copy.deepcopy(net).to(DEVICE), data().example.to(DEVICE)
    assert trace(there, example).fingerprint == space.fingerprint
    assert verify(there, space, example) < 1e-6


def test_a_training_as_one_graph_has_the_same_losses():
    losses = []
    for graphs in (False, True):
        net = copy.deepcopy(traced(resnet20)[0])
        asked = TrainingSettings(device=DEVICE, amp="off", batch_size=32, lr=0.01, cuda_graphs=graphs)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            losses.append(finetune(net, data(), asked, steps=3 * WARM).losses)
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


@pytest.mark.parametrize("fidelity", ["raw", "proxy", "reconstructed"])
@pytest.mark.parametrize("graphs", [False, True])
def test_candidates_in_one_pass_get_what_each_gets_alone(fidelity, graphs):
    asked = replace(SOME, abandon=False, training=TrainingSettings(cuda_graphs=graphs))
    alone, space = evaluator(resnet20, data(), DEVICE, asked)
    several = Together(alone)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # what cannot be one graph is said by one
        for number in range(WARM + 2):
            drawn = [space.sample(np.random.default_rng([number, k])) for k in range(3)]
            found = several(drawn, fidelity)
    for chosen, metrics in zip(drawn, found, strict=True):
        assert metrics["loss"] == pytest.approx(alone(chosen, fidelity)["loss"], rel=1e-2)  # TF32 in convolutions


def test_a_full_card_is_told_from_a_broken_one():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, device=DEVICE)
    assert out_of_memory(caught.value)
    assert not device_broken(caught.value)
    assert float(torch.ones(2, device=DEVICE).sum()) == 2


def test_on_a_card_that_is_full_a_candidate_is_tried_with_half():
    parts = images(256, 64), images(256, 64), images(0, 64)
    large = ImageData(*parts, (0.5,) * 3, (0.25,) * 3, tuple("0123456789"))
    asked = replace(SOME, bn_samples=256, val_samples=256, batch_size=256, abandon=False)
    there, space = evaluator(resnet20, large, DEVICE, asked)
    torch.cuda.reset_peak_memory_stats(DEVICE)
    there(widths(space), "proxy")
    needs = torch.cuda.max_memory_allocated(DEVICE)
    for share in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4):  # where memory is short cuDNN does with less
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(DEVICE)
        rest = torch.empty(max(0, free - int(share * needs)), dtype=torch.uint8, device=DEVICE)
        found = there(widths(space), "proxy")
        del rest
        if "halved_batch" in found:
            break
    assert found["halved_batch"] == 128


def started(target, *args):
    """A process and the end of a pipe to it."""
    mine, other = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=target, args=(*args, other))
    child.start()
    return child, mine


def test_a_broken_context_is_recognised():
    child, pipe = started(tell_a_broken_context, DEVICE)
    try:
        assert pipe.poll(120)
        assert pipe.recv() is True
    finally:
        child.kill()
        child.join(10)


def test_two_workers_on_a_card_keep_to_their_shares():
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    children = [started(fill, slot) for slot in assign_slots(2, (DEVICE,), 2)]
    try:
        assert all(pipe.poll(120) for _, pipe in children)
        taken = [pipe.recv() for _, pipe in children]
    finally:
        for child, _ in children:
            child.kill()
            child.join(10)
    assert all(0.2 * total < found <= 0.45 * total for found in taken)


def test_a_worker_that_is_killed_and_one_whose_context_breaks_are_replaced(tmp_path):
    here, space = evaluator(resnet20, data(), DEVICE, replace(SOME, abandon=False))
    jobs = Jobs(Job(n, widths(space, 0.4 + 0.1 * n), "proxy") for n in range(4))
    run_processes(jobs, MakeUnlucky(tmp_path), assign_slots(2, (DEVICE,), 2))
    assert any("was killed by SIGKILL" in how for how in jobs.losses)
    assert any("its device is broken" in how for how in jobs.losses)
    assert len(jobs.losses) == 2
    for job in jobs.all:
        assert jobs.results[job.number]["loss"] == pytest.approx(here(job.widths, "proxy")["loss"], rel=1e-5)


def test_trainings_have_the_same_bits_where_that_is_asked_for():
    """In a process of its own, as it holds for a whole process."""
    found = []
    for _ in range(2):
        child, pipe = started(train_deterministically, DEVICE)
        try:
            assert pipe.poll(180)
            found.append(pipe.recv())
        finally:
            child.kill()
            child.join(10)
    assert found[0] == found[1]


def test_a_search_on_the_device_delivers_a_file_that_holds_its_budget(tmp_path, monkeypatch):
    import optuna

    if getattr(optuna, "IS_MISSING", False):
        pytest.skip("optuna is not installed here")
    monkeypatch.chdir(tmp_path)
    import autoprune
    from objectives import Macs

    found = autoprune.search(
        resnet20(), data(), budget="macs<=50%", strategy="evolution", trials=6, finalists=1, epochs=0.2, score_rounds=1,
        short_steps=2, device=DEVICE, val_samples=64, bn_samples=48, name="gpu", progress=False,
    )  # fmt: skip
    smaller, example = autoprune.load(found.run_dir / "best", resnet20), data().example
    spaces = [trace(net.eval(), example) for net in (resnet20(), smaller)]
    full, now = (Macs(space)(space.full) for space in spaces)
    assert 0 < now <= 0.5 * full
    assert smaller(example).shape == (1, 10)


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "tensorrt"])
def test_backends_measure_the_device_they_name(name):
    from objectives.latency import BACKENDS, Setting

    net, x = resnet20().eval(), torch.randn(64, 3, 32, 32)
    try:
        backend = BACKENDS[name](Setting(64, 1, DEVICE))
    except ValueError as error:
        pytest.skip(str(error))
    found = backend.measure({"net": net}, x)["net"].median
    there, moved = resnet20().eval().to(DEVICE), x.to(DEVICE)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.inference_mode(), torch.cuda.device(DEVICE):
        for _ in range(5):
            there(moved)
        begin.record()
        for _ in range(20):
            there(moved)
        end.record()
        torch.cuda.synchronize(DEVICE)
    assert found < 3 * begin.elapsed_time(end) / 20  # a CPU would take tens of times as long
