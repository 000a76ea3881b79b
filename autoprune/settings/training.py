"""`TrainingSettings`: how a network is trained, in every training of the project."""

from __future__ import annotations

from dataclasses import dataclass, fields

from autoprune.settings.setting import GROUPS, LATER, MOST, settings_of

problem, search, recovery, run = (GROUPS[name] for name in ("problem", "search", "recovery", "run"))
TAKERS = "finetune export"  # verbs that train what they deliver


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a network is trained: a short fine-tune of a finalist, the final one, and every method that prunes meanwhile.

    Example:
        autoprune.training.finetune(net, task, TrainingSettings(lr=0.05, epochs=30))

    Raises:
        ValueError: If a setting is of the wrong type or out of its range.
    """

    # fmt: off
    epochs: float = recovery(5.0, "EPOCHS", "epochs of the final fine-tune (0: none)",
        low=0, high=10_000, verbs=TAKERS)
    lr: float = recovery(0.02, "LR",
        "its peak learning rate", low=0, high=1000, verbs=f"{TAKERS} adapt")
    lr_schedule: str = recovery("linear", "NAME",
        "how the learning rate goes: linear (up over the first tenth, then down to 0), cosine (down to 0) or constant",
        verbs=f"{TAKERS} adapt")
    momentum: float = recovery(0.9, "MOMENTUM", "of SGD (Nesterov's)", low=0, high=1, verbs=f"{TAKERS} adapt")
    weight_decay: float = recovery(5e-4, "DECAY", "on every parameter", low=0, high=1000, verbs=f"{TAKERS} adapt")
    distill: float = recovery(0.0, "WEIGHT",
        "weight of distillation from the dense network, 0 to 1", low=0, high=1, verbs=TAKERS)
    temperature: float = recovery(4.0, "T",
        "of that distillation, where answers are class scores (Hinton et al. 2015)", low=1e-3, high=1000, verbs=TAKERS)
    batch_size: int = search(128, "SAMPLES",
        "samples per batch, in the search and in the fine-tune; a loader's are as it makes them",
        low=1, high=MOST, verbs="profile finetune adapt")
    seed: int = problem(0, "N", "seed of everything random; the same seed gives the same run", low=0, high=2**32 - 1)
    device: str = run("auto", "DEVICE", "auto, cpu, cuda, cuda:1 ...", verbs="resume finetune export adapt attach")
    amp: str = run("auto", "WHEN",
        "bfloat16 in forward and backward passes: auto (where the device multiplies it natively), on or off",
        verbs="resume finetune export adapt attach")
    # fmt: on

    def __post_init__(self) -> None:
        """Bring every setting into its type and check the ranges."""
        for name, about in settings_of(type(self)).items():
            if (given := getattr(self, name)) is not LATER or about.default is not LATER:
                object.__setattr__(self, name, about.value(given))

    @classmethod
    def of(cls, settings: TrainingSettings) -> TrainingSettings:
        """These alone, of what holds more (a `RunConfig`)."""
        return TrainingSettings(**{field.name: getattr(settings, field.name) for field in fields(TrainingSettings)})
