"""What a candidate is worth, from its answers: logits [N, K] of `N` images and `K` classes, labels [N]."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional

from objectives.plugins import find, running

Metric = Callable[[Tensor, Tensor], float | Tensor]  # (logits, labels) -> one number, or one per image [N]

CLASSIFICATION = "autoprune expects image classification: images [N, C, H, W] and one class number for each"
INTEGERS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})


def check_labels(labels: Tensor, logits: Tensor, values: bool = False) -> None:
    """Check that labels are class numbers; torch's cross-entropy would read anything else in some way of its own.

    Args:
        labels: [N] integers.
        logits: [N, K].
        values: Also that they lie in 0..K-1, which waits for the device.

    Raises:
        ValueError: If they are not.
    """
    found = f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}" if isinstance(labels, Tensor) else ""
    found = found or type(labels).__name__
    if not isinstance(labels, Tensor) or labels.dtype not in INTEGERS or labels.dim() != 1:
        raise ValueError(f"labels: must be [N] integers, the class number of each image, got {found}; {CLASSIFICATION}")
    if logits.dim() != 2 or len(logits) != len(labels):
        raise ValueError(f"labels: expected outputs [N, K], one score per class for each of {len(labels)} labels, got "
                         f"{list(logits.shape)}; {CLASSIFICATION}")  # fmt: skip
    if values and len(labels):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= logits.shape[1]:
            last, other = logits.shape[1] - 1, low if low < 0 else high
            raise ValueError(f"labels: with {last + 1} outputs class numbers run from 0 to {last}, found {other}; "
                             "leave out images without a class")  # fmt: skip


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image, in nats: [N] float32 (lower is better)."""
    check_labels(labels, logits)
    return functional.cross_entropy(logits.float(), labels.long(), reduction="none")


def top1(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the largest logit of each image is its label: [N] of 0.0 and 1.0 (the mean is the accuracy)."""
    check_labels(labels, logits)
    return (logits.argmax(dim=1) == labels).float()


def agreement(logits: Tensor, dense: Tensor) -> Tensor:
    """Whether each image gets the answer that the dense network gives it: [N] of 0.0 and 1.0.

    Args:
        logits: [N, K] of the candidate.
        dense: [N, K] logits of the dense network on the same images.
    """
    return top1(logits, dense.argmax(dim=1))


METRICS: dict[str, Metric] = {"loss": loss, "top1": top1}


def resolve_metric(name: str) -> Metric:
    """The metric called "loss", "top1", or "package.module:function" of `(logits, labels)`; or one that was given.

    Of a class an instance is made, without arguments; that is called.

    Raises:
        ValueError: If there is no such metric.
    """
    metric: Metric = find("metric", name, METRICS)
    if isinstance(metric, type):
        with running(f"metric '{name}'", "while it was made"):
            metric = metric()
    if not callable(metric):
        raise ValueError(f"metric '{name}': expected a function of (logits, labels), got {type(metric).__name__}")
    return metric


def measure(name: str, logits: Tensor, labels: Tensor) -> float:
    """The metric called `name`, averaged over the images if it gives one value per image.

    Raises:
        ValueError: If there is no such metric, or it gives neither one number nor one per image.
    """
    return float(apply(name, resolve_metric(name), logits, labels).double().mean())


def apply(name: str, metric: Metric, logits: Tensor, labels: Tensor) -> Tensor:
    """What a metric says: one number, or one per image [N].

    Args:
        name: What it is called, for the error.
        metric: The metric.
        logits: [N, K].
        labels: [N].

    Raises:
        ValueError: If it fails, or gives neither.
    """
    known = METRICS.get(name) is metric
    with nullcontext() if known else running(f"metric '{name}'", f"on the outputs of {len(labels)} images"):
        found = metric(logits, labels)
    try:
        value = torch.as_tensor(found)
        value = value if value.is_floating_point() else value.double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"metric '{name}': expected one number or one per image, got {_shown(found)}") from error
    if value.numel() != 1 and value.shape != labels.shape:
        raise ValueError(f"metric '{name}': expected one number or one per image, got shape {tuple(value.shape)}")
    return value


def _shown(thing: object) -> str:
    """What something is, and its text where that is short."""
    text = " ".join(repr(thing).split())
    return text if len(text) <= 40 else type(thing).__name__
