"""The peers, each asked for a network of at most so many MACs: Torch-Pruning 1.6 and ModelOpt 0.47 FastNAS.

Wanted: `pip install autoprune[peers]`. Torch-Pruning is asked in two ways, for the whole network and for the inner
widths of its blocks only; on the ResNets of CIFAR only the second works: its tracing cannot follow the zero-padded
residual stream (it crashes once a stream is chosen; ModelOpt freezes it by itself). What they answer is turned into the
units that stay of each of our groups and checked (same function, same MACs), so that everything after that is the same
for everyone.
"""

from __future__ import annotations

import copy
import fcntl
import json
import re
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from protocol import macs
from torch import nn
from torch.nn import functional

from autoprune.allocation.streams import streams
from autoprune.compute import Compute
from autoprune.data import ImageData, Split
from autoprune.evaluation import measure
from autoprune.files import write_text
from autoprune.recovery import reestimate_evenly
from autoprune.tasks import as_task
from search_spaces import SearchSpace, prune, trace

EXAMPLE = torch.zeros(1, 3, 32, 32)
SCORING = 2048  # training images that give Taylor's gradients, as many as score our channels
BISECTIONS = 14


class OutOfReach(ValueError):
    """The peer has no network inside the budget."""


HIGH = (0.8, 0.85, 0.9, 0.95)  # ratios that are tried besides the bisection


def torch_pruning(
    data: ImageData, dense: nn.Module, limit: float, seed: int, *, rule: str, inner: bool
) -> dict[str, Any]:
    """Torch-Pruning has no MACs budget: its pruning ratio is bisected. All else as the library has it.

    Pruned at once and in ten steps (its examples show both); the one that validates better untrained is its answer.
    Towards a ratio of 1 it prunes less and less (it never empties a layer); where no ratio keeps the budget, the least
    MACs it reached are its answer.

    Args:
        data: Its training images give the gradients.
        dense: The trained network.
        limit: MACs that may be kept, as a fraction.
        seed: Of the images that give the gradients, re-estimate batch-norm and validate.
        rule: "l2" or "taylor" (one ranking over all layers), or "uniform" (L2, the same ratio everywhere).
        inner: Leave the layers that make residual streams alone.
    """
    dense = copy.deepcopy(dense)
    layers = pruned_layers(dense, inner)
    if rule == "taylor":
        for part in data.train.sample(SCORING, seed).batches(128):
            functional.cross_entropy(dense(data.normalise(part.images)), part.labels).backward()
    full, answers = macs(dense), []
    for steps in (1, 10):
        tried = [(macs(m), ratio, m) for ratio in HIGH if (m := ratio_pruned(dense, layers, rule, ratio, steps))]
        low, high = 0.0, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            model = ratio_pruned(dense, layers, rule, middle, steps)
            tried.append((macs(model), middle, model))
            low, high = (low, middle) if tried[-1][0] <= limit * full else (middle, high)
        fitting = [t for t in tried if t[0] <= limit * full]
        _, high, best = max(fitting, key=lambda t: t[0]) if fitting else min(tried, key=lambda t: t[0])
        loss = validation_loss(copy.deepcopy(best), data, seed)
        answers.append((loss, steps, {"network": best, "settings": {"pruning_ratio": high, "iterative_steps": steps}}))
    return {**min(answers, key=lambda a: a[:2])[2], "evaluations": len(answers)}


def ratio_pruned(dense: nn.Module, layers: Collection[str], rule: str, ratio: float, steps: int) -> nn.Module:
    """A copy, pruned by Torch-Pruning; the gradients on `dense` are what Taylor scores by."""
    import torch_pruning as tp

    model = copy.deepcopy(dense)
    for own, source in zip(model.parameters(), dense.parameters(), strict=True):
        own.grad = None if source.grad is None else source.grad.clone()
    kinds = nn.Conv2d | nn.Linear
    pruner = tp.pruner.BasePruner(
        model,
        EXAMPLE,
        importance=tp.importance.TaylorImportance() if rule == "taylor" else tp.importance.MagnitudeImportance(p=2),
        global_pruning=rule != "uniform",
        pruning_ratio=ratio,
        iterative_steps=steps,
        ignored_layers=[m for name, m in model.named_modules() if isinstance(m, kinds) and name not in layers],
    )
    for _ in range(steps):
        pruner.step()
    return model


def fastnas(data: ImageData, dense: nn.Module, limit: float, seed: int, *, divisor: int, cache: Path) -> dict[str, Any]:
    """ModelOpt's FastNAS: a sensitivity scan (kept and shared by all budgets), then one threshold by binary search.

    The score is top-1 on 2,000 validation images, before each of which 1,000 training images calibrate batch-norm, by
    its own averaging: the images, and the precision, that our evaluator uses.

    Raises:
        OutOfReach: If the smallest network of its space is too large.
    """
    import modelopt.torch.prune as mtp

    state, record = cache / f"fastnas-{divisor}.pth", cache / f"fastnas-{divisor}.json"
    calibration, val, compute = data.train.sample(1000, 0), data.val.sample(2000, 0), Compute.choose("auto")
    evaluations, seconds, start = 0, [0.0, 0.0], clock()

    def outputs(model: nn.Module, split: Split) -> list[torch.Tensor]:
        with torch.no_grad(), compute.autocast():
            return [model(data.normalise(p.images, compute.channels_last)) for p in split.batches(128)]

    def score(model: nn.Module) -> float:
        nonlocal evaluations
        top1 = (torch.cat(outputs(model, val)).argmax(1) == val.labels).double().mean()
        evaluations += 1
        spent = [was + now - begun for was, now, begun in zip(seconds, clock(), start, strict=True)]
        write_text(record, json.dumps({"evaluations": evaluations, "seconds": spent}))
        return float(top1)

    config = mtp.fastnas.FastNASConfig().model_dump()
    for layer in config.values():
        for key in ("channel_divisor", "feature_divisor"):
            if isinstance(layer, dict) and key in layer.get("*", {}):
                layer["*"][key] = divisor
    with (cache / f"fastnas-{divisor}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one scan at a time; the other process waits for it and reads it
        if record.is_file():
            evaluations, seconds = (json.loads(record.read_text())[key] for key in ("evaluations", "seconds"))
        start = clock()
        try:
            network, _ = mtp.prune(
                copy.deepcopy(dense),
                mode=[("fastnas", config)],
                constraints={"flops": f"{100 * limit:g}%"},
                dummy_input=EXAMPLE,
                config={
                    "forward_loop": lambda model: outputs(model, calibration),
                    "score_func": score,
                    "checkpoint": str(state),
                    "verbose": False,
                },
            )
        except ValueError as error:
            if "constraints" not in str(error):
                raise
            found = re.search(r"flops\D+([\d.]+)M\D+[\d.]+M\D+([\d.]+)M", str(error))  # min, centroid, max of its table
            floor = f" (floor {100 * float(found[1]) / float(found[2]):.1f} %)" if found else ""
            raise OutOfReach(f"cannot reach {100 * limit:g} %{floor}") from error
    return {
        "network": network,
        "evaluations": evaluations,
        "settings": {"divisor": divisor},
        "before_s": seconds,  # wall and processor, of the scan, done for an earlier piece
    }


PEERS: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = {
    "tp-l2": (torch_pruning, {"rule": "l2", "inner": False}),
    "tp-l2-inner": (torch_pruning, {"rule": "l2", "inner": True}),
    "tp-taylor-inner": (torch_pruning, {"rule": "taylor", "inner": True}),
    "tp-uniform-inner": (torch_pruning, {"rule": "uniform", "inner": True}),
    "fastnas-8": (fastnas, {"divisor": 8}),
    "fastnas-2": (fastnas, {"divisor": 2}),  # the finest for depthwise convolutions: it slices them wrongly with 1
    "fastnas-1": (fastnas, {"divisor": 1}),
}
TITLES = {
    "tp-l2": "Torch-Pruning 1.6.1, L2, global",
    "tp-l2-inner": "Torch-Pruning 1.6.1, L2, global, streams kept",
    "tp-taylor-inner": "Torch-Pruning 1.6.1, Taylor, global, streams kept",
    "tp-uniform-inner": "Torch-Pruning 1.6.1, L2, uniform, streams kept",
    "fastnas-8": "ModelOpt 0.47 FastNAS, divisor 8",
    "fastnas-2": "ModelOpt 0.47 FastNAS, divisor 2",
    "fastnas-1": "ModelOpt 0.47 FastNAS, divisor 1",
}


def search(peer: str, data: ImageData, dense: nn.Module, budget: str, seed: int, cache: Path) -> dict[str, Any]:
    """One peer's answer to one budget: the units that stay, or an "error". `seed` draws as in runs of our own."""
    run, how = PEERS[peer]
    piece: dict[str, Any] = {"name": TITLES[peer], "seed": seed}
    if run is fastnas:
        how = {**how, "cache": cache}
    start = clock()
    try:
        found = run(data, dense, float(budget.rstrip("%")) / 100, seed, **how)
    except OutOfReach as error:
        return {**piece, "error": str(error)}
    before = found.get("before_s", (0.0, 0.0))
    wall, compute = (was + now - begun for was, now, begun in zip(before, clock(), start, strict=True))
    space = trace(dense, EXAMPLE)
    kept = kept_units(dense, found["network"], space)
    network = prune(dense, space, kept)
    check_same(found["network"], network)
    loss = validation_loss(network, data, seed)
    return {
        **piece,
        "settings": found["settings"],
        "widths": [len(k) for k in kept],
        "kept": kept,
        "evaluations": found["evaluations"],
        "val_loss": loss,
        "test_bn": 100 * measure(network, data, "test")["top1"],
        "macs": macs(found["network"]) / macs(dense),
        "wall_s": wall,
        "compute_s": compute,  # processor time: the machine may have been shared
    }


def validation_loss(network: nn.Module, data: ImageData, seed: int) -> float:
    """The proxy of our own runs with this seed; batch-norm stays re-estimated."""
    compute = Compute.choose("auto")
    task = as_task(data).on(compute)
    reestimate_evenly(compute.place(network), task, task.draw("calibration", 1000, seed), 128, compute)
    return measure(network, replace(data, val=data.val.sample(2000, seed)), "val")["loss"]


def clock() -> tuple[float, float]:
    """Wall and processor time in seconds."""
    return time.perf_counter(), time.process_time()


def pruned_layers(dense: nn.Module, inner: bool) -> list[str]:
    """The layers whose output channels the peer may remove: all that make a group of ours, or no streams among them."""
    space = trace(dense, EXAMPLE)
    left = streams(space) if inner else ()
    return [x.name for x in space.layers if x.makes.terms and not any(g in left for g, _ in x.makes.terms)]


def kept_units(dense: nn.Module, pruned: nn.Module, space: SearchSpace) -> list[list[int]]:
    """Per group, the units that a peer's network still has: its vectors of channels are found among the dense ones.

    A group's vectors are the scales and shifts of its norms, and biases: whatever loses an entry with one of its units.
    """
    was, now, kept = dict(dense.named_parameters()), dict(pruned.named_parameters()), []
    for group in space.groups:
        members = {m.tensor for m in group.members if m.tensor in was and was[m.tensor].dim() == 1}
        names = [n for n in sorted(members) if len(was[n]) == group.size]
        before, after = (torch.stack([of[n].detach() for n in names], 1) for of in (was, now))  # [C, vectors]
        same = (after[:, None] == before[None]).all(-1)  # [kept, C]
        if not (same.sum(1) == 1).all():
            raise ValueError(f"group '{group.name}': a channel of the pruned network is not one of the dense network")
        kept.append(sorted(same.float().argmax(1).tolist()))
    return kept


def check_same(theirs: nn.Module, ours: nn.Module) -> None:
    """Refuse a translation that is not the same network, before any batch-norm is re-estimated."""
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    theirs, ours = reset_statistics(theirs), reset_statistics(ours)
    with torch.no_grad():
        gap = float((theirs.eval()(images) - ours.eval()(images)).abs().max())
    if gap > 1e-4 or macs(theirs) != macs(ours):
        raise ValueError(f"translation: answers differ by {gap:.1e}, MACs {macs(theirs):g} and {macs(ours):g}")


def reset_statistics(model: nn.Module) -> nn.Module:
    """A copy with fresh running statistics: a peer may have calibrated its own."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return model
