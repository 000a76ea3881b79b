"""`RunConfig`: all that a run can be told, once. Flags, TOML files, keywords and their help are made from it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.config.combinations import check_together, chosen
from autoprune.fidelity import Fidelity
from autoprune.labels import Labels
from autoprune.settings import GROUPS, Setting, TrainingSettings, settings_of, toml
from autoprune.settings.setting import LATER, MOST, named_of

if TYPE_CHECKING:
    from autoprune.limits import Limits
    from autoprune.schedule import Halving

AGAIN = "resume finetune export attach"  # take what names a run's objects, or says where its files have moved
problem, search, training, run = (GROUPS[name] for name in ("problem", "search", "training", "run"))


def _named(name: str, value: Any) -> str:
    """The name of a criterion, a strategy or a metric that was given."""
    if isinstance(value, (str, Path)):
        return named_of(name, value)
    from autoprune.criteria import CRITERIA, Criterion  # here, because --help need not wait for torch
    from autoprune.strategies import STRATEGIES, Strategy
    from objectives import named

    known: dict[str, Mapping[str, Any]] = {"criterion": CRITERIA, "strategy": STRATEGIES, "metric": {}}
    given = isinstance(value, (Criterion, Strategy))
    return named(value, known[name]) if given else named_of(name, value, known[name])


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrainingSettings):
    """The settings of one run, resolved and checked: every default a user may turn; `SETTINGS` explains them.

    Example:
        config = autoprune.RunConfig(model="mine:net", weights="net.safetensors", data="cifar10:data", trials=200)
        result = autoprune.search(config=config)

    Raises:
        ValueError: If a setting is of the wrong type or out of its range.
    """

    # fmt: off
    # the problem: what is pruned, to what, and by which scores
    model: str = problem("", "REF", "what builds the dense network: package.module:factory",
        verbs=AGAIN, common="*")
    model_args: dict[str, Any] = problem({}, "KEY=VALUE",  # noqa: RUF009
        "a keyword argument of the factory (repeatable), e.g. num_classes=10", verbs=AGAIN,
        common="*", brief="argument of the factory (repeatable): num_classes=10")
    weights: str = problem("", "FILE", "its trained weights: .safetensors or a torch state dict (never unpickled)",
        verbs="resume finetune export", common="*", brief="its trained weights: .safetensors or state dict")
    data: str = problem("", "SPEC", "digits | cifar10:DIR | cifar100:DIR | imagefolder:DIR (DIR/train/<class>/ and "
        "DIR/test/<class>/ or DIR/val/<class>/) | package.module:function",
        verbs=AGAIN, common="*", brief="digits | cifar10:DIR | imagefolder:DIR | package.module:function ...")
    data_args: dict[str, Any] = problem({}, "KEY=VALUE",  # noqa: RUF009
        "how the data are loaded (repeatable): image_size=224, max_images=50000, mean=.5,.5,.5 and std=.5,.5,.5 (what "
        "the network was trained with; 0 and 1 leave pixels in 0..1), val_images=5000 and seed=0 (of the split), "
        "augmentation=random-resized-crop+flip+randaugment (crop-flip, crop, none ...), skip_damaged=true (leave out "
        "image files that cannot be read; they are counted)", verbs=AGAIN,
        common="search profile train", brief="how they are loaded (repeatable): image_size=224 ...")
    data_memory: str = problem("", "SIZE",
        "images of a folder, or a data set of your own, that take more than this in memory are streamed: decoded and "
        "augmented by processes whenever they are wanted, and only samples that score are kept; 4GiB, 500MB, 10%, or 0 "
        "(stream whatever can be)", usual="25% of what is free; a run keeps what that was")
    data_workers: int | str = problem("auto", "N",
        "processes that load what is streamed (0: none; auto: as many as this process has CPU cores; those of a "
        "search's worker never exceed its share of them)", kind=int | str, low=0, high=1000, verbs=AGAIN)
    task: str = problem("", "REF",
        "what the network is for, where it is not one of the data above: package.module:Name of a task (see "
        "autoprune.tasks.Task), or of a function that makes one", verbs=AGAIN,
        common="*", brief="a task of your own instead: package.module:Name")
    input: str = problem("", "NxCxHxW",
        "example input to trace the network with, e.g. 1x3x224x224 (default: one sample of the data)")
    budget: tuple[str, ...] = problem(LATER, "BUDGET",
        "what must hold (repeatable; all hold at once): macs, params or activations <= a percentage of the dense "
        "network (macs<=50%), a fraction of it (0.5x) or a number (params<=1.5M). flops is accepted and means MACs "
        "(one multiply-add counts 1). A measured latency: latency<=60%@onnxruntime,batch=1,threads=1 or "
        "latency<=3.5ms@torch (backends: onnxruntime, torch, compile, tensorrt, command)",
        kind=tuple, usual="macs<=50%; none with front",
        common="*", brief="what must hold (repeatable): macs<=50%, params<=1.5M, latency<=3ms@onnxruntime")
    budget_list: tuple[str, ...] = problem((), "BUDGET",
        "budgets of the smaller networks that --method nested trains with the one of --budget, from the largest to the "
        "smallest (comma separated or repeatable): 30%,15%, or macs<=30%",
        common="train", brief="of --method nested, the budgets of its smaller networks: 30%,15%")
    front: tuple[str, ...] = problem((), "COST",
        "search the whole trade-off of the loss against these costs (comma separated or repeatable), e.g. "
        "macs,latency@onnxruntime: one run, many budgets. Unless they are given, the strategy is then nsga2 and no "
        "budget must hold; export any point with autoprune export RUN --budget ...",
        common="search profile", brief="the whole trade-off of loss and these: macs,params")
    latency_command: str = problem("", "COMMAND",
        'what latency@command calls for an ONNX file, printing milliseconds: "ssh pi ./bench {onnx}"')
    criterion: str | Any = problem("group_fisher", "NAME",  # noqa: RUF009
        "which channels matter: group_fisher (finalists may keep those of magnitude instead, if they train better), "
        "taylor, obd, orthoreg, l1, l2, magnitude, lamp, bn_scale, "
        "geometric_median, leverage, exemplar, apoz, mean_activation, hrank, thinet, nisp, random, "
        "package.module:Name, or a file of scores (as --method sandwich writes it: FILE.scores.safetensors)",
        kind=object, named=_named,
        common="search profile train", brief="which channels matter: taylor, l1, magnitude ...")
    score_samples: int = problem(2048, "SAMPLES", "training samples whose gradients score the channels",
        low=1, high=MOST)
    score_rounds: int = problem(4, "ROUNDS",
        "rounds of pruning and a short training in which criteria that look at data score the channels, so that what "
        "others make up for goes (1, and where a run trains nothing: once, on the dense network)", low=1, high=100)
    score_steps: float = problem(0.2, "STEPS",
        "SGD steps between two of these rounds, or below 1 their fraction of short_steps (0: only batch-norm is "
        "renewed)", low=0, high=MOST)
    score_per: str = problem("", "COST",
        "what a channel's score is divided by in the knapsack, a closed form that most searches begin with: what it "
        "frees of macs, params, activations (the memory of Group Fisher) or a latency@... that a budget names; or "
        "none, the scores as they are (default: of what the budgets limit)")
    divisor: int | str = problem("auto", "CHANNELS",
        "widths are multiples of it; auto: of what the device of the latency budget computes fast, group by group "
        "(1 without such a budget)", kind=int | str, low=1, high=MOST)
    depth: str = problem("auto", "auto|on|off",
        "whether whole branches may go: residual blocks, attentions, MLPs, gates, parts of a concatenation "
        "(auto: under a latency budget, as a small batch takes calls rather than arithmetic)")
    min_keep: float = problem(0.0, "FRACTION", "fraction of each group's channels that always stays (one always does)",
        low=0, high=1)
    prune_inputs: bool = problem(False, "",
        "the channels that the network is fed with (spectral bands, sensors, frequencies) are a group, too, called "
        "input, or of several inputs input:NAME; what is delivered takes the kept ones only (autoprune.kept_inputs, "
        "autoprune.select_inputs)")
    freeze: tuple[str, ...] = problem((), "GROUP",
        "a group that must not be pruned (repeatable; names: autoprune profile)", common="search profile",
        brief="a group to leave as it is (names: autoprune profile)")
    # the search
    strategy: str | Any = search("", "NAME",  # noqa: RUF009
        "what to try next: combined (starts from closed-form rules and improves the best by evolution), evolution, "
        "layer_compensation, lcp, legr, annealing, gp, tpe, cmaes, nsga2, amc, amc_guaranteed, reinforce, netadapt, "
        "sensitivity, sensitivity_knapsack, random; closed-form rules, which answer at once: uniform, global_ranking, "
        "knapsack, equal_loss, exemplars (how many filters can stand for all); or package.module:Name",
        usual="combined; nsga2 with front",
        kind=object, named=_named, common="search", brief="what to try next: combined (rules, then evolution), tpe ...")
    encoding: str = search("", "NAME",
        "what a strategy varies (default: its own choice): ratios (of the widths), how units are ranked across groups "
        "by a scale and a shift for each (compensation), the shift alone (shift) or both on its scores (affine), or "
        "how many filters stand for all (exemplars)")
    warm_starts: str = search("closed", "NAME",
        "what is tried first: closed (the closed-form rules, what other tools would answer, thinned blocks), "
        "sensitivity (a scan of every group alone, and its answers), or none")
    trials: int = search(93, "N",
        "candidates that the search scores, warm starts among them; finalists come on top", low=1, high=MOST,
        verbs="profile resume", common="*")
    time: str = search("", "DURATION",
        "no new candidate after so long, over all resumes: 90s, 45m, 2h, 1h30m (finalists still run); a resume with "
        "+90s goes on for so much longer than it has worked", verbs="resume",
        common="*", brief="no new candidate after so long: 90s, 45m, 2h, 1h30m")
    target: str = search("", "METRIC",
        "no new candidate once one is so good: loss<=0.4, or a score of the task (top1>=90%, miou>=0.7), on the "
        "validation samples", verbs="resume")
    max_failures: int = search(10, "N", "stop when so many candidates in a row have failed",
        low=1, high=MOST, verbs="resume")
    max_failure_rate: float = search(0.8, "FRACTION",
        "stop when more than this fraction of 20 or more candidates has failed", low=0, high=1, verbs="resume")
    fidelity: str = search("reconstructed", "NAME",
        "what is done to a candidate before it is scored: raw (nothing), proxy (batch-norm re-estimated), "
        "reconstructed (layers fitted to the dense network's outputs by least squares, too), "
        "short:STEPS (trained for so many SGD steps); proxy:SAMPLES and reconstructed:SAMPLES say "
        "how many samples are used", verbs="profile")
    finalists: int = search(3, "N",
        "candidates that are compared again after a short fine-tune (0: trust the quick score): the best of each kind "
        "of network, and what other tools' rules would answer",
        low=0, high=1000, verbs="profile", common="search", brief="compared again after a short fine-tune")
    short_steps: int = search(300, "STEPS", "SGD steps of that short fine-tune", low=1, high=MOST, verbs="profile")
    rungs: int = search(LATER, "N",
        "stages of comparing finalists (successive halving): each of the N - 1 before the last takes twice as many "
        "candidates for a third of the steps (with --cluster: "
        "one training, in which half are stopped at half of the steps)", low=1, high=10, verbs="profile", kind=int,
        usual="3; 1 with front or fewer than 3 finalists")
    metric: str | Any = search("loss", "NAME",  # noqa: RUF009
        "what candidates are chosen by on the validation samples: loss (of the task; cross-entropy), a score of the "
        "task (top1, as 1 - top1), or package.module:function of (outputs, targets), lower is better",
        kind=object, named=_named)
    val_samples: int = search(2000, "SAMPLES", "at most so many of the held-out training samples score a candidate",
        low=1, high=MOST, verbs="profile")
    bn_samples: int = search(1000, "SAMPLES", "training samples that re-estimate batch-norm",
        low=1, high=MOST, verbs="profile")
    abandon: bool = search(True, "", "stop a candidate early when its first batches already say it is hopeless")
    # training of the winner
    reconstruct: bool = training(True, "",
        "start from layers fitted to the dense network's outputs by least squares; for finalists: from these or from "
        "the weights as cut, whichever is better after a few steps", verbs="finetune")
    trainer: str | Any = training("", "REF",  # noqa: RUF009
        "your own trainer for the final fine-tune: package.module:function of (network, run) that gives the network "
        "back, trained as you like (see autoprune.runs.TrainerRun)",
        kind=object, named=named_of, verbs="resume finetune export",
        common="finetune", brief="your own trainer: package.module:function")
    method: str = training("", "NAME",
        "find the units that stay while the dense network trains, instead of searching: slimming, polarization, greg2, "
        "increg, chex, mest, gap, morphnet, reweighted, threshold, gates, fisher, gdp; imp (in phases); epi, "
        "early-bird (plain training until the choice has settled); sandwich (the dense weights learn to "
        "serve every width); nested (several networks in one, see --budget-list); or package.module:Name of an "
        "autoprune.training.Method (the verb train)",
        common="train", brief="what finds them: slimming, polarization, greg2, increg, chex, mest, gap, morphnet, "
        "reweighted, threshold, gates, fisher, gdp, imp, epi, early-bird, sandwich, nested, or package.module:Name")
    method_epochs: float = training(5.0, "EPOCHS",
        "epochs of that training; the final fine-tune comes after it (nested: its epochs train all levels, too)",
        low=0, high=10_000, common="train")
    method_args: dict[str, Any] = training({}, "KEY=VALUE",  # noqa: RUF009
        "a setting of the method (repeatable), e.g. strength=1e-4", common="train")
    prune_when: str = training("", "RULE",
        "as early as is safe: the method makes its last choice as soon as what the budgets would leave has settled, "
        "and the epochs that are left are for what was found: epi (the widths have) or early-bird (the units have); "
        "without a method, in plain training",
        common="train", brief="let it choose as early as is safe: epi, early-bird")
    prune_when_args: dict[str, Any] = training({}, "KEY=VALUE",  # noqa: RUF009
        "a setting of the rule (repeatable): last=3 epochs that are compared with, tau=0.983 (epi), distance=0.1 "
        "(early-bird)", common="train", brief="a setting of that rule (repeatable), e.g. last=2")
    prune_share: float = training(0.5, "FRACTION",
        "of the epochs of the final fine-tune, how many a recovery other than cut takes before the cut",
        low=0, high=1, verbs="finetune")
    recovery: str = training("cut", "NAME",
        "how the units that go are driven out before the cut: cut (at once), greg1, tpp, sfp, asfp, srfp, asrfp, iss, "
        "orthoreg; or package.module:Name of an autoprune.training.Method",
        verbs="finetune",
        common="finetune", brief="how units are driven out before the cut: cut (at once), greg1, tpp, sfp ...")
    recovery_args: dict[str, Any] = training({}, "KEY=VALUE",  # noqa: RUF009
        "a setting of that method (repeatable), e.g. every=2", verbs="finetune")
    # where and how
    name: str = run("", "NAME",
        "the run is kept in results/NAME; with a slash it is the directory itself (default: model and time)",
        common="*", brief="the run is kept in results/NAME")
    ledger: str = run("", "URL",
        "database of the ledger, e.g. postgresql://user@host/db, the password in PGPASSWORD or ~/.pgpass (default: "
        "a kill-proof file in the run's directory)",
        common="search", brief="a database for it: postgresql://user@host/db")
    join: bool = run(False, "",
        "add this machine's workers to a search that another controller runs on the same database", verbs="resume")
    workers: int = run(0, "N", "worker processes; 0 evaluates in this process", low=0, high=10_000, verbs="resume",
        common="search resume")
    devices: tuple[str, ...] = run((), "DEVICE",
        "what the workers share, in turn: cuda:0,cuda:1 (repeatable; default: every GPU, or the CPU)", verbs="resume")
    per_device: int = run(0, "N",
        "at most so many workers on one device, each with its share of the memory (0: any)",
        low=0, high=1000, verbs="resume")
    together: int = run(1, "K",
        "candidates that pass through the network at once where they are not trained, each scored as if it were alone "
        "(without worker processes; for a GPU)", low=1, high=1000, verbs="resume")
    deterministic: bool = run(False, "",
        "on a GPU, too, the same bits each time: only algorithms that give them, which are slower",
        verbs="resume finetune")
    cluster: str = run("", "RAY",
        "let Ray run the workers: auto (a running cluster, or this machine), local, or ray://host:port (pip install "
        "'autoprune[ray]'; '': not, e.g. in a resume)", verbs="resume finetune",
        common="search resume", brief="let Ray run the workers: auto, local, ray://host:port")
    train_workers: int = run(0, "N",
        "processes of that cluster that train the delivered network together, each on its part of every batch (Ray "
        "Train); 0: this process alone, or those that torchrun has started", low=0, high=10_000,
        verbs="resume finetune")
    timeout: float = run(0.0, "SECONDS",
        "seconds that one candidate may take in a worker process before the worker is replaced (0: automatic)",
        low=0, high=MOST, verbs="resume")
    onnx: bool = run(False, "",
        "also write best/model.onnx, checked against torch (pip install 'autoprune[onnx]')",
        verbs="resume finetune export attach", common="*", brief="also write best/model.onnx, checked against torch")
    pt2: bool = run(False, "", "also write best/model.pt2 (torch.export)", verbs="resume finetune export attach")
    # fmt: on

    def __post_init__(self) -> None:
        """Bring every setting into its type, check the ranges, and choose what depends on another one."""
        super().__post_init__()
        Fidelity.parse(self.fidelity)
        if self.divisor != "auto" and isinstance(self.divisor, str):
            raise ValueError(f"divisor: must be auto or a whole number of at least 1, got {self.divisor!r}")
        if self.depth not in ("auto", "on", "off"):
            raise ValueError(f"depth: must be auto, on or off, got {self.depth!r}")
        if isinstance(self.data_workers, str) and self.data_workers != "auto":
            raise ValueError(f"data_workers: must be auto or a whole number of at least 0, got {self.data_workers!r}")
        if self.data_memory:
            from autoprune.data.memory import parse_size  # here, because --help need not wait for torch

            parse_size(self.data_memory)
        if self.time or self.target:
            _ = self.limits
        for name, value in chosen(self).items():
            object.__setattr__(self, name, value)
        check_together(self)

    @property
    def goal(self) -> str:
        """What is asked for, in words: the budgets, and what the loss is traded off against."""
        bounds = ", ".join(self.budget)
        if not self.front:
            return bounds
        return f"front of {metric_label(self.metric)} and {' and '.join(self.front)}" + (
            f", all within {bounds}" if bounds else ""
        )

    @property
    def verb(self) -> str:
        """The command that starts such a run."""
        return "train" if self.method else "search"

    @property
    def is_nested(self) -> bool:
        """Whether networks for several budgets are trained in one set of weights, to the end: no fine-tune follows."""
        return bool(self.budget_list)

    @property
    def smaller_budgets(self) -> list[str]:
        """Each budget of `budget_list`: a text may name several, but of a latency (@...) its commas are its own."""
        each = (text.split(",") if "@" not in text else [text] for text in self.budget_list)
        return [part.strip() for parts in each for part in parts]

    @property
    def epochs_with_method(self) -> float:
        """How long a method trains."""
        return self.method_epochs + (self.epochs if self.is_nested else 0)

    @property
    def deep(self) -> bool:
        """Whether branches may vanish."""
        return self.depth == "on" or (self.depth == "auto" and any("latency" in text.lower() for text in self.budget))

    @property
    def schedule(self) -> Halving:
        """What is evaluated when, how well."""
        from autoprune.schedule import Halving, halving  # here, because --help need not wait for torch

        first = Fidelity(self.fidelity)
        if self.cluster:  # one rung of all, which Ray Tune thins out (ASHA) while they are trained
            return Halving(self.trials, halving(self.finalists * 2 ** (self.rungs - 1), self.short_steps), first)
        return Halving(self.trials, halving(self.finalists, self.short_steps, self.rungs, first), first)

    @property
    def limits(self) -> Limits:
        """What ends the search before its last trial."""
        from autoprune.limits import Limits, parse_target, parse_time

        return Limits(parse_time(self.time), parse_target(self.target), self.max_failures, self.max_failure_rate)

    @classmethod
    def make(cls, **settings: Any) -> RunConfig:
        """A configuration from names that may be wrong: what TOML, flags and keywords have in common.

        Raises:
            ValueError: If a setting is unknown, of the wrong type or out of range, or cannot be written to a TOML file.
        """
        for name in settings:
            if name not in SETTINGS:
                near = difflib.get_close_matches(name, SETTINGS, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(SETTINGS)}"
                raise ValueError(f"unknown setting '{name}'; {hint}")
        return cls(**settings)

    @classmethod
    def read(cls, path: str | Path) -> dict[str, Any]:
        """The settings in a TOML file (not yet a `RunConfig`: flags may still win over them).

        Raises:
            ValueError: If there is no such file or it is not TOML.
        """
        return toml.read(path)

    def to_toml(self) -> str:
        """The whole configuration as TOML; `make(**read(file))` gives it back."""
        again = f"autoprune {self.verb} --config <this file> --name <new>"
        return f"# This run as resolved; `{again}` starts one like it.\n" + toml.written(
            {name: getattr(self, name) for name in SETTINGS}
        )


def metric_label(metric: str) -> str:
    """What the minimised number is called where the task is not at hand: "loss", "1 - top-1", or a function's name."""
    return Labels().score(metric).minimised


def _in_order(found: Mapping[str, Setting]) -> dict[str, Setting]:
    """As the help shows them: box by box, in each what belongs to every training last."""
    shared = settings_of(TrainingSettings)
    boxes = list(GROUPS)
    return dict(sorted(found.items(), key=lambda item: (boxes.index(item[1].group), item[0] in shared)))


SETTINGS: Mapping[str, Setting] = _in_order(settings_of(RunConfig))


OBJECTS = tuple(name for name, about in SETTINGS.items() if about.kind is object)  # or the names of such


def names_of(verb: str) -> tuple[str, ...]:
    """The settings that a verb of the command line, or the function of its name, takes."""
    return tuple(name for name, about in SETTINGS.items() if about.is_taken_by(verb))


def replace(config: RunConfig, **settings: Any) -> RunConfig:
    """The same configuration with other settings (checked like all settings)."""
    return RunConfig.make(**{**{name: getattr(config, name) for name in SETTINGS}, **settings})
