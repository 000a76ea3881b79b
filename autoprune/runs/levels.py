"""Several networks in one: which widths the levels of a run have, what is told of each, and one of them alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.architecture import read_architecture, space_of
from autoprune.config import RunConfig
from autoprune.evaluation import measure_by_class
from autoprune.exporting import export, load
from autoprune.labels import Labels
from autoprune.problem import Problem
from autoprune.reference import ModelReference
from autoprune.tasks import Task
from objectives import Budget, parse
from search_spaces import NestedNetwork, Widths, tensors_in
from search_spaces.tracing import as_call

TOLERANCE = 1e-3  # relative to the largest output


def levels_of(config: RunConfig, problem: Problem) -> dict[str, Widths]:
    """Budget of each level -> its widths, from the largest to the smallest.

    Each level shrinks every group alike, as far as its budget needs, and no group is wider than in the level above:
    uniform widths are the best closed form after a long training (results/benchmarks/quality.md). A latency is
    predicted.

    Raises:
        ValueError: If a budget of `budget_list` is none, is not below the one before, or cannot be reached.
    """
    space = problem.space.standing
    found: dict[str, Widths] = {}
    above = space.full
    for name, budgets in _budgets(config, problem.budgets):
        widths = replace(problem, space=space, budgets=budgets).project(space.full)
        above = space.check(np.minimum(widths, above).tolist())
        found[name] = above
    return found


def _budgets(config: RunConfig, given: tuple[Budget, ...]) -> list[tuple[str, tuple[Budget, ...]]]:
    """Name and budgets of each level."""
    own = given[0] if len(given) == 1 else None
    smaller: list[Budget] = []
    for text in config.smaller_budgets:
        if "<=" not in text and own is None:
            raise ValueError(f"budget_list '{text}': say of which of the {len(given)} budgets, e.g. macs<={text}")
        name, at, where = (own.metric if own else "").partition("@")
        smaller.append(parse(text if "<=" in text else f"{name}<={text}{at}{where}"))
    first = next((b for b in given if b.metric == smaller[0].metric), None)
    for before, budget in zip([first, *smaller], smaller, strict=False):
        if before is None or budget.metric != before.metric or budget.relative != before.relative:
            raise ValueError(f"budget_list '{budget}': all levels must be budgets of one cost that --budget names, in "
                             "the same unit; e.g. --budget 'macs<=50%' --budget-list 30%,15%")  # fmt: skip
        if budget.limit >= before.limit:
            raise ValueError(f"budget_list '{budget}': must be smaller than the one before it, {before}; give them "
                             "from the largest to the smallest")  # fmt: skip
    assert first is not None
    rest = tuple(b for b in given if b is not first)
    return [(str(first), given), *((str(b), (b, *rest)) for b in smaller)]


def check_levels(net: NestedNetwork, example: Any) -> None:
    """Check that units may stand in any order: each level answers what it does alone, in the dense network's order.

    Args:
        net: On the CPU.
        example: What it is called with.

    Raises:
        ValueError: If it does not.
    """
    args, kwargs = as_call(example)
    was, level = net.training, net.level
    net.eval()
    for name in net.names:
        alone, _ = net.alone(name)
        with torch.no_grad():
            found, expected = (tensors_in(n(*args, **kwargs)) for n in (net.switch(name), alone.eval()))
            for a, b in zip(found, expected, strict=True):
                scale = max(1.0, float(b.abs().max())) if b.numel() else 1.0
                if a.shape != b.shape or not torch.allclose(a.double(), b.double(), rtol=0, atol=TOLERANCE * scale):
                    raise ValueError(
                        "method 'nested': this network answers otherwise when the units of its groups stand in another "
                        "order (a module that counts positions, or a `shrink` that ignores the order of what stays?); "
                        "freeze those groups"
                    )
    net.switch(level).train(was)


def about_levels(
    net: NestedNetwork, problem: Problem, task: Task, config: RunConfig, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """What an export tells of each level: its name, widths, costs and measured scores."""
    told, price = [], problem.feasibility.price
    whole, score = price(problem.space.full), task.labels().headline
    for name, widths in net.levels.items():
        alone, _ = net.alone(name)
        scores = {f"pruned_{split}": measure_by_class(alone.eval(), task, split, device=config.device)[0]
                  for split in ("val", "test") if task.has(split)}  # fmt: skip
        pruned = price(widths)
        costs = {cost: {"dense": whole[cost], "pruned": pruned[cost]} for cost in whole}
        told.append({"name": name, "widths": list(widths), "costs": costs, "metrics": scores})
        split, found = next(reversed(scores.items()))
        say(f"level {name}: {score.label} {found[score.name]:.4f} on the {_split(split, task.labels())}")
    return told


def _split(name: str, labels: Labels) -> str:
    return f"{'test' if name.endswith('test') else 'validation'} {labels.samples}"


def export_level(
    best: Path,
    target: Path,
    budget: Budget,
    model: nn.Module | str | None,
    example: Any,
    *,
    reference: ModelReference | None,
    onnx: bool,
    pt2: bool,
    trust: bool,
) -> Path:
    """Export one level of a delivered network alone, as any other pruned network.

    Args:
        best: Where all of them are.
        target: Where it goes.
        budget: Of the level.
        model: The dense network, where the export does not say how it is built.
        example: What it is called with.
        reference: How the dense network is built, where the export is to say so.
        onnx: Also write model.onnx.
        pt2: Also write model.pt2.
        trust: See `load`.

    Raises:
        ValueError: If no level has that budget, or as `load` and `export`.
    """
    architecture = read_architecture(best)
    levels = {level["name"]: level for level in architecture["levels"]}
    if str(budget) not in levels:
        raise ValueError(f"budget '{budget}': this run trained its levels together, {', '.join(levels)}; choose one, "
                         "or train again with it in --budget-list")  # fmt: skip
    net = load(best, model or (reference.build if reference else None), trust=trust)
    assert isinstance(net, NestedNetwork)
    alone, kept = net.alone(str(budget))
    level = levels[str(budget)]
    return export(
        target,
        alone.eval(),
        space=space_of(architecture, best),
        kept=kept,
        reference=reference or ModelReference.from_json(architecture["model"]),
        costs=level["costs"],
        metrics={**{k: v for k, v in architecture["metrics"].items() if k.startswith("dense")}, **level["metrics"]},
        provenance={**architecture["provenance"], "level": str(budget)},
        inputs=architecture.get("input"),
        outputs=architecture.get("output"),
        example_inputs=example,
        onnx=onnx,
        pt2=pt2,
    )


def refuse_levels(directory: Path, verb: str) -> None:
    """Refuse what is done to one network where several are in one.

    Raises:
        ValueError: If an export holds several.
    """
    if (directory / "architecture.json").is_file() and (levels := read_architecture(directory).get("levels")):
        names = ", ".join(level["name"] for level in levels)
        raise ValueError(f"{verb}: '{directory}' holds several networks on the same weights ({names}), which were "
                         "trained together; export one (autoprune export RUN --budget ...), train that")  # fmt: skip
