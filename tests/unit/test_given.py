"""Objects in the place of names: what they are called, when they are the same, and who takes them."""

import functools
import pickle

import pytest
import torch
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset, WeightedRandomSampler

import autoprune
from autoprune import RunConfig, data
from autoprune.criteria import Criterion, GroupFisher, L1Norm
from autoprune.criteria.scoring import make as make_criterion
from autoprune.strategies import Evolution, Random, Strategy
from autoprune.tasks import resolve_metric
from objectives import find, named, offered, offering
from objectives.given import Given, is_lost
from search_spaces.models import digits_cnn

QUICK = {"trials": 2, "finalists": 0, "epochs": 0, "fidelity": "proxy", "val_samples": 64, "bn_samples": 64}


class Saliency(Criterion):
    needs = frozenset({"gradients"})

    def __init__(self, power=1, *, seed=0):
        super().__init__(seed=seed)
        self.power = power

    def score(self, group):
        return group.total([(p.value * p.gradient).abs().sum(1) ** self.power for p in group.filters])


def sizes(group):
    return group.total([p.value.abs().sum(1) for p in group.filters])


def bound_to(value):
    return lambda group: value


def doubt(logits, labels):
    return 1 - logits.softmax(dim=1)[range(len(labels)), labels]


class Doubt:
    def __call__(self, logits, labels):
        return doubt(logits, labels)


def images(count=90):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 1, 8, 8, generator=generator), torch.arange(count) % 10


def test_what_a_name_finds_again_is_kept_as_the_name():
    assert RunConfig(criterion=GroupFisher).criterion == "group_fisher"
    assert RunConfig(strategy=Evolution).strategy == "evolution"
    assert RunConfig(metric=doubt).metric == f"{__name__}:doubt"
    assert find("metric", f"{__name__}:doubt", {}) is doubt
    assert not isinstance(RunConfig(criterion=Saliency).criterion, Given)


@pytest.mark.parametrize(
    "things",
    [
        [lambda g: g, lambda g: (g, 1), lambda g, k=2: g, lambda g, k=3: g],
        [Saliency(1), Saliency(2), Saliency(torch.ones(3)), Saliency(torch.zeros(3)), Saliency({"a": [1]})],
        [functools.partial(Saliency, power=1), functools.partial(Saliency, power=2), functools.partial(Evolution)],
        [bound_to(k) for k in (1, "1", None, (1, 2))],
    ],
)
def test_what_no_name_finds_has_one_that_tells_it_from_others(things):
    names = [named(thing, {}) for thing in things]
    assert all(isinstance(name, Given) and name.startswith("object:") for name in names)
    assert len(set(names)) == len(names)
    assert names == [named(thing, {}) for thing in things]
    assert [find("criterion", name, {}) for name in names] == things


def test_an_object_travels_with_its_name_and_is_lost_on_disk(tmp_path):
    config = RunConfig(criterion=Saliency(2))
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert again.criterion.thing.power == 2
    (tmp_path / "run.toml").write_text(config.to_toml())
    read = RunConfig.make(**RunConfig.read(tmp_path / "run.toml"))
    assert read == config
    assert is_lost(read.criterion)
    with pytest.raises(ValueError, match=r"was given as an object in Python.*resume\(run, criterion=\.\.\.\)"):
        make_criterion(read.criterion)
    with offering({"criterion": config.criterion}):
        assert offered("criterion", read.criterion).thing.power == 2
        with pytest.raises(ValueError, match="criterion: this run was begun with 'l1', but 'object:"):
            offered("criterion", "l1")


def test_kinds_of_criteria_and_metrics():
    whole = Saliency(2)
    assert make_criterion(named(whole, {})) is whole
    assert make_criterion(named(functools.partial(Saliency, power=3), {}), seed=5).power == 3
    function = make_criterion(named(sizes, {}))
    assert function.needs == frozenset()
    sizes.needs = {"gradients"}
    try:
        assert make_criterion(named(sizes, {})).needs == {"gradients"}
    finally:
        del sizes.needs
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    for metric in (doubt, Doubt, Doubt(), lambda a, b: doubt(a, b)):
        assert torch.equal(resolve_metric(named(metric, {})).function(logits, labels), doubt(logits, labels))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"criterion": 3}, "criterion: expected a name, a class, an instance or a function, got 3"),
        ({"strategy": [Random]}, "strategy: expected a name, a class, an instance or a function"),
        ({"metric": None}, "metric: expected a name, a class, an instance or a function, got None"),
        ({"criterion": Random}, "criterion 'random'|criterion .*expected a subclass of autoprune.criteria.Criterion"),
        ({"strategy": L1Norm}, "strategy .*expected a subclass of autoprune.strategies.Strategy"),
        ({"strategy": lambda problem: 3}, "strategy .*expected a function of .problem, seed, num_trials. that gives"),
        ({"criterion": lambda group: 3}, "criterion 'object:.*<lambda>#.*group '.*': expected a tensor of"),
    ],
)
def test_other_things_are_refused_before_anything_is_written(settings, message, here):
    with pytest.raises(ValueError, match=message):
        autoprune.search(digits_cnn(), "digits", progress=False, **{"criterion": "l1", **settings}, **QUICK)
    assert not (here / "results").exists()


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_search_of_objects_is_gone_on_with_the_same_objects(workers, here):
    """Criterion, strategy, metric, model and data: all given, all asked for again."""
    model, source = digits_cnn(), {"train": images(), "test": images(20)}
    parts = {"criterion": Saliency(2), "strategy": functools.partial(Evolution), "metric": Doubt()}
    result = autoprune.search(model, source, name="a", progress=False, workers=workers, **parts, **QUICK)
    assert 0 < result.trial.loss < 1
    with pytest.raises(
        ValueError,
        match=r"a criterion object and a strategy object and a metric object, .*metric=\.\.\. to autoprune.resume, too",
    ):
        autoprune.resume("results/a", progress=False)
    with pytest.raises(ValueError, match=r"criterion: this run was begun with 'object:.*Saliency#"):
        autoprune.resume("results/a", model, source, **{**parts, "criterion": Saliency(3)}, progress=False)
    again = autoprune.resume("results/a", model, source, **parts, trials=3, progress=False)
    assert len(autoprune.status("results/a").trials) == 3
    assert again.metrics["pruned_test"].keys() == {"loss", "top1"}
    assert autoprune.export("results/a", model, source, **parts, budget="macs<=40%", progress=False).is_dir()


def test_what_cannot_be_sent_to_workers_is_refused_before_the_search(here):
    with pytest.raises(ValueError, match=r"workers: config\.metric.* cannot be sent to another process"):
        autoprune.search(
            digits_cnn(), "digits", metric=lambda a, b: doubt(a, b), criterion="l1", workers=1, progress=False, **QUICK
        )
    assert not (here / "results").exists()


@pytest.mark.slow
def test_a_strategy_may_be_an_instance_of_the_same_problem(here):
    class First(Strategy):
        def ask(self, number):
            return self.problem.project(self.problem.space.full)

    net = digits_cnn()
    problem = autoprune.profile(net, "digits", criterion="l1", progress=False).problem
    one = First(problem, seed=0)
    result = autoprune.search(net, "digits", criterion="l1", strategy=one, progress=False, name="one", **QUICK)
    assert len(autoprune.status(result.run_dir).trials) == 2
    assert one.trials == []  # the search works on a copy
    with pytest.raises(ValueError, match=r"was made for another problem \(budgets macs<=50%\); give its class"):
        autoprune.search(net, "digits", "macs<=40%", criterion="l1", strategy=one, progress=False, **QUICK)


def as_data_set(pair):
    return TensorDataset(*pair)


@pytest.mark.parametrize(
    "given",
    [
        lambda: (images(), images(30)),
        lambda: (images(), images(20), images(30)),
        lambda: {"train": images(), "test": images(30)},
        lambda: as_data_set(images()),
        lambda: DataLoader(as_data_set(images()), batch_size=7, shuffle=True),
        lambda: (DataLoader(as_data_set(images())), DataLoader(as_data_set(images(30)))),
    ],
)
def test_what_data_may_be_as_an_object_and_from_a_function(given):
    for source in (given(), given):
        found = data.load(source)
        assert len(found.train) + (len(found.val) if len(found.val) == 9 else 0) == 90
        assert found.classes == tuple("0123456789")
        assert torch.equal(found.train.images, data.load(given()).train.images)


def test_a_loader_that_draws_a_part_is_that_part():
    loader = DataLoader(as_data_set(images()), sampler=SubsetRandomSampler([5, 3, 60, 71, 80, 4]))
    found = data.load({"train": loader, "val": images(20), "classes": range(10)})
    assert found.train.labels.tolist() == [3, 4, 5, 0, 1, 0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "data 'int object': expected .train, test., .* a data set, also in a DataLoader; got int"),
        ([1, 2, 3, 4], "data 'list object': expected"),
        (images(), "data 'tuple object': expected"),
        (iter([]), "data 'list_iterator object': expected"),
        (lambda n: n, "the function must take no arguments, but needs n"),
        ({"train": images(), "tset": images()}, "a dict with unknown tset; known: train, val"),
        (
            DataLoader(as_data_set(images()), sampler=WeightedRandomSampler([1.0] * 90, 90)),
            "train: the DataLoader's sampler WeightedRandomSampler would not be applied",
        ),
        (DataLoader(as_data_set(images()), collate_fn=list), "train: the DataLoader's own collate_fn would not be"),
    ],
)
def test_what_data_cannot_be_is_one_sentence(given, message):
    with pytest.raises(ValueError, match=message):
        data.load(given)
