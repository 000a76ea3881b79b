"""Out of memory: everything halved that passes at once, once; and a candidate's metrics say so."""

import dataclasses
import gc

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.config import RunConfig
from autoprune.data import ImageData, Split, load
from autoprune.errors import CandidateFailed
from autoprune.evaluation import EvaluationSettings, Evaluator
from autoprune.evaluation.memory import within_memory
from autoprune.failures import device_broken, out_of_memory
from autoprune.problem import Problem
from autoprune.runs import Recipe
from autoprune.training import TrainingSettings, finetune
from autoprune.workers.pickle_file import PickleFile
from search_spaces import trace

SETTINGS = EvaluationSettings(
    bn_samples=200, fit_samples=60, val_samples=300, short_steps=6, batch_size=64, abandon=False, amp="off"
)
RESERVE = 2**62  # bytes that no machine has


class Hungry(nn.Module):
    """Passes on what it gets, and needs more memory than there is for more than so many images."""

    most, how = 10**9, "cuda"

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > Hungry.most:
            if Hungry.how == "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            torch.empty(RESERVE, dtype=torch.uint8)  # the CPU allocator's own refusal
        return x


ACCELERATOR = getattr(torch, "AcceleratorError", RuntimeError)  # torch 2.8 and later


@pytest.mark.parametrize(
    ("error", "memory", "broken"),
    [
        (MemoryError(), True, False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True, False),
        (ACCELERATOR("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True, False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True, False),
        (RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate`"), True, False),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory"), True, False),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True, False),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB)"), True, False),
        (RuntimeError("std::bad_alloc"), True, False),
        (ACCELERATOR("CUDA error: an illegal memory access was encountered"), False, True),
        (ACCELERATOR("CUDA error: device-side assert triggered"), False, True),
        (RuntimeError("CUDA error: unspecified launch failure"), False, True),
        (RuntimeError("HIP error: an illegal memory access was encountered"), False, True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"), False, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), False, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. Non-contiguous input"), False, False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), False, False),
        (ValueError("CUDA error: said by somebody who does not know"), False, False),
        (OSError("out of memory"), False, False),
    ],
)
def test_what_an_error_means_for_those_who_come_next(error, memory, broken):
    assert (out_of_memory(error), device_broken(error)) == (memory, broken)
    wrapped = ValueError("a plug-in's own words")
    wrapped.__cause__ = error
    assert device_broken(wrapped) is broken


@pytest.fixture(autouse=True)
def fed(monkeypatch):
    monkeypatch.setattr(Hungry, "most", 10**9)
    monkeypatch.setattr(Hungry, "how", "cuda")


@pytest.fixture(scope="module")
def data():
    return load("digits", val_images=300)


@pytest.fixture(scope="module")
def make(data):
    """An evaluator of a network with batch-norm, or of one without anything that sees its batch."""
    made = {}

    def make(norm=True, settings=SETTINGS):
        if norm not in made:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                layer = nn.BatchNorm2d(8) if norm else nn.Identity()
                model = nn.Sequential(
                    nn.Conv2d(1, 8, 3, padding=1), layer, nn.ReLU(), Hungry(), nn.Conv2d(8, 8, 3, 2), nn.Flatten(),
                    nn.Linear(72, 10),
                ).eval()  # fmt: skip
            space = trace(model, data.example)
            made[norm] = model, space, tuple(np.arange(g.size) / 9 for g in space.groups)
        return Evaluator(made[norm][0], data, *made[norm][1:], settings)

    return make


def half(evaluator):
    return tuple(max(1, g.size // 2) for g in evaluator.space.groups)


def watch(evaluator):
    """The batch sizes that the candidate's network is given."""
    (hungry,) = (m for m in evaluator._dresser.instance.modules() if isinstance(m, Hungry))
    hungry.seen.clear()
    return hungry.seen


@pytest.mark.parametrize("how", ["cuda", "cpu"])
@pytest.mark.parametrize("fidelity", ["raw", "proxy", "reconstructed", "short"])
def test_half_the_batch_is_tried_before_it_counts(make, fidelity, how, monkeypatch):
    evaluator = make()
    widths = half(evaluator)
    plain = evaluator(widths, fidelity)
    assert "halved_batch" not in plain
    monkeypatch.setattr(Hungry, "how", how)
    monkeypatch.setattr(Hungry, "most", 34)  # 200 images of batch-norm pass in six even batches, not in batches of 32
    seen = watch(evaluator)
    metrics = evaluator(widths, fidelity)
    assert metrics["halved_batch"] == 32
    assert sum(n > Hungry.most for n in seen) == 1  # the attempt at the whole batch ends at its first pass
    assert metrics["samples"] == 300
    assert metrics["loss"] == pytest.approx(plain["loss"], abs=0.1)
    assert evaluator(widths, fidelity)["loss"] == metrics["loss"]  # whichever worker it meets, and whenever
    monkeypatch.setattr(Hungry, "most", 10**9)
    again = evaluator(widths, fidelity)  # nothing is left of it
    assert again["loss"] == plain["loss"]
    assert "halved_batch" not in again


@pytest.mark.parametrize("fidelity", ["raw", "short"])
def test_where_nothing_sees_its_batch_halving_changes_no_result(make, fidelity, monkeypatch):
    evaluator = make(norm=False)
    widths = half(evaluator)
    plain = evaluator(widths, fidelity)
    monkeypatch.setattr(Hungry, "most", 32)
    halved = evaluator(widths, fidelity)
    assert halved["halved_batch"] == 32
    assert halved["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert halved["batch_losses"] == pytest.approx(plain["batch_losses"], rel=1e-4)


def test_half_is_tried_once(make, monkeypatch):
    evaluator = make()
    monkeypatch.setattr(Hungry, "most", 31)
    seen = watch(evaluator)
    with pytest.raises(CandidateFailed, match=r"out of memory on cpu at widths .* in batches of 64 and of 32; lower"):
        evaluator(half(evaluator))
    assert len([n for n in seen if n > 31]) == 2
    tiny = make(settings=dataclasses.replace(SETTINGS, batch_size=3))
    monkeypatch.setattr(Hungry, "most", 1)
    with pytest.raises(CandidateFailed, match="in batches of 3; lower"):
        tiny(half(tiny))


def test_the_dense_network_may_be_too_large_as_well(make, monkeypatch):
    evaluator = make()
    plain = evaluator.evaluate_dense()["loss"]
    monkeypatch.setattr(Hungry, "most", 32)
    assert evaluator.evaluate_dense()["loss"] == pytest.approx(plain, rel=1e-5)
    monkeypatch.setattr(Hungry, "most", 8)
    with pytest.raises(ValueError, match="out of memory on cpu with the dense network in batches of 64 and of 32"):
        evaluator.evaluate_dense()


def test_what_the_first_attempt_held_is_free_when_the_second_begins():
    held, alive = [], []

    class Big:
        def __init__(self):
            held.append(self)

        def __del__(self):
            alive.append("freed")

    def score(batch):
        big = Big()
        held.clear()
        if batch == 8:
            raise MemoryError(f"{big}")
        return {"freed": len(alive)}

    assert within_memory(score, 8, torch.device("cpu"), "") == {"freed": 1, "halved_batch": 4}


def test_micro_batches_add_up_to_the_batch(data):
    """Without batch-norm and dropout two halves are the whole, to the last digits."""
    one, two = (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2))
    two.load_state_dict(one.state_dict())
    settings = TrainingSettings(batch_size=33, amp="off")
    logs = [finetune(net, data, settings, steps=9, micro_batches=n) for n, net in ((1, one), (2, two))]
    assert logs[0].losses == pytest.approx(logs[1].losses, rel=1e-5)
    torch.testing.assert_close(one[1].weight, two[1].weight)
    with pytest.raises(ValueError, match="micro_batches must lie between 1 and the batch of 8, got 9"):
        finetune(one, data, TrainingSettings(batch_size=8), steps=1, micro_batches=9)


def test_a_worker_holds_one_copy_of_the_images_and_of_the_weights():
    """Made from a pickle file as in a child process; not even garbage that waits for its collection is left."""
    train, val, test = (
        Split(torch.zeros(n, 1, 8, 8, dtype=torch.uint8), torch.arange(n) % 10) for n in (901, 401, 701)
    )
    data = ImageData(train, val, test, (0.5,), (0.5,), tuple("0123456789"))
    model = nn.Sequential(nn.Conv2d(1, 37, 3), nn.BatchNorm2d(37), nn.ReLU(), nn.Flatten(), nn.Linear(1332, 10)).eval()
    space = trace(model, data.example)
    scores = tuple(np.arange(g.size, dtype=np.float64) for g in space.groups)
    config = RunConfig(val_samples=101, bn_samples=102, device="cpu")
    pickle_file = PickleFile(Recipe(config, Problem(space, (), scores), model, data))
    del train, val, test, data, model
    gc.collect()
    gc.disable()
    try:
        evaluate = pickle_file.open()("cpu")
        tensors = [o for o in gc.get_objects() if type(o) in (torch.Tensor, nn.Parameter)]
        storages = {}
        for tensor in tensors:
            storages.setdefault(tensor.untyped_storage().nbytes(), set()).add(tensor.untyped_storage().data_ptr())
        sizes = {size: len(places) for size, places in storages.items()}
        assert sizes[901 * 64] == 1
        assert sizes[10 * 1332 * 4] == 1  # the candidate's network shares the dense weights until it is dressed
        assert 401 * 64 not in sizes  # only the 101 images that score
        assert sizes[101 * 64] == 1
        assert 701 * 64 not in sizes
    finally:
        gc.enable()
    del evaluate
