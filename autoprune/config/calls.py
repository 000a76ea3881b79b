"""What the settings of a run name that is imported, run or connected to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.config import OBJECTS, RunConfig
from autoprune.criteria.saved import SUFFIX
from autoprune.data.load import FOLDERS
from autoprune.trust import Call, unknown
from objectives import Budget, parse
from objectives.given import PREFIX


def calls_of(config: RunConfig) -> tuple[Call, ...]:
    """All of them, in the order of the settings. What has a name of its own here (`l1`, `evolution`) is none."""
    calls = []

    def add(kind: str, name: str, *settings: str, args: Mapping[str, Any] | None = None) -> None:
        calls.append(Call(kind, name, args or {}, settings))

    if config.model:
        add("model", config.model, "model", "model_args", args=config.model_args)
    if ":" in config.data and config.data.partition(":")[0] not in FOLDERS:
        add("data", config.data, "data")
    if config.task:
        add("task", config.task, "task")
    for setting in ("budget", "front"):
        for text in getattr(config, setting):
            priced = parse(text) if setting == "budget" else Budget(text, 1.0, relative=True)
            if priced.target and ":" in priced.target.backend:
                add("latency backend", priced.target.backend, setting)
            elif not priced.target and ":" in priced.metric:
                add("cost", priced.metric, setting)
    for setting in (*OBJECTS, "recovery", "method"):
        name = getattr(config, setting)
        if ":" in name and not name.startswith(PREFIX) and not (setting == "criterion" and name.endswith(SUFFIX)):
            add(setting, name, setting)
    if config.latency_command:
        add("latency command", config.latency_command, "latency_command")
    if config.ledger:
        add("ledger", config.ledger, "ledger")
    if config.cluster not in ("", "auto", "local"):
        add("cluster", config.cluster, "cluster")
    return tuple(calls)


def not_called(config: RunConfig) -> str:
    """What a reader of a run is told of what has not been called, in words; empty for nothing."""
    return " and ".join(str(call) for call in unknown(calls_of(config)))
