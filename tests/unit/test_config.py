"""RunConfig: one dataclass behind flags, TOML and keywords."""

import math
from dataclasses import fields

import pytest
import torch

from autoprune.config import SETTINGS, RunConfig, names_of, replace
from autoprune.settings import TrainingSettings


def test_toml_gives_the_same_configuration_back(tmp_path):
    config = RunConfig.make(
        model="a.b:c",
        model_args={"num_classes": 7, "name": "x"},
        budget=["macs<=40%", "params<=1M"],
        freeze=["conv1"],
        abandon=False,
        lr=1,
        seed=5,
    )
    path = tmp_path / "run.toml"
    path.write_text(config.to_toml())
    assert RunConfig.make(**RunConfig.read(path)) == config
    assert config.lr == 1.0
    assert isinstance(config.lr, float)


def test_arguments_that_toml_does_not_know_come_back(tmp_path):
    arguments = {"weights": None, "sizes": (1, None), "inner": {"a": None, "b": 1e-5}, "word": "none"}
    config = RunConfig.make(model="a.b:c", model_args=arguments, data_args={"max_images": None})
    path = tmp_path / "run.toml"
    path.write_text(config.to_toml())
    again = RunConfig.make(**RunConfig.read(path))
    assert again == config
    assert again.model_args == {**arguments, "sizes": [1, None]}
    assert again.data_args == {"max_images": None}


def test_a_toml_file_may_spell_names_like_the_flags(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('min-keep = 0.5\nbudget = "macs<=30%"\n')
    config = RunConfig.make(**RunConfig.read(path))
    assert (config.min_keep, config.budget) == (0.5, ("macs<=30%",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trails": 3}, "unknown setting 'trails'; did you mean 'trials'?"),
        ({"zzz": 3}, "unknown setting 'zzz'; known: model, "),
        ({"trials": "many"}, "trials: expected a whole number, got 'many'"),
        ({"trials": True}, "trials: expected a whole number, got True"),
        ({"trials": 0}, "trials: must be at least 1, got 0"),
        ({"lr": float("nan")}, "lr: must lie between 0 and 1,000, got nan"),
        ({"epochs": float("inf")}, "epochs: must be at most 10,000, got inf"),
        ({"divisor": 0}, "divisor: must be at least 1, got 0"),
        ({"divisor": "some"}, "divisor: must be auto or a whole number of at least 1, got 'some'"),
        ({"min_keep": 1.5}, "min_keep: must lie between 0 and 1, got 1.5"),
        ({"budget": []}, "budget: at least one is needed"),
        ({"budget": [1]}, "budget: expected one or more strings"),
        ({"model_args": "x"}, "model_args: expected a table, got 'x'"),
        ({"model_args": {"act": print}}, "model_args: act=<built-in function print> cannot be written to the run's"),
        ({"model_args": {1: 2}}, "model_args: 1=2 cannot be written to the run's config.toml"),
        ({"timeout": -1}, "timeout: must be at least 0, got -1"),
        ({"onnx": 1}, "onnx: expected true or false, got 1"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match="^" + message.replace("?", r"\?").replace("(", r"\(")):
        RunConfig.make(**settings)


def test_every_number_has_a_range():
    numbers = [about for about in SETTINGS.values() if about.kind in (int, float, int | str)]
    assert len(numbers) > 15
    for about in numbers:
        assert -math.inf < about.low < about.high < math.inf, about.name
        for bad in (math.nan, math.inf, -math.inf, about.low - 1, about.high + 1, 10**400):
            with pytest.raises(ValueError, match=f"^{about.name}: "):
                RunConfig.make(**{about.name: bad})


def test_texts_are_one_line():
    for name in (name for name, about in SETTINGS.items() if about.kind in (str, tuple)):
        for text in ("a\nb", "a\0", "\x1b[31m", "\ud800", "\u202e"):
            with pytest.raises(ValueError, match=f"^{name}: must be one line of visible characters, got "):
                RunConfig.make(**{name: text})


def test_a_file_that_is_not_toml_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.toml': unreadable \(No such file"):
        RunConfig.read(tmp_path / "nothing.toml")
    (tmp_path / "bad.toml").write_text("a = = b")
    with pytest.raises(ValueError, match=r"bad\.toml': not valid TOML"):
        RunConfig.read(tmp_path / "bad.toml")


def test_replace_checks_too():
    assert replace(RunConfig(), trials=3).trials == 3
    with pytest.raises(ValueError, match="trials"):
        replace(RunConfig(), trials=-1)


def test_a_configuration_made_in_python_is_checked_and_typed_like_one_from_a_file():
    config = RunConfig(budget="macs<=40%", lr=1, divisor="8")
    assert (config.budget, config.lr, config.divisor) == (("macs<=40%",), 1.0, 8)
    assert isinstance(config.lr, float)
    with pytest.raises(ValueError, match="trials: expected a whole number, got 'x'"):
        RunConfig(trials="x")


def test_a_front_has_other_defaults():
    assert (RunConfig().strategy, RunConfig().budget) == ("combined", ("macs<=50%",))
    for config in (RunConfig(front="macs"), RunConfig.make(front=["macs"])):
        assert (config.strategy, config.budget) == ("nsga2", ())
    given = RunConfig(front=("macs",), strategy="evolution", budget="macs<=60%")
    assert (given.strategy, given.budget) == ("evolution", ("macs<=60%",))


def test_every_setting_has_a_help_and_a_group():
    assert {about.group for about in SETTINGS.values()} == {"problem", "search", "training", "run"}
    assert all(about.help for about in SETTINGS.values())
    assert all(about.metavar for about in SETTINGS.values() if about.kind is not bool)


def test_a_setting_says_which_verbs_take_it():
    assert names_of("search") == tuple(SETTINGS)
    at_the_cut = {"reconstruct", "recovery", "prune_share", "method", "method_epochs", "method_args"}
    at_the_cut |= {"prune_when", "prune_when_args", "recovery_args"}
    assert set(names_of("export")) == {
        *(name for name, about in SETTINGS.items() if about.group == "training" and name not in at_the_cut),
        *("device", "amp", "onnx", "pt2", "data_workers"),
        *("model", "model_args", "weights", "data", "data_args", "task"),  # of a run of objects
    }
    assert {"trials", "workers", "timeout"} <= set(names_of("resume"))
    assert "seed" not in names_of("resume")


def test_the_settings_of_a_training_are_those_of_a_run():
    shared = {about.name for about in SETTINGS.values()} & {field.name for field in fields(TrainingSettings)}
    assert shared == {field.name for field in fields(TrainingSettings)}
    config = RunConfig(lr=0.3, ema=0.9, optimizer=torch.optim.AdamW, trials=3)
    assert TrainingSettings.of(config) == TrainingSettings(lr=0.3, ema=0.9, optimizer="torch.optim.adamw:AdamW")
    assert config.milestones == (0.5, 0.75)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ema": 1.0}, "ema: must be below 1"),
        ({"lr_milestones": "half"}, "lr_milestones: expected steps, or fractions below 1, e.g. 0.5, got 'half'"),
        ({"lr_milestones": ["0.5", "-3"]}, "lr_milestones: expected steps"),
        ({"optimizer": 3}, "optimizer: expected a name, a class, an instance or a function, got 3"),
        ({"label_smoothing": 1.2}, "label_smoothing: must lie between 0 and 1"),
        ({"accumulate": 0}, "accumulate: must be at least 1"),
    ],
)
def test_a_bad_setting_of_a_training_is_named(settings, message):
    for kind in (TrainingSettings, RunConfig):
        with pytest.raises(ValueError, match=f"^{message}"):
            kind(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "train_workers: Ray starts them; give cluster"),
        ({"cluster": "auto", "trainer": "mine:train"}, "train_workers: the trainer 'mine:train' is yours"),
        ({"cluster": "auto", "train_workers": -1}, "train_workers: must be at least 0"),
    ],
)
def test_processes_that_train_together_are_those_of_a_cluster(settings, said):
    with pytest.raises(ValueError, match=said):
        RunConfig.make(**{"train_workers": 2, **settings})


@pytest.mark.parametrize("elsewhere", [{"workers": 2}, {"devices": "cuda:1"}, {"per_device": 2}, {"cluster": "auto"}])
def test_candidates_share_passes_of_this_process_only(elsewhere):
    with pytest.raises(ValueError, match=r"^together: .* leave out workers, devices, per_device and cluster, or "):
        RunConfig.make(together=4, **elsewhere)
