"""What is said of the dense network before a search: how its images are normalised, and how well it does on them."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from autoprune.config import replace as change
from autoprune.data import ImageData, Split, describe, normalised
from autoprune.data.sources import IMAGENET
from autoprune.printable import decimals
from autoprune.report.tables import counted
from autoprune.runs.prepare import Prepared
from autoprune.runs.recipe import Recipe

# Exactly these: a subclass may only keep weights that another module computes with (nn.MultiheadAttention.out_proj).
KINDS = {nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear}
SHOWN = 5  # of the layers that do not run
OTHERS = ((0.0, 1.0), (0.5, 0.5))  # mean and standard deviation that networks are trained with as often


def about_dense(prepared: Prepared) -> list[str]:
    """Lines for `autoprune profile`; the test images are not looked at."""
    found, images = _scored(prepared, prepared.data), len(_judged(prepared))
    lines = [
        describe(prepared.data),
        f"dense network: loss {decimals(found['loss'])}, top-1 {found['top1']:.4f} on "
        f"{counted(images, 'validation image')}",
        doubt(prepared, found["top1"]),
    ]
    if unused := unused_layers(prepared):
        names = ", ".join(unused[:SHOWN]) + (f" and {len(unused) - SHOWN} more" if len(unused) > SHOWN else "")
        lines.append(f"layers that never run on such an input, and so are neither pruned nor counted in macs: {names}")
    return [line for line in lines if line]


def doubt(prepared: Prepared, top1: float) -> str:
    """A warning, if the dense network knows next to nothing about its images, or less than normalised otherwise.

    Args:
        prepared: The problem.
        top1: The fraction of the validation images that it gets right.
    """
    labels = _judged(prepared)
    if not is_near_chance(labels, top1) or not is_near_chance(labels, top1, _scored(prepared, prepared.data)["loss"]):
        return _better_normalised(prepared, top1)
    text = (
        f"warning: the dense network does hardly better than chance on these images (top-1 {top1:.4f}; always the most "
        f"frequent class: {_most_frequent(labels):.4f}): wrong weights, wrong mean/std or another order of the classes?"
    )
    plain = normalised(prepared.data, 0, 1)
    if (plain.mean, plain.std) == (prepared.data.mean, prepared.data.std):
        return text
    try:
        found = _scored(prepared, plain)
    except ValueError:  # not finite
        return text
    if is_near_chance(labels, found["top1"], found["loss"]):
        return text
    return (f"{text} With pixels of 0..1 as they are its top-1 is {found['top1']:.4f}: give --data-args mean=0 "
            "--data-args std=1")  # fmt: skip


def _better_normalised(prepared: Prepared, top1: float) -> str:
    """A warning, if the mean and std are a guess and another usual pair suits the network far better; else ""."""
    if prepared.data.origin != IMAGENET:
        return ""
    found = {pair: _scored(prepared, normalised(prepared.data, *pair))["top1"] for pair in OTHERS}
    mean, std = max(OTHERS, key=lambda pair: found[pair])
    best, spread = found[mean, std], math.sqrt(top1 * (1 - top1) / len(_judged(prepared)))
    if best <= top1 + max(0.02, 3 * spread):
        return ""
    return (
        f"warning: nobody says how the network's images were normalised, so ImageNet's mean and std are taken: its "
        f"top-1 is {top1:.4f}; with mean={mean:g} std={std:g} it is {best:.4f}; was it trained so? Then give "
        f"--data-args mean={mean:g} --data-args std={std:g}"
    )


def is_near_chance(labels: Split, top1: float, loss: float = math.inf) -> bool:
    """Whether a network does about as well as one that always gives the same answer.

    Where one class is frequent, such an answer is often right, and so is a useful network: its loss tells them apart.

    Args:
        labels: The images it was judged on.
        top1: The fraction that it gets right.
        loss: Its mean cross-entropy in nats.
    """
    count, frequent = len(labels), _most_frequent(labels)
    if frequent == 1:  # one class: any constant is right
        return False
    shares = labels.labels.unique(return_counts=True)[1].double() / count
    knows_frequencies = float(-(shares * shares.log()).sum())  # the loss of the best constant answer
    spread = math.sqrt(frequent * (1 - frequent) / count)
    near = frequent + min(frequent / 2, (1 - frequent) / 10) + 2 * spread
    return top1 <= near and loss >= 0.9 * knows_frequencies


def unused_layers(prepared: Prepared) -> list[str]:
    """Convolutions and linear layers that did not run when the network was traced, neither in evaluation nor training.

    Not found are layers that run but whose output nothing reads: the space does not know them.
    """
    space = prepared.space
    seen = {layer.name for layer in space.layers}
    seen |= {member.layer for group in (*space.groups, *space.frozen) for member in group.members}
    return [name for name, module in prepared.model.named_modules() if type(module) in KINDS and name not in seen]


def _judged(prepared: Prepared) -> Split:
    """The validation images that the evaluator draws."""
    return prepared.data.val.sample(prepared.config.val_images, prepared.config.seed)


def _most_frequent(labels: Split) -> float:
    return float(labels.labels.bincount().max()) / len(labels)


def _scored(prepared: Prepared, data: ImageData) -> dict[str, Any]:
    """The dense network as the search scores it, by cross-entropy."""
    recipe = Recipe(change(prepared.config, metric="loss"), prepared.problem)
    return recipe.evaluator(prepared.model, data).evaluate_dense()
