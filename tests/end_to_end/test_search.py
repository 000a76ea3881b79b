"""A search from the first line to the last: in Python, from the command line, stopped, killed, resumed."""

import copy
import csv
import json
import math
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import tomllib
import torch
from torch import nn

import autoprune
from autoprune import data as data_sets
from autoprune.cli import main
from autoprune.config import RunConfig
from autoprune.controller import Job
from autoprune.errors import LedgerMismatch
from autoprune.ledger import Ledger
from autoprune.problem import Trial, TrialState
from autoprune.runs import Recipe, patience, prepare, winner
from objectives import Macs
from search_spaces.models import digits_cnn

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import slow_device

QUICK = {
    "trials": 7,
    "finalists": 2,
    "short_steps": 4,
    "epochs": 1,
    "batch_size": 64,
    "bn_samples": 128,
    "score_samples": 64,
    "criterion": "l1",
    "device": "cpu",
}
FLAGS = [f"--{k.replace('_', '-')}={v}" for k, v in QUICK.items()]


def problem_flags(weights):
    return ["--model=search_spaces.models:digits_cnn", f"--weights={weights}", "--data=digits"]


@pytest.fixture(scope="module")
def dense(digits_weights):
    from autoprune.reference import ModelReference

    return ModelReference("search_spaces.models:digits_cnn", {}, str(digits_weights)).build()


@pytest.fixture(scope="module")
def result(dense, tmp_path_factory):
    data = data_sets.load("digits")
    name = str(tmp_path_factory.mktemp("runs") / "live")
    return autoprune.search(dense, data, budget=["macs<=50%", "params<=60%"], name=name, **QUICK)


def test_the_winner_keeps_every_budget_and_really_is_smaller(dense, result):
    macs = Macs(result.space)
    assert macs(result.widths) <= 0.5 * macs(result.space.full)
    counted = sum(p.numel() for p in result.model.parameters())
    assert safetensors.torch.save(result.model.state_dict())  # refuses weights that lie channels last
    assert counted == result.costs["params"]["pruned"] <= 0.6 * sum(p.numel() for p in dense.parameters())


def test_the_samples_of_the_search_are_gone_when_the_winner_trains(dense, tmp_path, monkeypatch):
    made, alive = [], []
    evaluator, deliver = Recipe.evaluator, winner.deliver

    def made_by(*args, **settings):
        made.append(weakref.ref(found := evaluator(*args, **settings)))
        return found

    monkeypatch.setattr(Recipe, "evaluator", made_by)
    monkeypatch.setattr(
        winner, "deliver", lambda *args, **more: alive.extend(r() for r in made) or deliver(*args, **more)
    )
    autoprune.search(dense, data_sets.load("digits"), budget="macs<=50%", name=str(tmp_path / "run"), **QUICK)
    assert made
    assert alive == [None] * len(made)


def test_the_dense_network_is_left_as_it_was(dense, digits_weights):
    from autoprune.reference import fingerprint, read_weights

    fresh = digits_cnn()
    fresh.load_state_dict(read_weights(digits_weights))
    assert fingerprint(fresh) == fingerprint(dense)
    assert all(p.is_contiguous() for p in dense.parameters())  # the search itself runs channels last


def test_a_live_model_is_prepared_as_a_copy(dense):
    live = copy.deepcopy(dense).to(memory_format=torch.channels_last).train()
    live.block1.eval()
    modes, strides = [m.training for m in live.modules()], [p.stride() for p in live.parameters()]
    prepared = prepare(RunConfig(criterion="l1"), live, data_sets.load("digits"))
    assert not any(m.training for m in prepared.model.modules())
    prepared.model.to("meta")
    assert modes == [m.training for m in live.modules()]
    assert strides == [p.stride() for p in live.parameters()]
    assert {p.device.type for p in live.parameters()} == {"cpu"}


def test_without_a_fine_tune_the_winner_is_what_was_scored(dense, here):
    quick = QUICK | {"trials": 2, "finalists": 0, "epochs": 0, "bn_samples": 129}  # not batches of 64, 64 and 1
    result = autoprune.search(dense, data_sets.load("digits"), name="untrained", **quick)
    assert result.metrics["pruned_val"]["loss"] == pytest.approx(result.trial.loss, rel=0.02)  # folded, bfloat16


def test_the_validation_images_are_part_of_the_problem(dense):
    data = data_sets.load("digits")
    whole, few = (prepare(RunConfig(criterion="l1", val_samples=n), dense, data).fingerprint() for n in (2000, 100))
    assert {k for k in whole if whole[k] != few[k]} == {"val_samples"}


def test_the_cost_that_scores_are_divided_by_is_part_of_the_problem(dense):
    data = data_sets.load("digits")
    settings = RunConfig(criterion="l1"), RunConfig(criterion="l1", score_per="activations")
    plain, per = (prepare(s, dense, data) for s in settings)
    assert set(per.fingerprint()) - set(plain.fingerprint()) == {"score_per"}
    assert per.problem.score_per == "activations"


@pytest.mark.parametrize(
    "said", ["latency@slow_device:Slow", "latency@slow_device:Slow,threads=1,batch=1", "flops", "none"]
)
def test_costs_are_named_as_in_budgets(dense, said, monkeypatch):
    monkeypatch.setattr("objectives.latency.needed.study", slow_device.study)
    config = RunConfig(criterion="l1", score_per=said, budget=(slow_device.BUDGET,))
    found = prepare(config, dense, data_sets.load("digits")).problem.score_per
    assert found == {"flops": "macs", "none": "none"}.get(said, slow_device.METRIC)


def test_the_export_is_the_winner(dense, result):
    x = torch.randn(4, 1, 8, 8)
    loaded = autoprune.load(result.run_dir / "best", model=dense)
    torch.testing.assert_close(loaded(x), result.model(x))
    data = json.loads((result.run_dir / "best" / "architecture.json").read_text())
    assert tuple(data["widths"]) == result.widths
    assert (data["input"]["shape"], data["input"]["mean"], data["input"]["std"]) == ([1, 8, 8], [0.305], [0.376])
    assert data["provenance"]["trial"] == result.trial.number


def test_the_run_says_what_it_did(result):
    config = tomllib.loads((result.run_dir / "config.toml").read_text())
    assert config["trials"] == QUICK["trials"]
    rows = list(csv.DictReader((result.run_dir / "trials.csv").read_text().splitlines()))
    trials = Ledger.read(result.run_dir).trials
    assert [int(r["trial"]) for r in rows] == [t.number for t in trials]
    assert sum(r["fidelity"] == "short" for r in rows) == QUICK["finalists"]
    dense_macs = result.costs["macs"]["dense"]
    assert all(float(r["macs"]) <= 0.5 * dense_macs for r in rows)
    measured = {f"{which}_{split}" for which in ("dense", "pruned") for split in ("val", "test")}
    recovered = {f"{which}_val" for which in ("before_finetune", "finalist", "after_finetune")}
    assert set(result.metrics) == measured | recovered | {"training", "per_class"}


def test_resuming_a_finished_run_changes_nothing_and_gives_the_same(dense, result):
    def state():
        return {p: p.stat().st_mtime_ns for p in result.run_dir.rglob("*") if p.is_file() and p.name != ".lock"}

    before = state()
    again = autoprune.resume(result.run_dir, model=dense, data=data_sets.load("digits"))
    assert again.widths == result.widths
    assert (again.costs, again.metrics) == (result.costs, result.metrics)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(again.model(x), result.model(x))
    assert state() == before


def test_what_a_verb_may_not_change_is_refused(result):
    for verb, setting in ((autoprune.resume, "seed"), (autoprune.finetune, "trials"), (autoprune.export, "epochs")):
        with pytest.raises(ValueError, match=rf"{setting} may not change; only .* may"):
            verb(result.run_dir, **{setting: 3})


def test_a_trial_of_another_dense_network_is_not_exported(dense, result):
    other = digits_cnn().eval()
    for verb in (autoprune.finetune, autoprune.export):
        with pytest.raises(LedgerMismatch, match=r"was begun with another problem: weights is .* there and"):
            verb(result.run_dir, model=other, data=data_sets.load("digits"), trial=1)
    assert not list(result.run_dir.glob("*-1"))


def test_a_resume_with_a_network_of_other_groups_says_so(result):
    small = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
    with pytest.raises(LedgerMismatch, match="has other groups than that of the run; give the same one"):
        autoprune.resume(result.run_dir, model=small, data=data_sets.load("digits"))


def test_a_target_that_is_taken_is_refused_before_any_work(result, tmp_path, monkeypatch):
    (tmp_path / "thesis.tex").write_text("mine")
    monkeypatch.setattr(sys.modules["autoprune.runs.reopening"], "prepare", lambda *_: pytest.fail("work was done"))
    for verb in (autoprune.finetune, autoprune.export):
        for trial in (None, 1):
            with pytest.raises(ValueError, match=r"but found 'thesis\.tex', which would be lost"):
                verb(result.run_dir, trial=trial, to=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def kept_units(directory):
    return [set(units) for units in json.loads((directory / "architecture.json").read_text())["kept"]]


@pytest.mark.parametrize("strategy", ["evolution", pytest.param("layer_compensation", marks=pytest.mark.slow)])
def test_one_search_serves_many_budgets(digits_weights, here, strategy, capsys):
    """The winner's ranking cut at other budgets: nested, feasible, exported like any network."""
    flags = [*problem_flags(digits_weights), *FLAGS, "--name=r", "--finalists=1", "--epochs=0", "--warm-starts=none"]
    assert main(["search", *flags, f"--strategy={strategy}"]) == 0
    assert main(["export", "results/r", "--budget=macs<=30%"]) == 0
    assert main(["export", "results/r", "--budget=macs<=40%", "--budget=params<=30%", "--epochs=0.5", "--lr=0.01"]) == 0
    assert main(["export", "results/r", "--budget=macs<=70%", "--to=large"]) == 0
    run = here / "results/r"
    small, both, large = run / "macs-30pct", run / "macs-40pct-params-30pct", here / "large"
    assert autoprune.export(run, budget="macs<=30%", trial=0) == run / "trial-0-macs-30pct"
    for directory, limits in ((small, {"macs": 0.3}), (both, {"macs": 0.4, "params": 0.3}), (large, {"macs": 0.7})):
        said = json.loads((directory / "architecture.json").read_text())
        for cost, share in limits.items():
            spent = said["costs"][cost]["pruned"] / said["costs"][cost]["dense"]
            assert (0 if len(limits) > 1 else 0.5) < spent / share <= 1
        assert said["provenance"]["budget"] == [f"{c}<={s * 100:.0f}%" for c, s in limits.items()]
        assert said["provenance"]["finetune"]["epochs"] == (0.5 if directory == both else 0)
        assert autoprune.load(directory)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    chain = [kept_units(d) for d in (small, run / "best", large)]
    assert all(a <= b for a, b in zip(chain[0], chain[1], strict=True))
    assert all(a <= b for a, b in zip(chain[1], chain[2], strict=True))
    assert chain[0] != chain[1] != chain[2]
    capsys.readouterr()
    assert main(["export", "results/r", "--budget=macs<=0.01%"]) == 2
    assert "macs<=0.01%" in capsys.readouterr().err
    assert main(["export", "results/r", "--epochs=1"]) == 2  # the winner is fine-tuned already
    assert "epochs may not change" in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_of_the_whole_front(digits_weights, here, capsys):
    """Candidates that are cheaper on purpose are evaluated as they are, and the report lists the front."""
    flags = [*problem_flags(digits_weights), *FLAGS, "--name=f", "--finalists=0", "--epochs=0", "--warm-starts=none"]
    assert main(["search", *flags, "--strategy=nsga2", "--trials=12"]) == 0
    dense = json.loads((here / "results/f/best/architecture.json").read_text())["costs"]["macs"]["dense"]
    rows = csv.DictReader((here / "results/f/trials.csv").read_text().splitlines())
    shares = [float(row["macs"]) / dense for row in rows]
    assert min(shares) < 0.25
    assert 0.3 < max(shares) <= 0.5
    capsys.readouterr()
    assert main(["report", "results/f"]) == 0
    assert "front: macs against loss" in capsys.readouterr().out


def test_a_worker_is_taken_for_hung_when_it_is_far_slower_than_the_others():
    trials = [Trial(0, (1,), TrialState.COMPLETE, seconds=100.0), Trial(1, (2,), TrialState.FAIL, seconds=9999.0)]
    automatic, given = (patience(SimpleNamespace(trials=trials), s) for s in (0.0, 7.0))
    proxy, short = Job(2, (3,), "proxy"), Job(3, (3,), "short")
    assert (automatic(proxy), automatic(short)) == (2000.0, math.inf)
    assert (given(proxy), given(short)) == (7.0, 7.0)
    trials[:] = [Trial(0, (1,), TrialState.COMPLETE, seconds=1.0)]
    assert automatic(proxy) == 600.0


def test_a_plug_in_strategy_keeps_the_budget_too(digits_weights, here):
    (here / "greedy.py").write_text(
        "from autoprune.strategies import Strategy\n"
        "class Greedy(Strategy):\n"
        "    name = 'greedy'\n"
        "    def ask(self, number): return self.problem.space.full\n"
    )
    flags = [*problem_flags(digits_weights), *FLAGS, "--name=g", "--trials=1", "--finalists=0", "--epochs=0"]
    assert main(["search", *flags, "--strategy=greedy:Greedy", "--warm-starts=none"]) == 0
    (row,) = csv.DictReader((here / "results/g/trials.csv").read_text().splitlines())
    said = json.loads((here / "results/g/best/architecture.json").read_text())
    assert float(row["macs"]) <= 0.5 * said["costs"]["macs"]["dense"]


def test_a_run_of_an_object_needs_the_object_again(result, capsys):
    assert main(["resume", str(result.run_dir)]) == 2
    message = capsys.readouterr().err
    assert "was started from a model object" in message
    assert f"next: autoprune resume {result.run_dir} --model package.module:factory --weights FILE --data" in message
    assert "in Python: give model=..., data=... to autoprune.resume, too" in message


def test_more_trials_on_a_resume(dense, digits_weights, here):
    assert main(["search", *problem_flags(digits_weights), *FLAGS, "--name=more", "--finalists=0", "--epochs=0"]) == 0
    assert main(["resume", "results/more", "--trials=9"]) == 0
    (here / "results/more").rename(here / "renamed")
    os.chdir(here / "renamed")
    before = Path("ledger.log").read_bytes()
    assert main(["resume", "."]) == 0  # goes on to nine as well, in the same study
    assert Path("ledger.log").read_bytes() == before
    assert tomllib.loads(Path("config.toml").read_text())["trials"] == 9
    assert len([t for t in Ledger.read(here / "renamed").trials if not t.metrics.get("cached")]) == 9


def num_finished(run):
    """How many trials have finished so far."""
    return (run / "ledger.log").read_text().count('"result"') if (run / "ledger.log").exists() else 0


def facts(run):
    """What a ledger says, without clocks and owners."""
    keys = ("loss", "top1", "batch_losses", "samples")
    return [
        (t.number, t.widths, t.state, t.fidelity, {k: t.metrics.get(k) for k in keys}) for t in Ledger.read(run).trials
    ]


def test_killed_and_resumed_equals_never_stopped(digits_weights, here, start):
    flags = [*problem_flags(digits_weights), *FLAGS]
    assert main(["search", *flags, "--name=whole"]) == 0
    killed = start(here, "autoprune", "search", *flags, "--name=killed")
    killed.wait_until(lambda: num_finished(here / "results/killed") >= 3)
    assert killed.kill().code == -signal.SIGKILL
    assert main(["resume", "results/killed"]) == 0
    assert facts(here / "results/killed") == facts(here / "results/whole")
    first, second = (here / f"results/{n}/best/weights.safetensors" for n in ("whole", "killed"))
    assert first.read_bytes() == second.read_bytes()


def test_ctrl_c_leaves_a_resumable_run_and_says_how(digits_weights, here, start, capsys):
    run = start(here, "autoprune", "search", *problem_flags(digits_weights), *FLAGS, "--name=stopped", "--trials=900")
    run.wait_until(lambda: num_finished(here / "results/stopped") >= 2)
    assert main(["status", "results/stopped"]) == 0
    assert "running (process" in capsys.readouterr().out
    assert main(["resume", "results/stopped"]) == 2
    assert "is being written by another controller" in capsys.readouterr().err
    run.send(signal.SIGINT)
    ended = run.end()
    assert ended.code == 130, ended
    assert "stopped; all finished trials are safe: autoprune resume results/stopped" in ended.out + ended.err
    assert "Traceback" not in ended.out + ended.err
    assert not list(here.glob("results/**/*.partial"))
    assert main(["status", "results/stopped"]) == 0
    assert "; autoprune resume results/stopped goes on" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_worker_processes_find_the_same(digits_weights, here):
    """Random candidates do not depend on what was told: two workers evaluate what one process does."""
    flags = [*problem_flags(digits_weights), *FLAGS, "--strategy=random", "--no-abandon", "--epochs=0", "--finalists=0"]
    found = []
    for n in (0, 2):
        assert main(["search", *flags, f"--name=w{n}", f"--workers={n}"]) == 0
        found.append({(t.widths, t.fidelity): t.loss for t in Ledger.read(here / f"results/w{n}").trials})
    assert found[0] == found[1]


def test_a_fine_tune_that_diverges_says_so(digits_weights, here, capsys):
    flags = [*problem_flags(digits_weights), *FLAGS, "--name=d", "--finalists=0", "--trials=2"]
    assert main(["search", *flags, "--lr=1000", "--weight-decay=1"]) == 1  # a thousand times the weights, step by step
    message = capsys.readouterr().err
    assert "training diverged at step" in message
    assert "lower the learning rate" in message
    assert "`autoprune finetune results/d --lr 0.01 --to results/d/best`" in message
    assert main(["finetune", "results/d", "--lr", "0.01", "--to", "results/d/best"]) == 0
    weights = (here / "results/d/best/weights.safetensors").read_bytes()
    assert main(["resume", "results/d"]) == 0  # the run is whole now
    assert (here / "results/d/best/weights.safetensors").read_bytes() == weights


def test_export_report_status_and_finetune_of_a_run(digits_weights, here, capsys):
    assert main(["search", *problem_flags(digits_weights), *FLAGS, "--name=r"]) == 0
    for command in (
        ["status", "results/r"],
        ["report", "results/r"],
        ["export", "results/r", "--pt2"],
        ["resume", "results/r", "--onnx"],
        ["finetune", "results/r", "--epochs=1"],
        ["export", "results/r", "--trial=1"],
        ["finetune", "results/r", "--epochs=1", "--distill=0.5", "--to=again"],
    ):
        assert main(command) == 0, capsys.readouterr().err
    assert {p.name for p in (here / "results/r/best").iterdir()} == {
        "architecture.json",
        "weights.safetensors",
        "model.onnx",
        "model.pt2",
    }
    assert isinstance(autoprune.load(here / "results/r/trial-1"), nn.Module)
    assert isinstance(autoprune.load(here / "results/r/finetuned"), nn.Module)
    assert isinstance(autoprune.load(here / "again"), nn.Module)
    assert "rank correlation" in capsys.readouterr().out


@pytest.mark.slow
def test_a_search_needs_no_ray(digits_weights, here):
    (here / "bare.py").write_text(
        "import sys\n"
        "sys.modules['ray'] = None\n"
        "import autoprune\n"
        f"autoprune.search('search_spaces.models:digits_cnn', 'digits', weights={str(digits_weights)!r},\n"
        "                 trials=2, finalists=0, epochs=0, name='bare')\n"
    )
    path = str(Path(autoprune.__file__).parents[1])
    subprocess.run([sys.executable, "bare.py"], check=True, env={**os.environ, "PYTHONPATH": path})
    assert (here / "results/bare/best/weights.safetensors").is_file()
