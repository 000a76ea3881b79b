"""`adapt`: the dense network learns to serve narrow ones before it is searched."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.config import SETTINGS, RunConfig
from autoprune.criteria.saved import SUFFIX, save_scores
from autoprune.data import ImageData
from autoprune.files import as_path, check_writable, disk
from autoprune.printable import decimals
from autoprune.reference import save_weights
from autoprune.report import RunProgress
from autoprune.runs.prepare import prepare
from autoprune.runs.recipe import Recipe
from autoprune.tasks import Task
from autoprune.training import Pruning, Sandwich, finetune

STEPS = 100  # results/benchmarks/equal_images.md


def adapt(
    model: nn.Module | str,
    data: Task | ImageData | str | None,
    budget: str | list[str] | tuple[str, ...] | None = None,
    *,
    to: str | Path,
    steps: int = STEPS,
    example_inputs: Any = None,
    progress: RunProgress | None = None,
    **settings: Any,
) -> nn.Module:
    """Weight-sharing adaptation: a network of the same shape whose narrower versions are better. Search that one.

    In each step the dense network learns the task, and three narrower ones learn its answers (see
    `autoprune.training.Sandwich`); one of them keeps to the budget. The narrower ones keep the channels with the
    highest scores, so the search must keep them in the same order: give it the scores, too. Candidates are better
    before they are trained; after a final fine-tune that is as many steps longer they are not
    (results/benchmarks/equal_images.md).

    Args:
        model: The trained network, or "package.module:factory" (with `weights="file"`); left as it is.
        data: As in `search`; only training images are used, and the validation images to say what came out.
        budget: As in `search`: the one that will be searched.
        to: File of the adapted weights, "adapted.safetensors"; the scores are put beside it, as
            "adapted.scores.safetensors".
        steps: SGD steps, of `batch_size` images; each takes as long as four or more of a narrow network.
        example_inputs: As in `search`.
        progress: Where to show progress; default nowhere.
        **settings: Other fields of `RunConfig`: criterion, seed, lr, batch_size, device, min_keep, divisor, freeze ...

    Returns:
        The adapted network, in eval mode, on the CPU.

    Raises:
        ValueError: If something is wrong with what was given; nothing has been written then.
        Diverged: If a loss becomes NaN or infinite.

    Example:
        adapted = autoprune.adapt(model, data, "macs<=15%", to="adapted.safetensors")
        result = autoprune.search(adapted, data, "macs<=15%", criterion="adapted.scores.safetensors")
    """
    weights = as_path("to", to)
    steps = replace(SETTINGS["short_steps"], name="steps").value(steps)  # the same kind of number
    if weights.suffix != SUFFIX:
        raise ValueError(f"to '{to}': must be the name of a {SUFFIX} file")
    scores = scores_beside(weights)
    for path in (weights, scores):
        if path.exists():
            raise ValueError(f"'{path}': is there already; remove it, or choose another place")
    references = {k: v for k, v in (("model", model), ("data", data)) if isinstance(v, str)}
    bounds = {} if budget is None else {"budget": budget}
    config = RunConfig.make(**references, **bounds, **settings)
    progress = progress or RunProgress(quiet=True)
    live_model, live_data = None if isinstance(model, str) else model, None if isinstance(data, str) else data
    prepared = prepare(config, live_model, live_data, example_inputs, say=progress.say)
    with disk(weights):  # now, while nothing has been trained for nothing
        weights.parent.mkdir(parents=True, exist_ok=True)
        check_writable(weights)
    task, problem = prepared.task.without("test"), prepared.problem
    recipe = Recipe(config, problem)
    before = recipe.evaluator(prepared.model, task).evaluate_dense()
    progress.begin("adapting", steps)
    adapted = copy.deepcopy(prepared.model)
    finetune(
        adapted,
        task,
        config,
        steps=steps,
        method=Sandwich(Pruning(problem.space, problem.scores, project=problem.project)),
        listener=lambda done, _, loss: progress.step(done, f"loss {decimals(loss)}"),
    )
    progress.end()
    after = recipe.evaluator(adapted, task).evaluate_dense()
    score = task.labels().headline
    progress.say(
        f"adapted in {steps} steps: the dense network's {score.label} on the validation {task.sample}s is "
        f"{after[score.name]:.4f}, it was {before[score.name]:.4f}; its narrow versions are what has become better"
    )
    save_scores(scores, problem.space, problem.scores)
    save_weights(adapted, weights)  # last: where it is, the other is, too
    return adapted.cpu()


def scores_beside(weights: Path) -> Path:
    """Where the scores are kept by which the channels of these adapted weights are ordered."""
    return weights.with_suffix(f".scores{SUFFIX}")
