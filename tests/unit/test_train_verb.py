"""`train`: a method finds the units under the budgets, and what it leaves is a run like a search's."""

import functools
import html
import importlib.util
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import Normed, task

import autoprune
from autoprune.architecture import kept_of, read_architecture
from autoprune.config import RunConfig
from autoprune.ledger.locks import FileLock
from autoprune.problem import Trial
from autoprune.report import RunProgress
from autoprune.runs import RunDirectory
from autoprune.runs.prepare import prepare
from autoprune.runs.winner import deliver
from autoprune.training import Checkpoints
from autoprune.training.state import TrainingState

MODEL = "search_spaces.models:digits_cnn"
QUICK = {
    "data_args": {"max_images": 200}, "batch_size": 32, "criterion": "l1", "device": "cpu", "method_epochs": 2.0,
    "epochs": 0.5, "lr": 0.01, "val_samples": 64, "bn_samples": 64, "progress": False,
}  # fmt: skip


def train(weights, **settings):
    return autoprune.train(MODEL, "digits", weights=str(weights), **{**QUICK, **settings})


def test_what_it_finds_is_delivered_and_holds_every_budget(here, digits_weights):
    result = train(digits_weights, method="slimming", budget=["macs<=40%", "params<=50%"], name="a")
    said = read_architecture(result.run_dir / "best")
    assert said["costs"]["macs"]["pruned"] <= 0.4 * said["costs"]["macs"]["dense"]
    assert said["costs"]["params"]["pruned"] <= 0.5 * said["costs"]["params"]["dense"]
    assert said["provenance"]["finetune"]["method"] == "slimming"
    run = RunDirectory.open(result.run_dir)
    assert [t.widths for t in run.record().trials] == [tuple(said["widths"])]
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(autoprune.load(result.run_dir / "best")(images), result.model(images))
    assert "autoprune train --config" in (result.run_dir / "config.toml").read_text()
    assert autoprune.status(result.run_dir).is_delivered
    target = autoprune.export(result.run_dir, trial=0, to="again")  # from the weights that the method trained
    assert read_architecture(target)["kept"] == said["kept"]
    smaller = read_architecture(autoprune.export(result.run_dir, budget="macs<=30%", to="smaller"))
    assert all(set(a) <= set(b) for a, b in zip(smaller["kept"], said["kept"], strict=True))
    again = autoprune.resume(result.run_dir, progress=False)  # is over
    assert torch.equal(again.model(images), result.model(images))


SEARCHED = (
    "candidate",
    "finalist",
    "strategy",
    "criterion",
    "proxy",
    "trial 0",
    "1 trial",
    "training steps",
    "search ",
)


def test_its_status_report_and_page_tell_of_a_training_and_not_of_a_search(here, digits_weights, capsys):
    told = {"method_args": {"strength": 0.001}, "method_epochs": 2.0, "epochs": 1.0, "lr": 0.01, "progress": True}
    result = train(digits_weights, method="slimming", budget="macs<=40%", name="a", **told)
    whole, left = sum(result.space.full), sum(result.widths)
    plan = (
        "2 epochs, learning rate 0.01 (linear)",
        "1 epoch, learning rate 0.01 (linear)",
        "slimming (strength=0.001)",
    )
    steps = read_architecture(result.run_dir / "best")["metrics"]["method_training"]["step"][-1]
    removed = (
        f"slimming removed {whole - left} of {whole} units (channels, heads ...), {left} stay, after {steps} steps"
    )
    said = {
        "progress": capsys.readouterr().out,
        "status": str(autoprune.status("results/a")),
        "report": str(report := autoprune.report("results/a", html=False)),
    }
    if importlib.util.find_spec("matplotlib"):
        text = autoprune.report("results/a", html=True).page.read_text()
        text = text.partition("config.toml</summary>")[0] + text.partition("<h3>Environment</h3>")[2]
        assert "<h3>Training with slimming</h3>" in text
        assert "autoprune train --config" in text
        said["page"] = html.unescape(re.sub(r"<(svg|style).*?</\1>|<[^>]+>", "", text, flags=re.DOTALL))
    for name, text in said.items():
        words = " ".join(text.split())
        assert [w for w in SEARCHED if w in words.lower()] == [], name
        if name != "progress":
            assert [w for w in (*plan, removed) if w not in words] == [], name
    assert report.trials.is_file()


def test_the_units_that_a_method_chose_are_delivered_whatever_the_scores_say(here, digits_weights):
    """The last ones of each group, which no score prefers; the costs are theirs, too."""
    told = {name: value for name, value in QUICK.items() if name not in ("progress", "epochs")}
    config = RunConfig.make(**told, model=MODEL, weights=str(digits_weights), data="digits", epochs=0.0)
    prepared = prepare(config)
    half = prepared.space.clip(0.5 * group.size for group in prepared.space.groups)
    units = tuple(np.arange(g.size - w, g.size) for g, w in zip(prepared.space.groups, half, strict=True))
    chosen, trial = replace(prepared, units=units), Trial(0, half)
    assert chosen.kept(trial) is units
    assert len(chosen.kept(Trial(0, prepared.space.full))[0]) == prepared.space.full[0]
    run = RunDirectory.create(here / "run", config, prepared.problem, prepared.example, prepared.task.labels())
    found = deliver(run, prepared, units, Trial(0, prepared.space.full), run.best, RunProgress(quiet=True), None)
    said = read_architecture(run.best)
    assert said["kept"] == [u.tolist() for u in units]
    assert found.costs["macs"]["pruned"] == prepared.problem.feasibility.price(half)["macs"]


def test_killed_in_its_training_it_ends_with_the_same_bits(here, digits_weights, monkeypatch):
    whole = train(digits_weights, method="greg2", method_args={"every": 1}, name="a")
    advance, count = TrainingState.advance, 0
    monkeypatch.setattr("autoprune.runs.training.Checkpoints", functools.partial(Checkpoints, every=4))

    def stopping(self, batch):
        nonlocal count
        count += 1
        if count == 9:
            raise KeyboardInterrupt
        advance(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "advance", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(digits_weights, method="greg2", method_args={"every": 1}, name="b")
    assert (here / "results/b/finetune/method-greg2.pt").exists()
    assert not (here / "results/b/ledger.log").exists()
    said = " ".join(str(autoprune.status("results/b")).split())
    assert "state stopped" in said
    assert "ended stopped in its training with greg2; autoprune resume results/b goes on" in said
    lock = FileLock(here / "results/b/.lock", "run")
    assert "training with greg2" in str(autoprune.status("results/b"))
    with pytest.raises(ValueError, match="is being written by another controller"):
        autoprune.resume("results/b", progress=False)
    lock.release()
    again = autoprune.resume("results/b", progress=False)
    one, other = (kept_of(read_architecture(r.run_dir / "best")) for r in (whole, again))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    for a, b in zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_prune_when_goes_with_a_method_or_alone(here, digits_weights, capsys, monkeypatch):
    early = {"prune_when": "epi", "prune_when_args": {"last": 1, "tau": 0.0}, "method_epochs": 3.0, "epochs": 0.0}
    for name, method in (("a", {"method": "slimming"}), ("b", {})):
        result = train(digits_weights, **{**QUICK, **early, **method, "progress": True, "name": name})
        assert "settled after 2 of 3 epochs" in capsys.readouterr().out
        said = read_architecture(result.run_dir / "best")
        told = said["provenance"]["finetune"]
        assert (told["method_epochs"], told["epochs"]) == (2.0, 1.0)
        assert "after_finetune_val" in said["metrics"]  # the small network has been trained
        assert said["costs"]["macs"]["pruned"] <= 0.5 * said["costs"]["macs"]["dense"]
    assert autoprune.resume("results/a", progress=False).trial  # is over
    monkeypatch.setattr("autoprune.training.methods.epi.Epi.is_settled", lambda self: False)
    train(digits_weights, **{**QUICK, **early, "progress": True, "name": "c"})
    said = " ".join(capsys.readouterr().out.split())
    assert "the choice had not settled and was made at the end" in said
    assert (
        "training ended: epi has found its network; `autoprune finetune results/c --epochs N` trains that one" in said
    )
    for name in ("a", "b"):
        assert "its choice had settled after 2 of 3 epochs" in " ".join(
            str(autoprune.status(f"results/{name}")).split()
        )
    again = read_architecture(autoprune.finetune("results/a", epochs=0.5))["provenance"]["finetune"]
    assert (again["method_epochs"], again["epochs"]) == (2.0, 0.5)  # as was said


def test_groups_that_a_method_can_decide_nothing_about_are_told_when_it_begins(here, capsys):
    quick = {"criterion": "l1", "device": "cpu", "method_epochs": 2.5, "epochs": 0.0, "budget": "macs<=60%"}
    for name, settings, said in (
        ("a", {"method": "slimming"}, ["slimming"]),
        ("b", {"method": "reweighted", "prune_when": "early-bird", "prune_when_args": {"last": 1}}, ["early-bird"]),
        ("c", {"method": "reweighted"}, []),
    ):
        autoprune.train(Normed(), task(), name=name, **quick, **settings, progress=True)
        text = " ".join(capsys.readouterr().out.split())
        why = (
            "weighs the scales of normalisations, and 1 of 2 groups have none (rise), so it decides nothing about these"
        )
        assert [who for who in ("slimming", "early-bird", "reweighted") if f"method '{who}': {why}" in text] == said


def test_a_search_is_no_training_and_a_training_no_search(here, digits_weights, capsys):
    for name, value in (("method", "slimming"), ("prune_when", "epi")):
        with pytest.raises(ValueError, match=f"{name}: '{value}' trains one network .* type train instead of search"):
            autoprune.search(MODEL, "digits", weights=str(digits_weights), **{name: value})
    assert not (here / "results").exists()
    told = {"finalists": 2, "strategy": "tpe", "trials": 9, "time": "1h", "method_epochs": 0.5, "epochs": 0.0}
    result = train(digits_weights, method="slimming", **told, progress=True, name="a")
    assert "these settings play no part: strategy, trials, time, finalists" in capsys.readouterr().out
    assert len(RunDirectory.open(result.run_dir).record().trials) == 1
    again = autoprune.train(config=str(result.run_dir / "config.toml"), name="b", trust=True, progress=True)
    assert "play no part" not in capsys.readouterr().out
    assert again.widths == result.widths


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "method: missing; find the units"),
        ({"method": "nested", "budget_list": "30%", "prune_when": "epi"}, "'nested' has no such moment; leave prune_w"),
        ({"method": "slimming", "prune_when": "chex"}, "unknown prune_when 'chex'; known: early-bird, epi"),
        (
            {"method": "slimming", "method_args": {"strenght": 1}},
            "'slimming': has no setting 'strenght'; it has strength",
        ),
        (
            {"method": "slimming", "method_args": {"strength": "inf"}},
            "strength must be a number of at least 0, got 'inf'",
        ),
        ({"method": "slimming", "method_args": {"strength": -1}}, "strength must be a number of at least 0, got -1"),
        ({"method": "imp", "method_args": {"phases": 2.5}}, "phases must be a whole number of at least 1, got 2.5"),
        ({"method": "mest", "method_args": {"times": 0}}, "times must be a whole number of at least 1, got 0"),
        ({"method": "greg2", "method_args": {"every": 0}}, "every must be a whole number of at least 1, got 0"),
        ({"method": "chex", "method_args": {"growing": 2}}, "growing must be a number between 0 and 1, got 2"),
        ({"method": "slimming", "lr": 0.0}, "lr: nothing trains at a rate of 0; give one above 0"),
        ({"method": "chex", "method_args": {"every": True}}, "every must be a whole number of at least 0, got True"),
        ({"prune_when": "epi", "method_args": {"last": 2}}, "there is none; those of the rule are prune_when_args"),
        ({"method": "slimming", "prune_when_args": {"last": 2}}, "settings of a rule, and there is none; e.g. --prune"),
        ({"method": "slim"}, "unknown method 'slim'; known: "),
        ({"method": "sfp"}, "method 'sfp': is given the units that stay and finds none; use it as the --recovery"),
        ({"method": "chex", "method_epochs": 1.0}, r"method 'chex': its schedule needs at least \d+ steps"),
        ({"method": "slimming", "front": "macs"}, "finds one network under budgets, not a front"),
        ({"method": "slimming", "workers": 2}, "trains one network in this process; leave out workers"),
        (
            {"method": "slimming", "recovery": "sfp"},
            "recovery 'sfp': drives out units that a search has found, and here method 'slimming' finds",
        ),
        ({"prune_when": "epi", "recovery": "iss"}, "recovery 'iss': .* method 'epi' finds .*; leave out one of the"),
        ({"method": "slimming", "recovery_args": {"every": 2}}, "settings of what drives units out, and they are cut"),
        ({"method": "gates", "method_args": {"strength": 1e39}}, "strength must be a number between 0 and 1e.06"),
        (
            {"method": "threshold", "method_args": {"strength": 1e6}},
            "jump to and fro .*; give a strength of at most",
        ),
    ],
)
def test_bad_input_before_the_training(here, digits_weights, settings, message):
    with pytest.raises(ValueError, match=message):
        train(digits_weights, name="c", **settings)
    assert not (here / "results").exists()
