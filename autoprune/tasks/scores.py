"""What is measured of a network's answers: torchmetrics as they are, functions, and what a search minimises of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from autoprune.labels import LOSS, Score
from autoprune.tasks.trees import mapped, no_targets, num_samples, on_cpu
from objectives.plugins import PluginError, find, running

TAKEN = (
    "loss", "batch_losses", "abandoned", "samples", "seconds_compute", "seconds_total", "halved_batch", "start",
    "units", "resumed_from", "loss_trained",
)  # fmt: skip
"""What an evaluator says besides the scores of a task: names that are not free."""


class Scored(Protocol):
    """What of a task is needed to measure it.

    Attributes:
        sample: What one of a batch is called.
    """

    sample: str

    def scores(self) -> Mapping[str, Any]:
        """Metrics by name."""

    def answers(self, outputs: Any, batch: Any) -> tuple[Any, Any]:
        """What metrics are given."""


class Metric:
    """A function of (outputs, targets), and how to read what it gives.

    Args:
        function: Gives one number, or one for each sample [N]; outputs and targets are on the CPU, in float32.
        higher_is_better: Whether it is.
        best: The best it can be, 1 for a fraction; None where there is no bound.
        whole: It gets the answers of all samples at once, not batch by batch (the mean over samples is taken then).
        on_device: It takes tensors where they are.
    """

    def __init__(
        self,
        function: Callable[[Any, Any], Any],
        higher_is_better: bool = False,
        best: float | None = None,
        *,
        whole: bool = False,
        on_device: bool = False,
    ) -> None:
        self.function, self.higher_is_better, self.best = function, higher_is_better, best
        self.whole, self.on_device = whole, on_device


def score_of(name: str, metric: Any) -> Score:
    """How a metric of a task is read.

    Raises:
        ValueError: If it is no metric.
    """
    if isinstance(metric, Metric):
        return Score(name, metric.higher_is_better, metric.best)
    if _is_stateful(metric):
        bound = getattr(metric, "plot_upper_bound", None)
        higher = bool(getattr(metric, "higher_is_better", False))
        return Score(name, higher, float(bound) if higher and bound is not None else None)
    if not callable(metric):
        raise ValueError(f"metric '{name}': expected a torchmetrics metric, a function of (outputs, targets) or an "
                         f"autoprune.tasks.Metric, got {in_short(metric)}")  # fmt: skip
    return Score(name)


def metrics_of(where: str, metrics: Any) -> dict[str, Any]:
    """The metrics of a task by name, checked; a `MetricCollection` of torchmetrics is one of them, too.

    Raises:
        ValueError: If they are none, or a name is not free.
    """
    if metrics is not None and not isinstance(metrics, Mapping):
        collection = _is_stateful(metrics) and callable(getattr(metrics, "items", None))
        if not collection:
            raise ValueError(f"{where}: metrics must be a dictionary of name -> metric, got {in_short(metrics)}; e.g. "
                             '{"mine": it}')  # fmt: skip
        metrics = dict(metrics.items())
    for name, metric in (metrics or {}).items():
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{where}: metric {name!r} must have a name; names are text")
        if name in TAKEN:
            raise ValueError(f"{where}: metric '{name}' must be called otherwise, a trial has '{name}' already; e.g. "
                             f"'my_{name}'")  # fmt: skip
        if isinstance(metric, type):
            raise ValueError(f"metric '{name}': {metric.__name__} is a class; make one of it: {metric.__name__}(...)")
        score_of(name, metric)
    return dict(metrics or {})


def in_short(thing: Any) -> str:
    """What was given, in a few words on one line."""
    return f"{' '.join(repr(thing).split()):.60}"


def _is_stateful(metric: Any) -> bool:
    return all(callable(getattr(metric, verb, None)) for verb in ("update", "compute"))


class Meter:
    """Follows all metrics of a task over some batches.

    Args:
        task: Whose answers are measured.
        more: Further metrics, by name.
    """

    def __init__(self, task: Scored, more: Mapping[str, Any] | None = None) -> None:
        self._task = task
        self._metrics: dict[str, Any] = {}
        for name, metric in {**task.scores(), **(more or {})}.items():
            if _is_stateful(metric):
                with _blamed(name, "while it was copied and reset"):
                    metric = copy.deepcopy(metric)
                    getattr(metric, "reset", lambda: None)()
            elif not isinstance(metric, Metric):
                score_of(name, metric)
                metric = Metric(metric)
            self._metrics[name] = metric
        self._values: dict[str, list[Tensor]] = {name: [] for name in self._metrics}
        self._sizes: list[int] = []
        self._all: list[tuple[Any, Any]] = []

    def update(self, outputs: Any, batch: Any) -> None:
        """Look at the answers to one batch; in full precision."""
        with torch.autocast("cpu", enabled=False):
            self._update(outputs, batch)

    def _update(self, outputs: Any, batch: Any) -> None:
        count = num_samples(batch)
        self._sizes.append(count)
        answers, targets = self._task.answers(outputs, batch)
        on_host: tuple[Any, Any] | None = None
        for name, metric in self._metrics.items():
            if isinstance(metric, Metric) and metric.whole:
                continue
            if isinstance(metric, Metric) and metric.on_device:
                self._values[name].append(torch.as_tensor(metric.function(answers, targets)))
                continue
            if on_host is None:
                on_host = on_cpu(answers), on_cpu(targets)
            with _blamed(name, f"on the outputs of {count} {self._task.sample}s{_of_targets(batch)}"):
                if isinstance(metric, Metric):
                    self._values[name].append(_numbers(name, _try(metric.function, *on_host), count))
                else:
                    metric.update(*on_host)
        if any(isinstance(metric, Metric) and metric.whole for metric in self._metrics.values()):
            self._all.append((answers, targets))

    @property
    def tensors(self) -> list[list[Tensor]]:
        """What was measured batch by batch, where it was."""
        return list(self._values.values())

    def values(self, name: str) -> Tensor | None:
        """What a metric gave for each sample so far [N], or one number [1]; None if that is known in the end only."""
        metric = self._metrics[name]
        if not isinstance(metric, Metric):
            return None
        if metric.whole:
            answers, targets = _together(self._all)
            count = sum(self._sizes)
            with _blamed(name, f"on the outputs of {count} {self._task.sample}s"):
                host = (answers, targets) if metric.on_device else (on_cpu(answers), on_cpu(targets))
                return _numbers(name, _try(metric.function, *host), count)
        found = self._values[name]
        if found and all(v.shape == (n,) for v, n in zip(found, self._sizes, strict=True)):
            return torch.cat(found)
        return None

    def compute(self) -> dict[str, float]:
        """Every metric by name; what gives several numbers in a dictionary gives them by their own names."""
        found: dict[str, float] = {}
        for name, metric in self._metrics.items():
            if isinstance(metric, Metric):
                values = self.values(name)
                if values is None:
                    weights = torch.tensor(self._sizes, dtype=torch.float64)
                    means = torch.stack([v.double().mean().cpu() for v in self._values[name]])
                    values = (means * weights).sum() / weights.sum()
                found[name] = float(values.double().mean())
            else:
                with _blamed(name, "when asked for its value"):
                    found |= _scalars(name, metric.compute())
        return found

    @property
    def scores(self) -> tuple[Score, ...]:
        """How all of them are read."""
        return tuple(score_of(name, metric) for name, metric in self._metrics.items())


def _scalars(name: str, value: Any) -> dict[str, float]:
    """The numbers in what a metric says.

    Raises:
        PluginError: If there is none.
    """
    if isinstance(value, Mapping):
        found = {str(key): number for key, item in value.items() if (number := _tensor(item)) is not None}
        numbers = {key: float(item) for key, item in found.items() if item.numel() == 1 and key not in TAKEN}
        if numbers:
            return numbers if name in numbers else {name: next(iter(numbers.values())), **numbers}
    elif (number := _tensor(value)) is not None and number.numel():
        return {name: float(number.double().mean())}
    raise PluginError(f"metric '{name}': expected a number, or numbers in a dictionary, got {in_short(value)}")


def _tensor(value: Any) -> Tensor | None:
    """Real numbers as a tensor; None: it is something else."""
    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if found.is_complex() else found if found.is_floating_point() else found.double()


def _numbers(name: str, value: Any, count: int) -> Tensor:
    found = _tensor(value)
    if found is None:
        text = " ".join(repr(value).split())
        shown = text if len(text) <= 40 else type(value).__name__
        raise PluginError(f"metric '{name}': expected one number or one per sample, got {shown}")
    if found.numel() != 1 and found.shape != (count,):
        raise PluginError(f"metric '{name}': expected one number or one per sample, got shape {tuple(found.shape)}")
    return found.detach()


def _try(function: Callable[[Any, Any], Any], outputs: Any, targets: Any) -> Any:
    """The function of tensors; of arrays, where it takes no tensors."""
    try:
        return function(outputs, targets)
    except (TypeError, AttributeError):

        def array(leaf: Any) -> Any:
            return leaf.numpy() if isinstance(leaf, Tensor) else leaf

        with torch.inference_mode(False):
            arrays = mapped(array, outputs), mapped(array, targets)
        try:
            return function(*arrays)
        except Exception:
            pass
        raise


@contextmanager
def _blamed(name: str, doing: str = "") -> Iterator[None]:
    with running(f"metric '{name}'", doing):
        yield


def _of_targets(batch: Any) -> str:
    """What errors say of the targets of a batch that names none."""
    return f" and targets ({said})" if (said := no_targets(batch)) else ""


def _together(seen: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    """All answers and all targets as one batch; lists where they do not fit together."""
    columns = list(zip(*seen, strict=True))

    def join(parts: tuple[Any, ...]) -> Any:
        if all(isinstance(p, Tensor) for p in parts):
            return torch.cat([*parts])
        return [item for part in parts for item in part] if all(isinstance(p, list) for p in parts) else list(parts)

    return join(columns[0]), join(columns[1])


def resolve_metric(name: str, task: Scored | None = None) -> Metric | None:
    """The function behind a metric that no task brings: "package.module:function" of (outputs, targets).

    Of a class an instance is made, without arguments; that is called.

    Args:
        name: As the settings have it.
        task: Whose own scores are known by their names; None for those.

    Returns:
        The metric; None for the loss, or a score of the task.

    Raises:
        ValueError: If there is no such metric.
    """
    known: dict[str, Any] = {"loss": None, **(task.scores() if task else {})}
    found = known[name] if name in known else find("metric", name, known)
    if name in known:
        return None
    if isinstance(found, type):
        with running(f"metric '{name}'", "while it was made"):
            found = found()
    if isinstance(found, Metric):
        return found
    if not callable(found):
        raise ValueError(f"metric '{name}': expected a function of (outputs, targets), got {type(found).__name__}")
    return Metric(found, whole=True)


def goal_of(name: str, task: Scored) -> Score:
    """How the metric is read that a search minimises.

    Raises:
        ValueError: If there is no such metric, or nobody says whether more of it is better.
    """
    if name == "loss":
        return LOSS
    for own, metric in task.scores().items():
        if own == name:
            if not isinstance(metric, Metric) and getattr(metric, "higher_is_better", 0) is None:
                raise ValueError(f"metric '{name}': {type(metric).__name__} does not say whether higher is better; set "
                                 "its attribute higher_is_better, or choose another metric")  # fmt: skip
            return score_of(own, metric)
    metric = resolve_metric(name, task)
    return Score(name) if metric is None else score_of(name, metric)
