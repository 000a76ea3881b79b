"""Which worker lives where: a device, a share of its memory, and so many CPU threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

MEMORY = 0.9  # of a GPU's memory that its workers share; the rest is for the parent
CONTEXT = 0.5 * 2**30  # bytes that CUDA and its libraries take in each process, beside what torch allocates


CROWD = 64  # workers that any machine is trusted with, and 8 cores more


@dataclass(frozen=True)
class Slot:
    """Room for one worker.

    Attributes:
        device: "cpu", "cuda:1" ...
        share: Of the device's memory that it may take, above 0 to 1; only CUDA can be told.
        threads: CPU threads that it may use.
    """

    device: str = "cpu"
    share: float = 1.0
    threads: int = 1


@dataclass(frozen=True)
class Machine:
    """What the workers of a machine share.

    Attributes:
        devices: That exist: "cuda:0", "cuda:1", ..., "cpu".
        cores: CPU cores.
        most: CPU threads that one worker may use at most.
    """

    devices: tuple[str, ...] = ("cpu",)
    cores: int = 1
    most: int = 1

    @classmethod
    def here(cls) -> Machine:
        """This one, as far as this process may use it; OMP_NUM_THREADS is heeded."""
        kind = torch.accelerator.current_accelerator(check_available=True)
        count = torch.accelerator.device_count() if kind is not None else 0
        found = [f"{kind.type}:{index}" for index in range(count)] if kind is not None and kind.type == "cuda" else []
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        limit = os.environ.get("OMP_NUM_THREADS", "")
        return cls((*found, "cpu"), cores, max(1, int(limit)) if limit.isdecimal() else cores)


def assign_slots(
    workers: int = 0, devices: Sequence[str] = (), per_device: int = 0, machine: Machine | None = None
) -> tuple[Slot, ...]:
    """The slot of each worker; they are dealt to the devices in turn.

    Args:
        workers: How many; 0 means one on each device that is named, or `per_device` on each; if neither is given there
            are no worker processes.
        devices: "cuda:0", or several in one text, "cuda:0,cuda:1"; none: every GPU, or the CPU if there is none.
        per_device: At most so many workers on one device; 0: any number.
        machine: What there is to share; default: this one.

    Raises:
        ValueError: If a device does not exist or is named twice, there are more workers than slots, or a device that
            is named gets no worker.
    """
    if workers < 0 or per_device < 0:
        raise ValueError(f"workers and per_device: must be at least 0, got {workers} and {per_device}")
    machine = machine or Machine.here()
    named = _names(devices)
    if missing := [name for name in named if name not in machine.devices]:
        known = ", ".join(machine.devices)
        raise ValueError(f"devices: '{missing[0]}' does not exist on this machine; there are: {known}")
    if twice := [name for name in named if named.count(name) > 1]:
        raise ValueError(f"devices: '{twice[0]}' is named twice; name it once and give per_device=2 for two workers")
    places = named or [name for name in machine.devices if name.startswith("cuda:")] or ["cpu"]
    if not workers and (named or per_device):
        workers = len(places) * max(1, per_device)
    if per_device and workers > (slots := len(places) * per_device):
        raise ValueError(
            f"workers: {workers} are more than the {slots} slots (per_device={per_device} on {', '.join(places)}); "
            f"give workers={slots}, more devices or a larger per_device"
        )
    if workers > (most := max(CROWD, machine.cores * CROWD // 8)):
        text = f"workers: {workers} are far more than {machine.cores} CPU cores can serve; give at most {most}"
        raise ValueError(text)
    if workers < len(named):
        raise ValueError(
            f"devices: {', '.join(named[workers:])} would get none of the {workers} workers; give workers="
            f"{len(named)} or more, or name fewer devices"
        )
    homes = [places[index % len(places)] for index in range(workers)]
    threads = max(1, min(machine.cores // max(1, workers), machine.most))
    return tuple(Slot(home, MEMORY / homes.count(home), threads) for home in homes)


def in_free_memory(slots: Sequence[Slot], free_of: Callable[[str], tuple[float, float] | None]) -> tuple[Slot, ...]:
    """The same slots, with shares of what is free where others hold a part of a device.

    Args:
        slots: Of this machine.
        free_of: Device -> (bytes that are free, bytes of it); None where nobody says.
    """
    found = list[Slot]()
    for slot in slots:
        count = sum(other.device == slot.device for other in slots)
        known = free_of(slot.device)
        found.append(slot if known is None else replace(slot, share=min(slot.share, known[0] / known[1] / count)))
    return tuple(found)


def free_memory(device: str) -> tuple[float, float] | None:
    """Bytes that are free on a device, and all; None unless this process has a context there: to ask would make one."""
    has_context = getattr(torch._C, "_cuda_hasPrimaryContext", lambda index: False)
    if not device.startswith("cuda:") or not torch.cuda.is_initialized() or not has_context(torch.device(device).index):
        return None
    return torch.cuda.mem_get_info(device)


def allowed(share: float, free: float, total: float) -> float:
    """The fraction of a GPU that torch may allocate in a worker: its share, or what is free, less its own context.

    Args:
        share: Of the memory, above 0 to 1.
        free: Bytes, with the worker's context already there.
        total: Bytes.
    """
    return max(0.01, min(share * total - CONTEXT, free) / total)


def _names(devices: Sequence[str]) -> list[str]:
    """Flat, with "cuda" as "cuda:0"; "auto" names nothing."""
    texts = [text.strip() for item in devices for text in item.split(",")]
    return [text if ":" in text or text == "cpu" else f"{text}:0" for text in texts if text not in ("", "auto")]
