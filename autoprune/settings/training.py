"""`TrainingSettings`: how a network is trained, in every training of the project."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from autoprune.settings.setting import GROUPS, LATER, MOST, named_of, settings_of

problem, search, training, run = (GROUPS[name] for name in ("problem", "search", "training", "run"))
TAKERS = "finetune export"  # verbs that train what they deliver


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a network is trained: a short fine-tune of a finalist, the final one, and every method that prunes meanwhile.

    Example:
        autoprune.training.finetune(net, task, TrainingSettings(lr=0.05, epochs=30, lr_schedule="cosine"))

    Raises:
        ValueError: If a setting is of the wrong type or out of its range.
    """

    # fmt: off
    epochs: float = training(5.0, "EPOCHS", "epochs of the final fine-tune (0: none)",
        low=0, high=10_000, verbs=TAKERS, common="*")
    lr: float = training(0.02, "LR", "its peak learning rate", low=0, high=1000, verbs=TAKERS, common="*")
    optimizer: str | Any = training("sgd", "NAME",  # noqa: RUF009
        "sgd (Nesterov), adamw, or package.module:Name of torch.optim's kind, e.g. torch.optim:RAdam",
        kind=object, named=named_of, verbs=f"{TAKERS} resume",
        common="finetune", brief="sgd, adamw, or package.module:Name")
    optimizer_args: dict[str, Any] = training({}, "KEY=VALUE",  # noqa: RUF009
        "another argument of it (repeatable), e.g. betas=(0.9,0.98)", verbs=TAKERS)
    momentum: float = training(0.9, "MOMENTUM", "of sgd", low=0, high=1, verbs=TAKERS)
    weight_decay: float = training(5e-4, "DECAY", "times the weights, added to their gradients (adamw: decoupled)",
        low=0, high=1000, verbs=TAKERS)
    decay_biases: bool = training(True, "",
        "weight decay on biases and on scales of normalisation too, not on weights only", verbs=TAKERS)
    lr_schedule: str | Any = training("linear", "NAME",  # noqa: RUF009
        "how the learning rate goes after the warm-up: linear (down to 0), cosine (down to 0), constant, step; as the "
        "dense training's: scaled (all of it, shorter), rewind (its last epochs); adaptive (linear, from a rate that "
        "is lower the less the cut changed); or package.module:function of (step, steps) that gives a factor of lr",
        kind=object, named=named_of, verbs=f"{TAKERS} resume",
        common="finetune", brief="linear, cosine, constant, step, or package.module:function")
    lr_original: str = training("step", "NAME",
        "the schedule of the dense network's training, for scaled and rewind: linear, cosine, constant, step",
        verbs=TAKERS)
    lr_original_epochs: float = training(0.0, "EPOCHS",
        "its epochs, for rewind, and for the lowest rate of adaptive (0: unknown)", low=0, high=MOST, verbs=TAKERS)
    warmup: float = training(0.1, "STEPS",
        "steps in which the learning rate rises to lr, or below 1 their fraction (steps: of the final fine-tune; short "
        "ones take a tenth)", low=0, high=MOST, verbs=TAKERS)
    lr_milestones: tuple[str, ...] = training(("0.5", "0.75"), "STEP",
        "where step lowers it: steps, or below 1 fractions of them (repeatable)", verbs=TAKERS)
    lr_gamma: float = training(0.1, "FACTOR", "by which step lowers it", low=0, high=1, verbs=TAKERS)
    label_smoothing: float = training(0.0, "SHARE",
        "share of the probability that goes to all classes alike, where targets are class numbers",
        low=0, high=1, verbs=TAKERS)
    mixup: float = training(0.0, "ALPHA",
        "each sample is mixed with another, with a weight from Beta(ALPHA, ALPHA), where targets are class numbers "
        "(0: not; usual 0.2)", low=0, high=1000, verbs=TAKERS)
    rescale: int = training(0, "STEPS",
        "steps in which a factor for every weight is learnt before the training, so that its first step helps most "
        "(GradInit, the rescaled initialisation of ToST, published 390; with label_smoothing its other part)",
        low=0, high=MOST, verbs=TAKERS)
    ema: float = training(0.0, "DECAY",
        "deliver the moving average of the weights, of this decay for a step, e.g. 0.999 (0: the last weights)",
        low=0, high=1, verbs=TAKERS)
    clip: float = training(0.0, "NORM", "largest norm of the gradients of a step (0: any)",
        low=0, high=MOST, verbs=TAKERS)
    accumulate: int = training(1, "BATCHES", "batches whose gradients are averaged for one step", low=1, high=MOST,
        verbs=TAKERS)
    distill: float = training(0.0, "WEIGHT",
        "weight of distillation from the dense network, 0 to 1", low=0, high=1, verbs=TAKERS,
        common="finetune export")
    temperature: float = training(4.0, "T",
        "of that distillation, where answers are class scores (Hinton et al. 2015)", low=1e-3, high=1000, verbs=TAKERS)
    batch_size: int = search(128, "SAMPLES",
        "samples per batch, in the search and in the fine-tune (of few samples less, so that hardly any is left out of "
        "an epoch); a loader's are as it makes them",
        low=1, high=MOST, verbs="profile finetune", common="*", brief="samples per batch")
    seed: int = problem(0, "N", "seed of everything random; the same seed gives the same run", low=0, high=2**32 - 1,
        common="search profile train", brief="of everything random")
    device: str = run("auto", "DEVICE", "auto, cpu, cuda, cuda:1 ...", verbs="resume finetune export attach",
        common="*")
    amp: str = run("auto", "WHEN",
        "bfloat16 in forward and backward passes: auto (where the device multiplies it natively), on or off",
        verbs="resume finetune export attach")
    cuda_graphs: bool = run(False, "",
        "on a GPU, steps of training and candidates that are scored together run as one CUDA graph each (not measured "
        "yet); layers that draw with Python or on the CPU would repeat themselves", verbs="resume finetune")
    # fmt: on

    def __post_init__(self) -> None:
        """Bring every setting into its type and check the ranges."""
        for name, about in settings_of(type(self)).items():
            if (given := getattr(self, name)) is not LATER or about.default is not LATER:
                object.__setattr__(self, name, about.value(given))
        _ = self.milestones
        if self.ema == 1:
            raise ValueError("ema: must be below 1, at which the average would never move")

    @property
    def milestones(self) -> tuple[float, ...]:
        """Where `step` lowers the learning rate, in order.

        Raises:
            ValueError: If one is no step and no fraction.
        """
        try:
            found = sorted(float(text) for given in self.lr_milestones for text in given.split(","))
        except ValueError:
            found = [-1.0]
        if not all(0 < place <= MOST for place in found):
            raise ValueError(f"lr_milestones: expected steps, or fractions below 1, e.g. 0.5, got "
                             f"{', '.join(self.lr_milestones)!r}")  # fmt: skip
        return tuple(found)

    def batch_of(self, count: int) -> int:
        """Samples in a batch of a training on `count` of them: `batch_size`, or less so that few are left out.

        All batches of an epoch are whole, and what remains of it is left out; of few samples that could be nearly half.
        Where it would be more than a tenth, there is one more batch, of which each has a little less.
        """
        size = max(1, min(self.batch_size, count))
        whole, rest = divmod(count, size)
        return count // (whole + 1) if rest > count / 10 else size

    @classmethod
    def of(cls, settings: TrainingSettings) -> TrainingSettings:
        """These alone, of what holds more (a `RunConfig`)."""
        return TrainingSettings(**{field.name: getattr(settings, field.name) for field in fields(TrainingSettings)})
