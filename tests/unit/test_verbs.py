"""What a Python user calls: one function per verb of the command line, with the same names and settings."""

import argparse
import inspect
import io
import re

import pytest
from rich.console import Console

import autoprune
from autoprune import RunConfig, RunProgress
from autoprune.cli import parser
from autoprune.config import OBJECTS, SETTINGS, keywords, names_of
from autoprune.labels import Score
from autoprune.problem import Trial, TrialState
from autoprune.report.progress import EVERY_S, describe, showing

FACTORY = "search_spaces.models:digits_cnn"
QUICK = {
    "criterion": "l1",
    "trials": 2,
    "finalists": 0,
    "epochs": 0,
    "fidelity": "proxy",
    "val_samples": 64,
    "bn_samples": 64,
}
VERBS = ["profile", "search", "train", "resume", "status", "export", "finetune", "attach", "report", "compare"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits_weights):
    """A finished run of the digits."""
    place = tmp_path_factory.mktemp("verbs") / "first"
    weights = str(digits_weights)
    return autoprune.search(FACTORY, "digits", weights=weights, name=str(place), progress=False, **QUICK).run_dir


def flags(verb):
    """What a verb takes on the command line."""
    (verbs,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {action.dest for action in verbs.choices[verb]._actions} - {"help"}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_takes_the_same_on_the_command_line_and_in_python(verb):
    objects = {"example_inputs", "progress", "callbacks"}
    objects |= {"criterion", "strategy", "metric"} if "run" in flags(verb) else set()
    assert set(inspect.signature(getattr(autoprune, verb)).parameters) - objects == flags(verb)


def test_the_facade_lists_what_it_holds():
    assert set(VERBS) | {"load", "RunConfig", "RunProgress", "SearchResult"} <= set(autoprune.__all__)
    assert all(callable(getattr(autoprune, name)) for name in autoprune.__all__ if name != "__version__")


@pytest.mark.parametrize("verb", ["search", "resume", "finetune", "export", "attach"])
def test_the_keywords_that_editors_know_are_the_settings(verb):
    typed = getattr(keywords, f"{verb.title()}Keywords").__annotations__
    named = {"model", "data"} | ({"budget"} if verb == "search" else set())
    assert list(typed) == [name for name in names_of(verb) if name not in named]
    plain = {str: "str", int: "int", float: "float", bool: "bool", int | str: "int | str"}
    loose = {tuple: "str | Sequence[str]", dict: "Mapping[str, Any]"}
    for name, kind in typed.items():
        if name not in OBJECTS:  # these may be objects, too
            assert kind.__forward_arg__ == (plain | loose)[SETTINGS[name].kind], name


@pytest.mark.parametrize("verb", ["search", "profile"])
def test_help_tells_all_settings_with_units_and_defaults(verb):
    text = " ".join(inspect.getdoc(getattr(autoprune, verb)).split())
    for name, about in SETTINGS.items():
        assert name in text
        if name not in ("model", "data", "budget"):
            assert f"{name} [{about.metavar}]" in text or about.kind is bool
            assert " ".join(about.help.split()) in text
            assert not about.usual or f"(default: {about.usual})" in text
    assert inspect.signature(autoprune.search).parameters["trials"].default == SETTINGS["trials"].default


def test_a_configuration_may_be_given_whole_and_keywords_win():
    from autoprune.verbs.settling import settled

    config = RunConfig(model="a:b", data="digits", budget="macs<=40%", trials=7, lr=0.1)
    assert settled("search", config, None, None, None, {"lr": 0.2}) == (
        "a:b",
        "digits",
        {"budget": ("macs<=40%",), "trials": 7, "lr": 0.2},
    )
    front = RunConfig(front="macs")
    _, _, given = settled("search", front, "a:b", "digits", None, {})
    assert RunConfig.make(**given) == front
    _, _, given = settled("search", config, None, None, "params<=1M", {})
    assert given["budget"] == "params<=1M"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": "digits"}, r"model: missing; what builds the dense network"),
        ({"model": FACTORY}, r"data: missing; digits \| cifar10"),
        ({"model": FACTORY, "data": "digits", "trails": 3}, r"unknown setting 'trails'; did you mean 'trials'\?"),
        ({"config": {"trials": 3}}, r"config: expected an autoprune\.RunConfig or a TOML file, got dict"),
        ({"model": FACTORY, "data": "digits", "progress": "no"}, r"progress: expected True, False or an autoprune"),
    ],
)
def test_what_is_missing_or_wrong_is_named(given, message, here):
    with pytest.raises(ValueError, match="^" + message):
        autoprune.search(**given)
    assert list(here.iterdir()) == []


def test_a_verb_refuses_settings_that_are_not_its_own(run):
    with pytest.raises(ValueError, match="resume: seed may not change"):
        autoprune.resume(run, seed=3, progress=False)


def test_a_look_trains_nothing(monkeypatch):
    def trained(*args, **settings):
        raise AssertionError("trained")

    monkeypatch.setattr("autoprune.runs.scoring.finetune", trained)
    settings = {"score_samples": 64, "score_rounds": 4, "device": "cpu", "progress": False}
    assert autoprune.profile(FACTORY, "digits", "macs<=40%", **settings).problem.scores


def test_what_the_looking_verbs_give_back(run, here):
    found = autoprune.profile(FACTORY, "digits", "macs<=40%", criterion="l1", progress=False)
    assert [g.name for g in found.space.groups]
    assert {r.cost for r in found.reachable} >= {"macs", "params"}
    assert "reachable range" in repr(found)
    assert found.cost in repr(found)
    status = autoprune.status(run)
    assert (status.is_live, status.is_delivered, len(status.trials), status.run) == (False, True, 2, run)
    assert status.best in status.trials
    assert "finished" in repr(status)
    report = autoprune.report(run, html=False)
    assert (report.trials, report.page, report.charts) == (run / "trials.csv", None, ())
    assert report.trials.is_file()
    assert "dense and pruned" in repr(report)
    other = autoprune.search(FACTORY, "digits", name="second", progress=False, **QUICK).run_dir
    both = autoprune.compare(run, other, html=False)
    assert list(both.to_pandas()["run"]) == ["first", "second"]
    assert "2 runs" in repr(both)
    assert both._repr_html_().startswith("<pre>")
    assert "&lt;=" in found._repr_html_() or "<=" not in repr(found)


def test_export_and_finetune_give_directories_that_load(run, here):
    autoprune.load(autoprune.export(run, to="again", progress=False))
    autoprune.load(autoprune.finetune(run, to="tuned", epochs=0, progress=False))


def lines(progress_of, capsys, **console):
    """What is printed of a search of the digits."""
    out = io.StringIO()
    progress = progress_of(Console(file=out, highlight=False, width=120, **console))
    name = f"p{len(console)}"
    autoprune.search(FACTORY, "digits", name=name, progress=progress, **QUICK)
    return out.getvalue()


def test_progress_is_lines_in_a_file_and_a_bar_on_a_terminal(here, capsys):
    text = lines(lambda console: RunProgress(console, every_s=1e9), capsys)
    assert "run results/p0" in text
    assert "\x1b" not in text
    for done in (1, 2):  # the first one, then none before every_s, then the last
        assert re.search(rf"^trial {done - 1}, proxy: loss .*; {done} of 2 candidates, ETA", text, re.M)
    text = lines(RunProgress, capsys, force_terminal=True)
    assert "searching" in text
    assert "\x1b[" in text
    assert "2 of 2 candidates, ETA" not in text


def test_python_shows_progress_unless_it_is_told_not_to(here, capsys):
    autoprune.search(FACTORY, "digits", name="loud", **QUICK)
    assert "2 of 2 candidates, ETA" in capsys.readouterr().out
    autoprune.search(FACTORY, "digits", name="quiet", progress=False, **QUICK)
    assert capsys.readouterr().out == ""
    for given, quiet in ((None, False), (True, False), (False, True)):
        with showing(given) as progress:
            assert (progress.console.quiet, progress._every_s) == (quiet, EVERY_S)


def test_a_training_says_that_it_begins_and_ends_and_now_and_then_how_far_it_is(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    out = io.StringIO()
    progress = RunProgress(Console(file=out, highlight=False, width=120), every_s=30)
    progress.begin("fine-tuning", 500)
    for step in range(1, 501):
        now[0] += 0.25
        progress.step(step, "loss 0.5")
    told = [1, 121, 241, 361, 481, 500]  # each 30 seconds
    assert out.getvalue().splitlines() == [f"fine-tuning: step {s} of 500, loss 0.5" for s in told]


@pytest.mark.parametrize(("metric", "times"), [("error", 1), ("loss", 2)])
def test_a_number_is_said_once(metric, times):
    trial = Trial(3, (4,), state=TrialState.COMPLETE, metrics={"loss": 0.25, "error": 0.25})
    said = describe(trial, metric, Score("error"))
    assert said.count("0.25") == times
