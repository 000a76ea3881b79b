"""`Prepared`: a run that is checked and may begin. Everything that can be wrong is found here, before it costs."""

from __future__ import annotations

import inspect
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from autoprune import data as data_sets
from autoprune import tasks, training
from autoprune.compute import Compute, same_bits
from autoprune.config import RunConfig
from autoprune.config import replace as change
from autoprune.data import ImageData, ImageStream, Streaming
from autoprune.data.memory import parse_size, settled
from autoprune.evaluation.starts import scores_of
from autoprune.formats import check_network
from autoprune.ledger.versions import decisive
from autoprune.problem import Problem, Trial
from autoprune.reference import ModelReference, fingerprint, quiet
from autoprune.report.pace import passes, tuning_passes
from autoprune.report.tables import counted
from autoprune.runs.checking import check_answers, check_call, check_loaders, counted_samples, worst_of
from autoprune.runs.example import example_of
from autoprune.runs.posing import check_names, make_problem
from autoprune.runs.scoring import scoring_passes
from autoprune.settings import TrainingSettings, settings_of
from autoprune.tasks import MapStyle, Task, as_task, resolve_metric
from objectives import find
from objectives.latency import Latency
from objectives.plugins import running
from search_spaces import Kept, NestedNetwork, SearchSpace, copy_of, trace

RESIDENT = ("digits", "cifar10", "cifar100", "tabular")  # kinds of data that are always in memory


@dataclass(frozen=True, eq=False)
class Prepared:
    """A checked run.

    Attributes:
        config: Its settings.
        reference: How the dense network is built; without a factory for an nn.Module object.
        model: The dense network, in eval mode, on the CPU (a copy of a live one).
        task: What the network is for, test samples included (only the final comparison looks at them).
        example: The example input.
        problem: Space, budgets and scores.
        trained: The dense network as a method has trained it, which is cut in place of `model`; None: there is none.
        nested: The network of several levels that a method has trained; None: there is none.
        units: Those that a method has chosen to stay; None: the scores choose them.
        method_epochs: Epochs for which a method has trained it.
        spare: Epochs that a method was given and did not need: the network that it found is trained so much longer.
        course: Of that method's training (see `telling.curve`); empty: there was none.
        begun_with: Versions that the run was begun with, where this process may have others; None: those of here.
        started: When the run began, as `time.monotonic` says; None: in another process.
    """

    config: RunConfig
    reference: ModelReference
    model: nn.Module
    task: Task
    example: Any
    problem: Problem
    begun_with: Mapping[str, str] | None = None
    trained: nn.Module | None = None
    nested: NestedNetwork | None = None
    units: Kept | None = None
    method_epochs: float = 0.0
    spare: float = 0.0
    course: Mapping[str, Any] = field(default_factory=dict)
    started: float | None = None

    def kept(self, trial: Trial) -> Kept:
        """The units that the network of a trial keeps: what a method chose, if they are so many, else the best."""
        if self.units is not None and tuple(map(len, self.units)) == trial.widths:
            return self.units
        return self.space.kept(trial.widths, scores_of(self.problem, trial))

    @property
    def space(self) -> SearchSpace:
        """What may be pruned."""
        return self.problem.space

    @property
    def name(self) -> str:
        """What to call the network."""
        return self.reference.factory.rpartition(":")[2] or type(self.model).__name__

    @property
    def divisors(self) -> str:
        """What `--divisor auto` has chosen, in a sentence; empty where it had nothing to choose."""
        if self.config.divisor != "auto" or not self.problem.latency:
            return ""
        counts = Counter(group.divisor for group in self.space.groups)
        chosen = ", ".join(f"{divisor} for {count}" for divisor, count in sorted(counts.items(), reverse=True))
        groups = counted(len(self.space.groups), "group")
        return f"divisor auto: {chosen} of {groups}, by {' and '.join(self.problem.latency)}"

    def fingerprint(self) -> dict[str, Any]:
        """What this problem is: a resumed run must say the same."""
        config = self.config
        measured = {name: latency.fingerprint for name, latency in self.problem.latency.items()}
        return {
            **({"latency": measured} if measured else {}),
            "weights": fingerprint(self.model),
            "space": self.space.fingerprint,
            "data": self.task.fingerprint,
            "budgets": sorted(map(str, self.problem.budgets)),
            **({"front": [list(self.problem.front), self.problem.worst]} if self.problem.front else {}),
            "criterion": config.criterion,
            **({"score_per": self.problem.score_per} if self.problem.score_per else {}),
            "strategy": [config.strategy, config.encoding, config.warm_starts, config.fidelity],
            **({"method": [config.method, config.method_epochs, dict(config.method_args)]} if config.method else {}),
            **({"prune_when": [config.prune_when, dict(config.prune_when_args)]} if config.prune_when else {}),
            **({"budget_list": list(config.budget_list)} if config.budget_list else {}),
            "metric": config.metric,
            "seed": config.seed,
            "evaluation": [config.bn_samples, config.batch_size, config.short_steps, config.lr, config.abandon],
            **({"training": other} if (other := unusual(config)) else {}),
            "val_samples": config.val_samples,
            "reconstruct": config.reconstruct,
            "versions": dict(self.begun_with or decisive()),
        }


def unusual(config: RunConfig) -> dict[str, Any]:
    """How finalists are trained, where that is not as usual; what they have no use for is left out."""
    usual, given = TrainingSettings(), TrainingSettings.of(config)
    own = [about.name for about in settings_of(TrainingSettings).values() if about.group == "training"]
    told = {name: getattr(given, name) for name in own if name not in ("epochs", "lr", "distill", "temperature")}
    return {name: value for name, value in told.items() if value != getattr(usual, name)}


def expected_cost(prepared: Prepared) -> str:
    """About how long the search will take here, from one timed batch of the dense network."""
    config = prepared.config
    compute = Compute.choose(config.device, config.amp)
    net, task, clock = compute.lent(prepared.model), prepared.task.on(compute), compute.stopwatch()
    batch = task.draw("calibration", config.batch_size, config.seed).whole(config.batch_size)
    with torch.inference_mode(), compute.autocast():
        tasks.answered(task, net, tasks.part_of(batch, 0, 2), "calibration")
        with clock:
            tasks.answered(task, net, batch, "calibration")
    per_image = clock.seconds / tasks.num_samples(batch)

    counts = counted_samples(task)
    scored = passes(config.fidelity, config, counts)
    scoring = scoring_passes(config, counts) * per_image
    search = config.trials * scored * per_image
    short = sum(count * passes(fidelity, config, counts) for count, fidelity in config.schedule.rungs) * per_image
    recovery = tuning_passes(config, counts) * per_image
    trained = ", then ".join(str(count) for count, _ in config.schedule.rungs)
    return (
        f"expected cost on {compute.place_name}, at the dense network's pace: "
        f"scores of the channels = {scoring:.0f} s, {counted(config.trials, 'candidate')} x {scored} {task.sample}s "
        f"(drawn again and again to fit, renew and score) = {search:.0f} s, "
        f"{f'short trainings of the best {trained} of them' if trained else 'none of them trained'} = {short:.0f} s, "
        f"fine-tune of the winner = {recovery:.0f} s"
    )


def prepare(
    config: RunConfig,
    model: nn.Module | None = None,
    task: Task | ImageData | None = None,
    example: Any = None,
    scores: Sequence[NDArray[np.float64]] | None = None,
    latency: Mapping[str, Latency] | None = None,
    divisors: Sequence[int] | None = None,
    say: Callable[[str], None] | None = None,
    check: Callable[[Prepared], None] | None = None,
) -> Prepared:
    """Build, check and score all that a run needs; nothing is written.

    Args:
        config: The settings.
        model: The dense network, where the settings do not say how to build it; left as it is.
        task: What the network is for, where the settings do not say; images in memory are to be classified.
        example: What the network is called with; default one training sample.
        scores: The criterion's scores, where they are known.
        latency: Predictors of measured latencies by metric, where they are known; others are measured.
        divisors: Of the groups, where `auto` has chosen them before.
        say: Called with a line before something takes minutes.
        check: Refuses what the run could not do in the end, before channels are scored, which may train: called with
            all that is prepared by then.

    Raises:
        ValueError: If anything is wrong with the model, the data, the budgets or the names, or a package is missing.
    """
    started = None if config.join else time.monotonic()
    check_objects(model, task)
    check_end(config)
    check_names(config, scores is not None, latency or ())
    reference = ModelReference(config.model, config.model_args, config.weights)
    dense = reference.build(say or quiet) if model is None else copied(model)
    _check_precision(dense)
    task = load_task(config) if task is None else as_task(task).loading(config.data_workers)
    resolve_metric(config.metric, task)
    check_loaders(task)
    name = reference.factory or type(dense).__name__
    if example is None:
        if not isinstance(task, MapStyle) and not config.input:
            check_call(dense, task, name)
        example = example_of(config, task, dense)
    example = tree_map_only(Tensor, Tensor.cpu, example)
    compute = Compute.choose(config.device)
    space = trace(compute.lent(dense), compute.lent_inputs(example), prune_inputs=config.prune_inputs)
    check_answers(dense, task, name, config)
    known: dict[str, Any] = {"scores": scores, "latency": latency, "divisors": divisors, "say": say}
    known["worst"] = worst_of(dense, task, config) if config.front else math.inf
    known["check"] = None if check is None else lambda early: check(so_far(early))

    def so_far(problem: Problem) -> Prepared:
        return Prepared(config, reference, dense, task, example, problem, started=started)

    return so_far(make_problem(config, dense, space, example, lambda: _score_batches(task, config), task=task, **known))


def check_end(config: RunConfig) -> None:
    """Check what the end of a run needs, before it costs anything: its device, and what its formats need.

    From here on this process gets the same bits each time, where that was asked for.

    Raises:
        ValueError: If the device is not here, or packages are missing.
    """
    check_formats(config)
    Compute.choose(config.device)
    if config.deterministic:
        same_bits(config.device)


def check_formats(config: RunConfig) -> None:
    """Check that the formats that are asked for can be written here.

    Raises:
        ValueError: Naming the packages that are missing.
    """
    if config.onnx and (missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]):
        raise ValueError(f"--onnx: needs {', '.join(missing)}; pip install 'autoprune[onnx]'")


def check_delivery(config: RunConfig, prepared: Prepared, *, trains: bool) -> None:
    """Check, before anything is spent on it, that the network can be trained, and written in the formats asked for.

    Raises:
        ValueError: If no parameter can be trained though one must, or not as the settings say; naming the format and
            why not.
    """
    if trains and not any(p.requires_grad for p in prepared.model.parameters()):
        raise ValueError(
            f"model '{prepared.name}': none of its parameters requires a gradient, so it cannot be trained; call "
            "model.requires_grad_(True), or train nothing (--epochs 0, in a search also --finalists 0)"
        )
    if trains:
        training.check(prepared.model, prepared.task, config)
        if config.trainer:
            find("trainer", config.trainer, {})
    check_network(prepared.model, prepared.example, onnx=config.onnx, pt2=config.pt2)


def check_objects(model: object, task: object) -> None:
    """Check that what was given instead of a name is a network, or a task.

    Raises:
        ValueError: If it is something else.
    """
    for name, given, kind, expected in (
        ("model", model, nn.Module, 'an nn.Module, a function that builds one, or "package.module:factory"'),
        (
            "data",
            task,
            (ImageData, Task),
            'a Task, an ImageData, "digits", "cifar10:DIR", "imagefolder:DIR", "package.module:function"',
        ),
    ):
        if given is not None and not isinstance(given, kind):  # type: ignore[arg-type]
            found = type(given).__name__ if isinstance(given, type) else f"{given!r:.40}"
            raise ValueError(f"{name}: expected {expected}; got {found}")


def with_memory(config: RunConfig, given: Any = None) -> RunConfig:
    """The settings with the memory for data as a size, where it matters: the run keeps it, and all its processes.

    Args:
        config: The settings.
        given: Data that were given in Python.
    """
    if given is None and config.data.partition(":")[0] in ("", *RESIDENT):
        return config
    return change(config, data_memory=settled(config.data_memory))


def load_data(config: RunConfig, *, test: bool = True, given: Any = None) -> ImageData | ImageStream:
    """The images that the settings describe, or that were given in Python.

    Raises:
        ValueError: If a data argument is unknown, or as `autoprune.data.load`.
    """
    known = set(inspect.signature(data_sets.load).parameters) - {"spec", "test"}
    if unknown := config.data_args.keys() - known:
        raise ValueError(f"data_args: unknown {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    streaming = Streaming(parse_size(with_memory(config, given).data_memory or "0")[0], config.data_workers)
    spec = config.data if given is None else given
    return data_sets.load_or_stream(spec, streaming, **config.data_args, test=test)


def load_task(config: RunConfig, *, test: bool = True) -> Task:
    """What the network is for, as the settings describe it.

    Args:
        config: With `task`, or with `data` for one of the built-in tasks.
        test: Whether what only the end may see is wanted, too.

    Raises:
        ValueError: If there is no such task, or its data are unusable.
    """
    if config.task:
        return named_task(config.task)
    memory = parse_size(with_memory(config).data_memory or "0")[0]
    found = tasks.built_in(config.data, config.data_args, memory) or as_task(load_data(config, test=test))
    return found.loading(config.data_workers)


def named_task(name: str) -> Task:
    """The task that "package.module:name" stands for: a task, a class of one, or a function that makes one.

    Raises:
        ValueError: If it is none of these, or fails.
    """
    found = find("task", name, {})
    if not isinstance(found, Task) and callable(found):
        with running(f"task '{name}'", "while it was made"):
            found = found()
    if not isinstance(found, Task):
        raise ValueError(f"task '{name}': expected an autoprune.tasks.Task, or what makes one without arguments, got "
                         f"{found!r:.60}")  # fmt: skip
    if not found.spec:
        found.spec = name.rpartition(":")[2]
    return found


def _check_precision(model: nn.Module) -> None:
    """Check that the weights are float32: what the images are, and what training needs."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype is not torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ValueError(f"model {type(model).__name__}: its weights must be float32, found {kind} in '{name}'; "
                             "give model.float(), autocast does the rest")  # fmt: skip


def copied(model: nn.Module) -> nn.Module:
    """The user's network stays as it is, wherever it is.

    Raises:
        ValueError: If it has no weights yet, or cannot be copied.
    """
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(f"model {type(model).__name__}: has no weights, as it is on the meta device; "
                         "model.to_empty(device='cpu'), then load its weights")  # fmt: skip
    try:
        return copy_of(model).cpu().eval()
    except (TypeError, RuntimeError) as error:
        cure = "remove what cannot (a lock, an open file, a tensor with a graph), or give its factory by name"
        raise ValueError(f"model {type(model).__name__}: cannot be copied ({error}); {cure}") from error


def _score_batches(task: Task, config: RunConfig) -> Iterator[Any]:
    """Training samples, not augmented, for the criteria that need gradients or activations."""
    return task.draw("calibration", config.score_samples, config.seed).batches(config.batch_size)
