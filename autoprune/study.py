"""Ask and tell: a search whose candidates somebody else trains and evaluates, kept in the same ledger."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from autoprune.config import RunConfig, names_of
from autoprune.controller import Job
from autoprune.criteria.scoring import Batches
from autoprune.errors import SearchStopped
from autoprune.files import write_text
from autoprune.labels import Labels
from autoprune.ledger import Ledger
from autoprune.ledger.versions import decisive
from autoprune.modes import with_gradients
from autoprune.problem import Trial, TrialState
from autoprune.reference import fingerprint
from autoprune.report.ending import STUDY
from autoprune.runs import RunDirectory, copied, example_tensors, make_controller, note_versions, run_path
from autoprune.runs.posing import check_names, make_problem
from autoprune.tasks import Pairs, Task
from autoprune.tasks.draws import first_of
from autoprune.tasks.trees import targets_of
from search_spaces import Widths, prune, trace

SETTINGS = (
    "criterion divisor depth min_keep prune_inputs freeze seed strategy encoding warm_starts score_per latency_command "
    "trials name"
)
DEFAULT = "l1"  # criterion: it looks at the weights only
FIDELITY = "proxy"  # what the ledger calls the one fidelity there is: the user's own


class Candidate(nn.Module):
    """A pruned network to train and evaluate: an nn.Module as any other.

    Attributes:
        number: Of its trial.
        model: The pruned network itself, without this wrapper, in eval mode, on the CPU.
        widths: Kept units per group.
        costs: By cost ("macs", "params", "activations", and those of the budgets), in its unit.
        loss: What was told; None so far.
    """

    def __init__(self, number: int, model: nn.Module, widths: Widths, costs: Mapping[str, float]) -> None:
        super().__init__()
        self.number, self.model, self.widths, self.costs = number, model, widths, dict(costs)
        self.loss: float | None = None
        self.train(model.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the pruned network answers."""
        return self.model(*args, **kwargs)


class Study:
    """A search without this project's evaluation, data or trainer: it proposes networks, and is told their losses.

    Candidates hold the budget; their weights are those of the dense network that stay. All is kept in `results/NAME`:
    the same call goes on where it was stopped, and a candidate that was asked and never told is asked again.

    Args:
        model: The dense network; copied.
        example_inputs: What it is called with: a tensor, or a tuple or dictionary of tensors.
        budget: One or several that must all hold: "macs<=50%", "params<=1.5M" ...
        criterion: Which channels stay; the default looks at the weights only.
        batches: For a criterion that needs gradients or activations: a list or a `DataLoader` of batches as `Task.of`
            takes them: (inputs, targets) or a dictionary; inputs are a tensor, a tuple, a dictionary or a list.
        loss: Of those batches, a function of (outputs, targets). Without it: cross-entropy where the targets are class
            numbers, else what the network itself computes when it is given the targets, too.
        **settings: strategy, trials, name, seed, encoding, warm_starts, divisor, depth, min_keep, prune_inputs, freeze,
            score_per, latency_command; see `autoprune.RunConfig`.

    Raises:
        ValueError: If something is wrong with what was given; nothing has been written then.
        LedgerMismatch: If there is a study of that name of another problem.
        RunIsLive: If another process has it open.

    Example:
        study = autoprune.Study(model, torch.zeros(1, 3, 32, 32), budget="macs<=50%", trials=50)
        for candidate in study:
            study.tell(candidate, my_loss(candidate))
        best = study.best.model
    """

    @with_gradients
    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        budget: str | list[str] | tuple[str, ...] = "macs<=50%",
        *,
        criterion: Any = DEFAULT,
        batches: Batches | None = None,
        loss: Callable[..., Any] | None = None,
        **settings: Any,
    ) -> None:
        known = SETTINGS.split()
        if unfit := settings.keys() & {*names_of("search")} - {*known}:
            raise ValueError(f"study: takes no {', '.join(sorted(unfit))}, which belong to an evaluation that is "
                             f"yours here; it takes {', '.join(known)}")  # fmt: skip
        if not isinstance(model, nn.Module):
            raise ValueError(f"study: model must be an nn.Module, got {type(model).__name__}")
        own = {"finalists": 0, "epochs": 0.0, "fidelity": FIDELITY}
        config = RunConfig.make(budget=budget, criterion=criterion, **own, **settings)
        path = run_path(config, type(model).__name__)
        check_names(config)
        example_tensors(example_inputs)
        example = tree_map_only(Tensor, Tensor.cpu, example_inputs)
        self._dense = copied(model)
        space = trace(self._dense, example, prune_inputs=config.prune_inputs)
        run = RunDirectory(path, config) if (path / "config.toml").is_file() else None
        saved: dict[str, Any] = {}
        if run:
            divisors = [group.divisor for group in run.space().groups]
            saved = {"scores": run.scores(), "latency": run.latency(), "divisors": divisors}
        task = None if batches is None else _task(batches, loss)
        self._problem = make_problem(config, self._dense, space, example, lambda: batches, task=task, **saved)
        self.run_dir = (run or RunDirectory.create(path, config, self._problem, example, Labels("sample", ()))).path
        write_text(self.run_dir / STUDY, json.dumps(_arguments(config, path)))
        groups = {group.name: group.size for group in self._problem.space.groups}
        self._ledger = Ledger.open(self.run_dir, groups, self._fingerprint(config))
        with contextlib.ExitStack() as stack:
            stack.callback(self._ledger.close)
            RunDirectory(path, config).remember(trials=config.trials)
            note_versions(self._ledger)
            self._controller = make_controller(self._ledger, config, self._problem, config.schedule)
            stack.pop_all()
        self._workers: dict[int, str] = {}  # number of a trial -> the name under which it was asked

    def __enter__(self) -> Study:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[Candidate]:
        """Candidates until the search is over."""
        while (candidate := self.ask()) is not None:
            yield candidate

    @property
    def trials(self) -> list[Trial]:
        """Every trial so far, in number order."""
        return self._controller.trials

    @property
    def best(self) -> Candidate | None:
        """The lowest loss told so far, its network as it was asked; None before the first."""
        found = self._controller.best
        return None if found is None else self._candidate(found.number, found.widths)

    def ask(self) -> Candidate | None:
        """The next network to evaluate; None: as many as `trials` were, and the search is over.

        Several may be out at once; each is told when its loss is known.

        Raises:
            SearchStopped: If too many candidates failed, or the strategy proposes nothing before it is told more.
        """
        out = {*self._workers.values()}
        worker = next(name for i in itertools.count() if (name := f"user {i}") not in out)  # as many as are out at once
        job = self._controller.ask(worker)
        if job is None:
            return None
        if not isinstance(job, Job):
            untold = sorted(t.number for t in self.trials if t.state is TrialState.RUNNING)
            raise SearchStopped(f"study '{self.run_dir}': nothing to ask before candidates {untold} are told")
        self._workers[job.number] = worker
        return self._candidate(job.number, job.widths)

    def tell(self, candidate: Candidate | int, loss: float | Tensor | Mapping[str, Any] | None) -> Trial:
        """What a candidate is worth; it is in the ledger when this returns, and the first answer counts.

        Args:
            candidate: Or its number.
            loss: Lower is better; a dictionary with "loss" keeps further numbers, too; None: it failed.

        Raises:
            ValueError: If no such candidate was asked, or the loss is no number.
        """
        number = candidate.number if isinstance(candidate, Candidate) else candidate
        if loss is None:
            result: dict[str, Any] | str = "the user's own evaluation failed"
        else:
            said = dict(loss) if isinstance(loss, Mapping) else {"loss": loss}
            try:
                result = {**said, "loss": float(said["loss"])}
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise ValueError(f"study: the loss of candidate {number} must be one number, or a dictionary with one "
                                 f'as "loss", got {loss!r:.60}') from error  # fmt: skip
        trial = self._controller.tell(self._workers.pop(number, ""), number, result)
        if isinstance(candidate, Candidate):
            candidate.loss = trial.metrics.get("loss")
        return trial

    def close(self) -> None:
        """Let go of the ledger, for another process; the end of this one does so, too."""
        self._ledger.close()

    def _candidate(self, number: int, widths: Widths) -> Candidate:
        problem = self._problem
        net = prune(self._dense, problem.space, problem.space.kept(widths, problem.scores)).eval()
        found = Candidate(number, net, widths, problem.feasibility.price(widths))
        found.loss = self.trials[number].metrics.get("loss")
        return found

    def _fingerprint(self, config: RunConfig) -> dict[str, Any]:
        """What this problem is: a study that goes on must say the same."""
        return {
            "weights": fingerprint(self._dense),
            "space": self._problem.space.fingerprint,
            "budgets": sorted(map(str, self._problem.budgets)),
            "criterion": config.criterion,
            "strategy": [config.strategy, config.encoding, config.warm_starts],
            "seed": config.seed,
            "versions": dict(decisive()),
        }


def _task(batches: Batches, loss: Callable[..., Any] | None) -> Task:
    """What the batches are of.

    Raises:
        ValueError: If they cannot be read again, or are none.
    """
    given = Task.of(batches, batches, loss=loss, name="study: batches")
    first = first_of(given.read("train"), "study: batches", 0)
    targets = None if isinstance(first, Mapping) else targets_of(first)
    numbers = isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point()
    return Pairs() if loss is None and numbers else given


def _arguments(config: RunConfig, path: Path) -> dict[str, Any]:
    """What goes on with a study, where it is not as usual."""
    usual = RunConfig.make(budget=config.budget, criterion=DEFAULT)
    told = {name: getattr(config, name) for name in SETTINGS.split() if name != "name"}
    told = {name: value for name, value in told.items() if value != getattr(usual, name)}
    return {"budget": list(config.budget), **told, "name": str(path) if path.parent != Path("results") else path.name}
