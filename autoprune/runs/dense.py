"""What is said of the dense network before a search: how its samples are prepared, and how well it does on them."""

from __future__ import annotations

from typing import Any

from torch import nn

from autoprune.config import replace as change
from autoprune.labels import Labels
from autoprune.printable import decimals
from autoprune.report.gloss import key
from autoprune.report.tables import counted
from autoprune.runs.checking import ignorant, reproducible
from autoprune.runs.prepare import Prepared
from autoprune.runs.recipe import Recipe
from autoprune.runs.statistics import stale_statistics
from autoprune.tasks import Draw, Task
from autoprune.tasks.trees import inputs_of, left_out

# Exactly these: a subclass may only keep weights that another module computes with (nn.MultiheadAttention.out_proj).
KINDS = {nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear}
SHOWN = 5  # of the layers that do not run


def about_dense(prepared: Prepared) -> list[str]:
    """Lines for `autoprune profile`; the test samples are not looked at."""
    task = prepared.task
    found, score = _scored(prepared, task), task.labels().headline
    also = f", {score.label} {found[score.name]:.4f}" if score.name in found and score.name != "loss" else ""
    samples = f"validation {task.sample}"
    lines = [
        *_about(prepared),
        f"dense network: loss {decimals(found['loss'])}{also} on {counted(len(judged(prepared)), samples)}",
        stale_statistics(prepared),
        dense_warning(prepared),
    ]
    if unused := unused_layers(prepared):
        names = ", ".join(unused[:SHOWN]) + (f" and {len(unused) - SHOWN} more" if len(unused) > SHOWN else "")
        lines.append(f"layers that never run on such an input, and so are neither pruned nor counted in macs: {names}")
    return [line for line in lines if line]


def notes_of(prepared: Prepared) -> list[str]:
    """What is said before a search: how samples are prepared, what is minimised, what is not exact or looks wrong."""
    task, metric = prepared.task, prepared.config.metric
    lines, labels = _about(prepared), task.labels()
    if labels.scores != Labels().scores:
        others = ", ".join(s.name for s in labels.scores if s.name != metric)
        why = "the loss of the task" if metric == "loss" else "as --metric says"
        also = f"; also measured: {others}" if others else ""
        lines.append(f"minimised: {labels.score(metric).minimised}, {why}{also}")
    if not reproducible(task):
        lines.append("the train loader gives other batches each time an epoch is read (a generator of its own?): a "
                     "training that is resumed is not exactly the one that was stopped")  # fmt: skip
    lines += [stale_statistics(prepared), dense_warning(prepared), prepared.divisors]
    if not prepared.config.method:
        lines.append(f"how trials are scored: {key(prepared.config, prepared.space)}")
    return [line for line in lines if line]


def _about(prepared: Prepared) -> list[str]:
    """How samples are prepared, and what of them the network does not see."""
    task, said = prepared.task, list(prepared.task.about())
    batch = () if task.calls_otherwise else task.draw("val", 1, prepared.config.seed).whole(1)
    if names := left_out(prepared.model, inputs_of(batch)):
        said.append(f"not given to the network, which has no parameters of these names: {', '.join(names)}")
    return said


def dense_warning(prepared: Prepared) -> str:
    """A warning, if the dense network knows next to nothing about its task; else ""."""
    config = change(prepared.config, metric="loss")
    return prepared.task.warning(
        lambda task: _scored(prepared, task),
        lambda: ignorant(prepared.model, prepared.task, config),
        judged(prepared),
    )


def unused_layers(prepared: Prepared) -> list[str]:
    """Convolutions and linear layers that did not run when the network was traced, neither in evaluation nor training.

    Not found are layers that run but whose output nothing reads: the space does not know them.
    """
    space = prepared.space
    seen = {layer.name for layer in space.layers}
    seen |= {member.layer for group in (*space.groups, *space.frozen) for member in group.members}
    return [name for name, module in prepared.model.named_modules() if type(module) in KINDS and name not in seen]


def judged(prepared: Prepared) -> Draw:
    """The validation samples that the evaluator draws."""
    return prepared.task.draw("val", prepared.config.val_samples, prepared.config.seed)


def _scored(prepared: Prepared, task: Task) -> dict[str, Any]:
    """The dense network as the search scores it, by the loss of the task."""
    recipe = Recipe(change(prepared.config, metric="loss"), prepared.problem)
    return recipe.evaluator(prepared.model, task).evaluate_dense()
