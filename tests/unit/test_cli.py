"""The command line says what the configuration says; flags win over the file."""

import re
import shlex

import pytest

from autoprune.cli import main, parser, settings
from autoprune.cli.examples import EXAMPLES
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
    found = given("--model-args", "num_classes=10", "--model-args", "norm=layer", "--model-args", "wide=true")
    assert found == {"model_args": {"num_classes": 10, "norm": "layer", "wide": True}}


def test_flags_win_over_the_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('trials = 5\nseed = 3\nbudget = "macs<=20%"\n')
    config = RunConfig.make(**given("--config", str(path), "--trials", "9"))
    assert (config.trials, config.seed, config.budget) == (9, 3, ("macs<=20%",))


VERBS = ["profile", "search", "train", "resume", "status", "export", "finetune", "report", "compare", "demo"]


def helped(verb, capsys, flag="--help-all"):
    with pytest.raises(SystemExit) as stop:
        main([verb, flag])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_shows_its_own_examples_and_settings(verb, capsys):
    text = helped(verb, capsys)
    shown = re.findall(r"^  autoprune (\w+)", text, re.M)
    assert set(shown) <= {verb}
    assert 1 <= len(shown) <= 3 or verb == "demo"
    assert ("multiply-adds (one" in text) == (verb in ("profile", "search", "train", "export"))
    listed = set(re.findall(r"^  --([a-z0-9-]+)", text, re.M))
    for name, about in SETTINGS.items():
        assert (about.flag[2:] in listed) == about.is_shown_by(verb) or (verb, name) in OTHERS


OTHERS = {("export", "budget"), ("attach", "weights")}  # mean something else there


@pytest.mark.parametrize("verb", [*VERBS, "attach", "doctor", "completion"])
def test_the_help_of_a_verb_fits_a_terminal_and_shows_what_is_common(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = helped(verb, capsys, "--help")
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) <= 60
    listed = set(re.findall(r"^  --([a-z0-9-]+)", text, re.M))
    for name, about in SETTINGS.items():
        assert (about.flag[2:] in listed) == about.is_common_in(verb) or (verb, name) in OTHERS or verb == "doctor"
    hidden = any(about.is_shown_by(verb) and not about.is_common_in(verb) for about in SETTINGS.values())
    assert ("--help-all" in text) == (hidden and verb not in ("status", "report", "compare", "demo", *NONE))


NONE = ("doctor", "completion")


def test_a_profile_takes_the_flags_of_a_search_and_shows_those_that_it_uses(capsys):
    assert vars(parser().parse_args(["profile", "--epochs=3", "--onnx"]))["epochs"] == 3
    text = helped("profile", capsys)
    assert not [f for f in ("--epochs", "--onnx", "--lr", "--workers", "--name", "--ledger") if f in text]
    assert not [f for f in ("--budget", "--trials", "--batch-size", "--seed") if f not in text]


def test_the_examples_are_commands():
    joined = "\n".join(EXAMPLES.values()).replace("\\\n", " ")
    commands = [
        re.sub(r"\s+[(>].*$", "", line.strip()) for line in joined.splitlines() if line.startswith("  autoprune ")
    ]
    asked = [vars(parser().parse_args(shlex.split(command)[1:])) for command in commands]
    assert len(asked) == len(set(commands)) > 15
    for settings_ in (a for a in asked if a.get("data") == "digits"):  # random weights would be searched otherwise
        assert settings_["weights"] == "results/digits_cnn.safetensors"


def test_search_offers_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["search", "--help-all"])
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
        (["search", "--data-args", "mean=.5", "std=.5"], "arguments: std=.5 (--data-args or --model-args before each"),
        (["search", "--trials", "many"], "argument --trials: invalid int value: 'many'"),
        (["serach"], "unknown command 'serach' (did you mean search?); see autoprune --help"),
        (["search", "--trails", "3"], "--trails 3 (did you mean --trials?)"),
        (["search", "--dept", "on"], "--dept on (did you mean --depth?)"),
        (["--debug"], "next: autoprune --debug --help"),
        (["resume", "--trials", "3"], "required: run; see autoprune resume --help; next: autoprune demo"),
    ],
)
def test_a_flag_that_is_wrong_ends_with_2_and_one_sentence(arguments, message, capsys, here):
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
