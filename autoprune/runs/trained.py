"""A network that was trained elsewhere: whether it is the one that was exported, and what is true of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from autoprune.config import RunConfig
from autoprune.evaluation import measure_by_class
from autoprune.formats import ONNX_TOLERANCE
from autoprune.reference import ModelReference, broken_weight, fingerprint, load_weights, quiet
from autoprune.report.trained import METHOD_TRAINING
from autoprune.runs.telling import PER_CLASS, TRAINING
from autoprune.tasks import Task
from search_spaces import copy_of, tensors_in
from search_spaces.tracing import as_call

SPLITS = ("val", "test")
PREVIOUS = "previous"  # metrics of the network that was delivered before
OF_WEIGHTS = {f"{which}_{split}" for which in ("pruned", PREVIOUS) for split in SPLITS} | {
    f"{which}_val" for which in ("before_finetune", "after_finetune", "finalist")
}  # what else was measured belongs to the dense network, or to the widths
OF_TRAINING = ("finetune", "finetune_seconds", "run_seconds", "attached")  # of the provenance
Trained = nn.Module | Mapping[str, Tensor]  # a network, or its state dict
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def dense_network(config: RunConfig, model: nn.Module | None, how: str) -> nn.Module:
    """The dense network of a run, for its architecture: its weights do not matter.

    Args:
        config: Of the run.
        model: It, where the settings do not say how to build it.
        how: What to call with `model=...` then.

    Raises:
        ValueError: If nobody says how to build it.
    """
    if model is not None:
        return model
    if not config.model:
        raise ValueError(
            f"run '{config.name}': was started from a model object, and nothing on disk says how to build it; in "
            f"Python: {how}(..., model=...)"
        )
    return ModelReference(config.model, config.model_args).build()


def is_network(found: Any) -> bool:
    """Whether it is a network or its state dict."""
    if isinstance(found, Mapping):
        return bool(found) and all(isinstance(value, Tensor) for value in found.values())
    return isinstance(found, nn.Module)


def unwrapped(network: nn.Module) -> nn.Module:
    """The network itself, out of torch.compile, DataParallel, DistributedDataParallel or an average of weights."""
    while True:
        if isinstance(network, WRAPPERS):
            network = network.module
        elif isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):
            network = inner
        else:
            return network


def fitted(
    skeleton: nn.Module,
    trained: nn.Module | Mapping[str, Tensor],
    where: str,
    example: Any = None,
    say: Callable[[str], None] = quiet,
) -> nn.Module:
    """The skeleton with trained weights, in eval mode, on the CPU, if they are those of this very network.

    Args:
        skeleton: The network as it was exported (see `export.rebuild`); changed in place.
        trained: The same network with other weights, or its state dict.
        where: What the weights are called in errors.
        example: What a network is called with; a network that is given must then answer like the skeleton.
        say: Told if the names had prefixes of a wrapper.

    Raises:
        ValueError: If a name or a shape differs, a weight is not a finite number, or the answers differ.
    """
    trained = unwrapped(trained) if isinstance(trained, nn.Module) else trained
    skeleton = skeleton.cpu()
    load_weights(skeleton, trained.state_dict() if isinstance(trained, nn.Module) else trained, where, say)
    if broken := broken_weight(skeleton):
        raise ValueError(f"weights '{where}': {broken}; give a checkpoint from before the training diverged")
    if isinstance(trained, nn.Module) and example is not None:
        _check_answers(skeleton, trained, where, example)
    return skeleton.eval()


def remeasured(
    architecture: Mapping[str, Any], network: nn.Module, task: Task | None, config: RunConfig, source: str
) -> dict[str, Any]:
    """The architecture of an export with what is true of the network that was trained elsewhere.

    Args:
        architecture: Of the network before.
        network: With its new weights.
        task: Where it is measured; None: what was measured of the old weights is left out all the same.
        config: Of the run.
        source: Where the weights come from.

    Returns:
        Metrics: "pruned_val" and "pruned_test" of the new weights, "previous_val" and "previous_test" of the old ones;
        provenance: "attached" says from where, when and which weights.

    Raises:
        ValueError: If the network answers with NaN.
    """
    before = architecture["metrics"]
    metrics = {
        name: found for name, found in before.items() if name not in {*OF_WEIGHTS, TRAINING, METHOD_TRAINING, PER_CLASS}
    }
    metrics |= {f"{PREVIOUS}_{s}": before[f"pruned_{s}"] for s in SPLITS if f"pruned_{s}" in before}
    for split in SPLITS if task is not None else ():
        if task is not None and task.has(split):
            found, right = measure_by_class(network, task, split, device=config.device)
            metrics[f"pruned_{split}"] = found
            if not math.isfinite(found["loss"]):
                raise ValueError(f"weights '{source}': the network answers {split} {task.sample}s with NaN or infinity")
            if (told := before.get(PER_CLASS, {})).get("split") == split:
                metrics[PER_CLASS] = {**told, "pruned": right}
    network.cpu().to(memory_format=torch.contiguous_format)
    provenance = {name: said for name, said in architecture["provenance"].items() if name not in OF_TRAINING}
    when = datetime.now().astimezone().isoformat(timespec="seconds")
    provenance["attached"] = {"from": source, "when": when, "weights": fingerprint(network)}
    return {**architecture, "metrics": metrics, "provenance": provenance}


def _check_answers(skeleton: nn.Module, network: nn.Module, where: str, example: Any) -> None:
    """Names and shapes do not say what a network computes: another activation, a hook, a forward of its own."""
    try:
        twin = copy_of(network).cpu().float().eval()
        found = _answers(twin, example)
    except Exception as error:  # whatever the network's own code does
        why = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        raise ValueError(f"'{where}': cannot be called with the example input of the run ({why})") from error
    if not all(t.isfinite().all() for t in found):
        raise ValueError(f"'{where}': answers the example input of the run with NaN or infinity; check its weights")
    expected = _answers(skeleton, example)
    same = [a.shape for a in found] == [b.shape for b in expected]
    worst = max((float((a - b).abs().max()) for a, b in zip(found, expected, strict=False)), default=0.0)
    scale = max([1.0, *(float(b.abs().max()) for b in expected)])
    if not (same and worst <= ONNX_TOLERANCE * scale):
        raise ValueError(
            f"'{where}': no longer has the architecture of the run's network: with the same weights its answers differ "
            + (f"by {worst:.2g}" if same else "in shape")
            + "; change weights only, or export a network of your own with torch"
        )


def _answers(network: nn.Module, example: Any) -> list[Tensor]:
    args, kwargs = as_call(example)
    with torch.no_grad():
        return [t.float() for t in tensors_in(network.eval()(*args, **kwargs)) if t.is_floating_point()]
