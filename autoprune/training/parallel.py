"""Several processes that train one network: each takes its part of every batch, and gradients are added up.

Whoever starts them (torchrun, Ray Train) sets torch.distributed up or says so in the environment; without, there is one
process. All of them draw the same batches from the seed and read their own part of each, so the training does not
depend on how many there are, but for what looks at one part only: each process normalises by the statistics of its part
(as PyTorch's DistributedDataParallel does) and their running averages are averaged; dropout is drawn for each part by
itself.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from autoprune.tasks import Portion
from autoprune.training.methods.method import Method

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """Those that train together.

    Attributes:
        rank: Number of this one.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Processes:
        """As torch.distributed is set up; one process where it is not."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def check(self, batch: int, method: Method) -> None:
        """Check that a batch of so many samples can be shared, and that the method learns the same in each.

        Raises:
            ValueError: If not.
        """
        if method.by_samples and self.size > 1:
            raise ValueError(f"method '{method.name}': learns from the samples that one process sees, so several "
                             "would not agree; train in one process, or with a method of the weights, e.g. greg2 or "
                             "reweighted")  # fmt: skip
        if batch < self.size:
            raise ValueError(f"training: the {batch} samples of a batch cannot be shared by {self.size} processes; "
                             "give a larger batch_size, or fewer processes")  # fmt: skip

    def next(self, portions: Iterator[Portion], count: int, device: torch.device) -> list[Portion]:
        """So many more, or as many as are left, each with what the others have of it.

        What one process cannot read stops all of them with one sentence.

        Args:
            portions: Of this process.
            count: How many.
            device: Over which they speak.

        Raises:
            ValueError: What reading them raised, here or elsewhere.
        """
        if self.size == 1:
            return list(itertools.islice(portions, count))
        found, error = list[Portion](), None
        try:
            found = list(itertools.islice(portions, count))
        except Exception as caught:
            error = caught
        counts = [float(portion.count) for portion in found] + [0.0] * (count - len(found))
        told = torch.tensor([float(error is not None), *counts], device=device)
        distributed.all_reduce(told)
        failed, *whole = told.tolist()
        if failed:
            said = self.united([] if error is None else [str(error)])
            raise error or ValueError(said[0])
        return [replace(p, elsewhere=round(n) - p.count) for p, n in zip(found, whole, strict=False)]

    def any(self, here: bool, device: torch.device) -> bool:
        """Whether something is so in any of them."""
        if self.size == 1:
            return here
        told = torch.tensor([float(here)], device=device)
        distributed.all_reduce(told)
        return bool(told.item())

    def united(self, names: Iterable[str]) -> list[str]:
        """What any of them names, each once, in order."""
        if self.size == 1:
            return sorted(names)
        told: list[Any] = [None] * self.size
        distributed.all_gather_object(told, list(names))
        return sorted({name for some in told for name in some})

    def add_gradients(self, parameters: Sequence[Tensor], loss: Tensor) -> Tensor:
        """Each parameter's gradients become their sum over all processes; who has none counts as 0.

        Args:
            parameters: That are trained.
            loss: Of this process's part.

        Returns:
            The sum of the losses.
        """
        if self.size == 1:
            return loss
        having = [float(p.grad is not None) for p in parameters]
        told = torch.tensor([*having, float(loss)], dtype=torch.float64 if loss.device.type == "cpu" else None)
        told = told.to(loss.device)
        distributed.all_reduce(told)
        *anywhere, total = told.tolist()
        used = [p for p, has in zip(parameters, anywhere, strict=True) if has]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._reduced([p.grad for p in used if p.grad is not None])
        return loss.new_tensor(total)

    def average_buffers(self, model: nn.Module) -> None:
        """Running averages become their mean over all processes."""
        if self.size > 1:
            self._reduced([b for b in model.buffers() if b.is_floating_point()], 1 / self.size)

    def said_by_first(self, say: Callable[[], T]) -> T:
        """What the first process says; the others do not ask."""
        if self.size == 1:
            return say()
        told = [say() if self.is_first else None]
        distributed.broadcast_object_list(told)
        return told[0]  # type: ignore[return-value]

    def agree_on(self, model: nn.Module) -> None:
        """All begin with the weights of the first process."""
        if self.size > 1:
            for tensor in (*model.parameters(), *model.buffers()):
                distributed.broadcast(tensor.detach(), 0)

    def _reduced(self, tensors: Sequence[Tensor], factor: float = 1.0) -> None:
        """Sums over all processes in place, in one go for each kind of number."""
        for dtype in {t.dtype: None for t in tensors}:
            some = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.detach().reshape(-1) for t in some])
            distributed.all_reduce(flat)
            for tensor, summed in zip(some, (flat * factor).split([t.numel() for t in some]), strict=True):
                tensor.detach().copy_(summed.view(tensor.shape))


def starts_first() -> bool:
    """Whether this is the process that speaks: of those that torchrun or Ray Train has started, or the only one."""
    if distributed.is_available() and distributed.is_initialized():
        return Processes.here().is_first
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0"


@contextmanager
def process_group(device: str = "auto") -> Iterator[Processes]:
    """The processes that torchrun has started, for the time of the block; one where it has not.

    Args:
        device: "cpu": they meet over gloo; else over NCCL, each on the GPU of its number on the machine.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or distributed.is_initialized():
        yield Processes.here()
        return
    from torch.distributed.distributed_c10d import PrefixStore  # here, because not every build of PyTorch has it
    from torch.distributed.rendezvous import rendezvous

    has_gpu = device != "cpu" and torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, size = next(rendezvous("env://"))
    # torchrun's store outlives a restart: where those of an earlier attempt listened must not be found in it
    store = PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    distributed.init_process_group("nccl" if has_gpu else "gloo", store=store, rank=rank, world_size=size)
    try:
        yield Processes.here()
    finally:
        distributed.destroy_process_group()
