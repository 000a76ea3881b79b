"""`EvaluationSettings`: how candidates are scored."""

from __future__ import annotations

from dataclasses import dataclass

FIDELITIES = ("proxy", "short")


@dataclass(frozen=True)
class EvaluationSettings:
    """How candidates are scored; the same for all candidates of a run.

    Attributes:
        bn_images: Training images that re-estimate batch-norm.
        val_images: Validation images that score.
        short_steps: SGD steps of the fidelity "short".
        batch_size: Images per batch, forwards and in training.
        learning_rate: Peak, of "short".
        metric: What "loss" is, lower is better: "loss" (cross-entropy), "top1" (counted as 1 - top-1), or the user's
            "package.module:function" of (logits, labels).
        abandon: Whether hopeless candidates are abandoned early.
        seed: Of the images that score and re-estimate, and of the training in "short".
        device: "auto", "cpu", "cuda", "cuda:1", ...
        amp: bfloat16 autocast: "auto" (where it is fast), "on" or "off".
    """

    bn_images: int = 1000
    val_images: int = 2000
    short_steps: int = 60
    batch_size: int = 128
    learning_rate: float = 0.02
    metric: str = "loss"
    abandon: bool = True
    seed: int = 0
    device: str = "auto"
    amp: str | bool = "auto"

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("bn_images", "val_images", "short_steps", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"evaluation: {name} must be above 0, got {getattr(self, name)}")


def short_steps(fidelity: str, settings: EvaluationSettings) -> int:
    """SGD steps of a fidelity: 0 for "proxy"; "short:200" says its own.

    Raises:
        ValueError: If there is no such fidelity.
    """
    kind, colon, steps = fidelity.partition(":")
    if kind == "proxy" and not colon:
        return 0
    if kind == "short" and not colon:
        return settings.short_steps
    if kind == "short" and steps.isdecimal() and int(steps) > 0:
        return int(steps)
    raise ValueError(f"unknown fidelity '{fidelity}'; known: {', '.join(FIDELITIES)}, short:STEPS")
