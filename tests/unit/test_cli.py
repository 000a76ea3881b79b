"""The command line says what the configuration says; flags win over the file."""

import re
import shlex

import pytest

from autoprune.cli import EXAMPLES, main, parser, settings
from autoprune.config import SETTINGS, RunConfig


def given(*arguments):
    values = vars(parser().parse_args(["search", *arguments]))
    return settings({k: v for k, v in values.items() if k not in ("command", "debug")})


def test_only_what_was_said_is_set():
    assert given() == {}
    assert given("--trials", "9", "--no-abandon", "--budget", "macs<=50%", "--budget", "params<=1M") == {
        "trials": 9,
        "abandon": False,
        "budget": ["macs<=50%", "params<=1M"],
    }


def test_keyword_arguments_are_python_values_or_words():
    found = given("--model-args", "num_classes=10", "--model-args", "norm=layer", "--model-args", "wide=True")
    assert found == {"model_args": {"num_classes": 10, "norm": "layer", "wide": True}}


def test_flags_win_over_the_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('trials = 5\nseed = 3\nbudget = "macs<=20%"\n')
    config = RunConfig.make(**given("--config", str(path), "--trials", "9"))
    assert (config.trials, config.seed, config.budget) == (9, 3, ("macs<=20%",))


VERBS = ["profile", "adapt", "search", "resume", "status", "export", "finetune", "report", "compare", "demo"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help_with_units_and_examples(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert "multiply-adds" in text


def test_the_examples_are_commands():
    joined = EXAMPLES.replace("\\\n", " ")
    commands = [re.sub(r"\s\(.*\)$", "", line.strip()) for line in joined.splitlines() if "  autoprune " in line]
    asked = [vars(parser().parse_args(shlex.split(command)[1:])) for command in commands]
    assert len(asked) == len(set(commands)) == 9
    for settings_ in (a for a in asked if a.get("data") == "digits"):  # random weights would be searched otherwise
        assert settings_["weights"] == "results/digits_cnn.safetensors"


def test_search_offers_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["search", "--help"])
    text = capsys.readouterr().out
    assert [name for name in SETTINGS if f"--{name.replace('_', '-')}" not in text] == []


def test_the_help_names_what_the_facades_hold():
    from autoprune.criteria import CRITERIA
    from autoprune.strategies import STRATEGIES

    for registry, option in ((CRITERIA, "criterion"), (STRATEGIES, "strategy")):
        assert [name for name in registry if name not in SETTINGS[option].help] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "--trails", "3"], "unrecognized arguments: --trails 3"),
        (["search", "--trials", "many"], "argument --trials: invalid int value: 'many'"),
        (["serach"], "invalid choice: 'serach'"),
        ([], "the following arguments are required: <command>"),
    ],
)
def test_a_flag_that_is_wrong_ends_with_2_and_one_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert message in text
    assert text.count("\n") == 1


def test_missing_model_or_data(capsys, here):
    assert main(["search", "--data", "digits"]) == 2
    assert capsys.readouterr().err.startswith("autoprune: --model: missing; what builds the dense network")
    assert main(["search", "--model", "search_spaces.models:digits_cnn", "--model-args", "ten"]) == 2
    assert "--model-args ten: expected KEY=VALUE" in capsys.readouterr().err
    assert list(here.iterdir()) == []
