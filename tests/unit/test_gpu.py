"""What only a real GPU can show. Skipped where there is none; `make gpu` runs them and notes what they found."""

import multiprocessing
import os
import time
from dataclasses import replace

import pytest
import torch
from small_images import SOME, data, evaluator

from autoprune.failures import device_broken, out_of_memory
from autoprune.workers.slots import assign_slots
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


def test_a_full_card_is_told_from_a_broken_one():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, device=DEVICE)
    assert out_of_memory(caught.value)
    assert not device_broken(caught.value)
    assert float(torch.ones(2, device=DEVICE).sum()) == 2


def test_a_candidate_that_does_not_fit_is_tried_with_half():
    there, space = evaluator(resnet20, data(), DEVICE)
    whole, seen = there._score, []

    def tight(found, plan, rival, clock, batch, *rest):
        seen.append(batch)
        if batch == there.settings.batch_size:
            torch.empty(2**50, device=DEVICE)
        return whole(found, plan, rival, clock, batch, *rest)

    there._score = tight
    assert there(widths(space), "proxy")["halved_batch"] == there.settings.batch_size // 2
    assert len(seen) == 2


def _break(pipe):
    try:
        torch.zeros(2, device=DEVICE)[torch.tensor([2**20], device=DEVICE)].sum().item()
        pipe.send("nothing happened")
    except RuntimeError as error:
        pipe.send(device_broken(error))
    pipe.close()
    os._exit(0)


def test_a_broken_context_is_recognised():
    mine, other = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_break, args=(other,))
    child.start()
    try:
        assert mine.poll(120)
        assert mine.recv() is True
    finally:
        child.kill()
        child.join(10)


def _fill(slot, pipe):
    from autoprune.workers.child import _take_share

    _take_share(slot)
    blocks = []
    try:
        while True:
            blocks.append(torch.empty(2**26, dtype=torch.uint8, device=slot.device))
    except torch.OutOfMemoryError:
        pipe.send(len(blocks) * 2**26)
    time.sleep(10)


def test_two_workers_on_a_card_keep_to_their_shares():
    slots = assign_slots(2, (DEVICE,), 2)
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    children, ends = [], []
    for slot in slots:
        mine, other = multiprocessing.Pipe()
        children.append(multiprocessing.get_context("spawn").Process(target=_fill, args=(slot, other)))
        children[-1].start()
        ends.append(mine)
    try:
        assert all(end.poll(120) for end in ends)
        taken = [end.recv() for end in ends]
    finally:
        for child in children:
            child.kill()
            child.join(10)
    assert all(0.2 * total < bytes_ <= 0.45 * total for bytes_ in taken)


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
