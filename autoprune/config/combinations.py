"""Settings that depend on one another: what some choose for others, and which make no sense together.

`config` is a `RunConfig`, which is made with the help of this file.
"""

from __future__ import annotations

from typing import Any


def chosen(config: Any) -> dict[str, Any]:
    """The settings, by name, that others choose where nobody has given them.

    Raises:
        ValueError: If settings are given to a method, and there is none.
    """
    found: dict[str, Any] = {}
    if config.budget is None:
        found["budget"] = () if config.front else ("macs<=50%",)
    if not config.strategy:
        found["strategy"] = "nsga2" if config.front else "combined"
    if config.rungs is None:
        found["rungs"] = 1 if config.front or config.finalists < 3 else 3
    if config.prune_when and not config.method:  # plain training until the rule says so
        if config.method_args:
            raise ValueError("method_args: settings of a method, and there is none; those of the rule are "
                             "prune_when_args")  # fmt: skip
        found |= {"method": config.prune_when, "method_args": config.prune_when_args}
        found |= {"prune_when": "", "prune_when_args": {}}
    if config.front:
        from objectives import parse_metrics  # here, because --help need not wait for torch

        found["front"] = parse_metrics(config.front)
    return found


def check_together(config: Any) -> None:
    """Refuse settings that make no sense together.

    Raises:
        ValueError: Naming one of them, and the way out.
    """
    if not (config.budget or config.front):
        raise ValueError("budget: at least one is needed, e.g. macs<=50%")
    if config.train_workers:
        _check_train_workers(config)
    if config.together > 1 and (config.workers or config.devices or config.per_device or config.cluster):
        raise ValueError("together: candidates share the passes of this process, and worker processes evaluate one at "
                         "a time; leave out workers, devices, per_device and cluster, or together")  # fmt: skip
    if config.method:
        _check_method(config)
    if config.prune_when_args and not config.prune_when:
        raise ValueError("prune_when_args: settings of a rule, and there is none; e.g. --prune-when epi")
    if config.recovery_args and config.recovery == "cut":
        raise ValueError("recovery_args: settings of what drives units out, and they are cut at once; e.g. --recovery "
                         "greg1")  # fmt: skip
    if bool(config.budget_list) != (config.method == "nested"):
        raise ValueError("budget_list: goes with --method nested, which trains a network for each budget in one "
                         "set of weights; e.g. --budget 'macs<=50%' --budget-list 30%,15%")  # fmt: skip
    if config.front:
        _check_front(config)


def _check_train_workers(config: Any) -> None:
    """Where Ray Train does not run the training."""
    if not config.cluster:
        raise ValueError("train_workers: Ray starts them; give cluster, e.g. auto, or leave them out and start "
                         "`torchrun --nproc-per-node N -m autoprune finetune RUN` yourself")  # fmt: skip
    if config.trainer:
        raise ValueError(f"train_workers: the trainer '{config.trainer}' is yours and starts its own processes; "
                         "leave one of the two out")  # fmt: skip


def _check_method(config: Any) -> None:
    """Where a method finds one network, here."""
    if config.front:
        raise ValueError(f"method '{config.method}': finds one network under budgets, not a front; leave front out")
    if config.workers or config.devices or config.per_device or config.cluster or config.join:
        raise ValueError(f"method '{config.method}': trains one network in this process; leave out workers, devices, "
                         "per_device, cluster and join")  # fmt: skip
    if config.budget_list and (config.trainer or config.depth == "on"):
        raise ValueError("method 'nested': trains all levels by itself to the end, and each keeps every branch; "
                         "leave out trainer and depth")  # fmt: skip
    if config.recovery != "cut":
        raise ValueError(f"recovery '{config.recovery}': drives out units that a search has found, and here method "
                         f"'{config.method}' finds and drives them out itself; leave out one of the two")  # fmt: skip


def _check_front(config: Any) -> None:
    """Where there are several goals."""
    if config.target:
        raise ValueError("target: one candidate that is good enough is no front; leave target or front out")
    if config.cluster and config.rungs > 1:
        raise ValueError("rungs: Ray stops finalists by their loss alone, which ends the front; leave it at 1")
