"""The keywords of the verbs, spelt out for editors and type checkers; a test compares them with `SETTINGS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from autoprune.criteria import Criterion, GroupTensors
    from autoprune.strategies import Strategy

CriterionLike: TypeAlias = (
    "Criterion | type[Criterion] | Callable[[GroupTensors], Tensor] | str"  # a name, a class, an instance, a function
)
StrategyLike: TypeAlias = "Strategy | type[Strategy] | Callable[..., Strategy] | str"
OptimizerLike: TypeAlias = "type[Any] | Callable[..., Any] | str"  # of torch.optim's kind
ScheduleLike: TypeAlias = "Callable[[int, int], float] | str"
TrainerLike: TypeAlias = "Callable[..., Any] | str"  # of (network, run)
MetricLike: TypeAlias = "Callable[[Tensor, Tensor], float | Tensor] | type[Any] | str"


class SearchKeywords(TypedDict, total=False):
    """Of `search` and `profile`: all settings."""

    model_args: Mapping[str, Any]
    weights: str
    data_args: Mapping[str, Any]
    data_memory: str
    data_workers: int | str
    task: str
    input: str
    budget_list: str | Sequence[str]
    front: str | Sequence[str]
    latency_command: str
    criterion: CriterionLike
    score_samples: int
    score_rounds: int
    score_steps: float
    score_per: str
    divisor: int | str
    depth: str
    min_keep: float
    prune_inputs: bool
    freeze: str | Sequence[str]
    seed: int
    strategy: StrategyLike
    encoding: str
    warm_starts: str
    trials: int
    time: str
    target: str
    max_failures: int
    max_failure_rate: float
    fidelity: str
    finalists: int
    short_steps: int
    rungs: int
    metric: MetricLike
    val_samples: int
    bn_samples: int
    abandon: bool
    batch_size: int
    reconstruct: bool
    trainer: TrainerLike
    method: str
    method_epochs: float
    method_args: Mapping[str, Any]
    prune_when: str
    prune_when_args: Mapping[str, Any]
    prune_share: float
    recovery: str
    recovery_args: Mapping[str, Any]
    epochs: float
    lr: float
    optimizer: OptimizerLike
    optimizer_args: Mapping[str, Any]
    momentum: float
    weight_decay: float
    decay_biases: bool
    lr_schedule: ScheduleLike
    lr_original: str
    lr_original_epochs: float
    warmup: float
    lr_milestones: str | Sequence[str]
    lr_gamma: float
    label_smoothing: float
    mixup: float
    rescale: int
    ema: float
    clip: float
    accumulate: int
    distill: float
    temperature: float
    name: str
    ledger: str
    join: bool
    workers: int
    devices: str | Sequence[str]
    per_device: int
    together: int
    deterministic: bool
    cluster: str
    train_workers: int
    timeout: float
    onnx: bool
    pt2: bool
    device: str
    amp: str
    cuda_graphs: bool


class ResumeKeywords(TypedDict, total=False):
    """Of `resume`: what may change in a run that goes on."""

    model_args: Mapping[str, Any]
    weights: str
    data_args: Mapping[str, Any]
    data_workers: int | str
    task: str
    trials: int
    time: str
    target: str
    max_failures: int
    max_failure_rate: float
    trainer: TrainerLike
    optimizer: OptimizerLike
    lr_schedule: ScheduleLike
    join: bool
    workers: int
    devices: str | Sequence[str]
    per_device: int
    together: int
    deterministic: bool
    cluster: str
    train_workers: int
    timeout: float
    onnx: bool
    pt2: bool
    device: str
    amp: str
    cuda_graphs: bool


class FinetuneKeywords(TypedDict, total=False):
    """Of `finetune`."""

    model_args: Mapping[str, Any]
    weights: str
    data_args: Mapping[str, Any]
    data_workers: int | str
    task: str
    batch_size: int
    reconstruct: bool
    trainer: TrainerLike
    prune_share: float
    recovery: str
    recovery_args: Mapping[str, Any]
    epochs: float
    lr: float
    optimizer: OptimizerLike
    optimizer_args: Mapping[str, Any]
    momentum: float
    weight_decay: float
    decay_biases: bool
    lr_schedule: ScheduleLike
    lr_original: str
    lr_original_epochs: float
    warmup: float
    lr_milestones: str | Sequence[str]
    lr_gamma: float
    label_smoothing: float
    mixup: float
    rescale: int
    ema: float
    clip: float
    accumulate: int
    distill: float
    temperature: float
    deterministic: bool
    cluster: str
    train_workers: int
    onnx: bool
    pt2: bool
    device: str
    amp: str
    cuda_graphs: bool


class ExportKeywords(TypedDict, total=False):
    """Of `export`."""

    model_args: Mapping[str, Any]
    weights: str
    data_args: Mapping[str, Any]
    data_workers: int | str
    task: str
    trainer: TrainerLike
    epochs: float
    lr: float
    optimizer: OptimizerLike
    optimizer_args: Mapping[str, Any]
    momentum: float
    weight_decay: float
    decay_biases: bool
    lr_schedule: ScheduleLike
    lr_original: str
    lr_original_epochs: float
    warmup: float
    lr_milestones: str | Sequence[str]
    lr_gamma: float
    label_smoothing: float
    mixup: float
    rescale: int
    ema: float
    clip: float
    accumulate: int
    distill: float
    temperature: float
    onnx: bool
    pt2: bool
    device: str
    amp: str


class AttachKeywords(TypedDict, total=False):
    """Of `attach`."""

    model_args: Mapping[str, Any]
    data_args: Mapping[str, Any]
    data_workers: int | str
    task: str
    onnx: bool
    pt2: bool
    device: str
    amp: str
