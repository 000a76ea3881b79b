"""`EvaluationSettings`: how candidates are scored."""

from __future__ import annotations

from dataclasses import dataclass, replace

from autoprune.evaluation.plan import EvaluationPlan
from autoprune.settings import TrainingSettings

SHORT_WARMUP = 0.1  # of the steps, where the final fine-tune's warm-up is so many steps


@dataclass(frozen=True)
class EvaluationSettings:
    """How candidates are scored; the same for all candidates of a run.

    Attributes:
        bn_samples: Training samples that re-estimate batch-norm.
        fit_samples: Training samples that reconstruct (fidelity "reconstructed"); they pass in one batch.
        val_samples: Validation samples that score.
        short_steps: SGD steps of the fidelity "short".
        reconstruct: Whether "short" may start from reconstructed layers, which help one kind of network and harm
            another: the start is chosen after a few steps from each (`evaluation.starts`).
        batch_size: Samples per batch, forwards and in training.
        training: How candidates are trained in "short"; batches, seed, device and precision are those of here.
        metric: What "loss" is, lower is better: "loss" (of the task), a score of the task (if more of it is better, the
            best it can be minus it), or the user's "package.module:function" of (outputs, targets).
        abandon: Whether hopeless candidates are abandoned early.
        seed: Of the samples that score and re-estimate, and of the training in "short".
        device: "auto", "cpu", "cuda", "cuda:1", ...
        amp: bfloat16 autocast: "auto" (where the device multiplies it natively), "on" or "off".
        checkpoints: Folder where a candidate in training keeps its state, so that after a kill it goes on there; ""
            for none. It belongs to one run: the starting weights are not compared.
        checkpoint_every: Steps between two of them; a shorter training keeps none.
        trained: Folder of the run where finalists leave the weights that they were scored with; "" for none.
        finals: The fidelity of the finalists.
    """

    bn_samples: int = 1000
    fit_samples: int = 500
    val_samples: int = 2000
    short_steps: int = 60
    reconstruct: bool = False
    batch_size: int = 128
    training: TrainingSettings = TrainingSettings()  # noqa: RUF009, frozen
    metric: str = "loss"
    abandon: bool = True
    seed: int = 0
    device: str = "auto"
    amp: str = "auto"
    checkpoints: str = ""
    checkpoint_every: int = 50
    trained: str = ""
    finals: str = ""

    def __post_init__(self) -> None:
        """Check the ranges."""
        counts = ("bn_samples", "fit_samples", "val_samples", "short_steps", "batch_size", "checkpoint_every")
        for name in counts:
            if not getattr(self, name) > 0:
                raise ValueError(f"evaluation: {name} must be above 0, got {getattr(self, name)}")

    def of_training(self) -> TrainingSettings:
        """How candidates are trained: without a teacher, which would cost as much as they."""
        own = {"batch_size": self.batch_size, "seed": self.seed, "device": self.device, "amp": self.amp}
        warmup = self.training.warmup if self.training.warmup < 1 else SHORT_WARMUP
        return replace(self.training, distill=0.0, warmup=warmup, **own)  # type: ignore[arg-type]

    def plan(self, fidelity: str) -> EvaluationPlan:
        """What a fidelity means under these settings.

        Raises:
            ValueError: If there is no such fidelity.
        """
        numbers = {"short_steps": self.short_steps, "bn_samples": self.bn_samples, "fit_samples": self.fit_samples}
        return EvaluationPlan.of(fidelity, reconstruct=self.reconstruct, **numbers)
