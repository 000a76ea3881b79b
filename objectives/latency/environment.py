"""What a latency depends on besides the network: the device, the threads, the versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def cpu_model() -> str:
    """The name of the CPU, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    name = found.get("model name") or found.get("Model") or platform.processor() or platform.machine()
    model = f" family {found['cpu family']} model {found['model']}" if {"cpu family", "model"} <= found.keys() else ""
    return name + model  # virtual machines hide the name, not the family


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def environment(device: str, threads: int, packages: Iterable[str]) -> dict[str, str]:
    """The device and the versions that a measurement belongs to."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_model()
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return {"device": name, "threads": str(threads), "system": f"{platform.system()} {platform.machine()}", **found}
