"""A search of the whole trade-off on the digits: run, looked at, stopped and resumed, exported at other budgets."""

import json

import numpy as np
import pytest

from autoprune import resume, search
from autoprune.cli import main
from autoprune.report import RunProgress
from autoprune.runs import RunDirectory
from objectives.latency import fit, needed
from objectives.latency.sites import Channels, sites_of

QUICK = {
    "trials": 20, "finalists": 4, "short_steps": 2, "epochs": 0, "val_samples": 100, "bn_samples": 64,
    "score_samples": 64, "fidelity": "proxy", "device": "cpu", "seed": 1,
}  # fmt: skip


@pytest.fixture
def run_front(here, digits_weights):
    """Search a front by the name of the run."""
    model = {"model": "search_spaces.models:digits_cnn", "weights": str(digits_weights)}

    def run(name, **settings):
        return search(**model, data="digits", name=name, **{"front": "macs,params", **QUICK, **settings})

    return run


def share(path, cost="macs"):
    """What an export costs, of the dense network."""
    said = json.loads((path / "architecture.json").read_text())["costs"][cost]
    return said["pruned"] / said["dense"]


def test_the_whole_way_of_a_front(run_front, here, capsys):
    result = run_front("f")
    run = RunDirectory.open(result.run_dir)
    assert (run.config.strategy, run.config.budget, run.config.front) == ("nsga2", (), ("macs", "params"))
    record = run.record()
    tradeoff = run.tradeoff(record)
    assert tradeoff.worst == pytest.approx(2.302585, abs=1e-5)  # the logarithm of ten classes
    shares = {t.number: float(tradeoff.shares(t.widths)[0]) for t in record.trials}
    assert 0.25 < share(run.best) <= 0.5  # at most half the first cost: what is delivered without a budget
    trained = [shares[t.number] for t in record.trials if t.fidelity == "short"]
    assert len(trained) == 4
    assert min(trained) < 0.3
    assert main(["report", "results/f", "--png"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "front of loss and macs and params" in said
    assert "front (proxy" in said
    assert "the box below the dense network's macs and params and loss 2.303" in said
    page = (run.path / "report.html").read_text()
    for chart in ("front", "front-params", "hypervolume"):
        assert (run.path / "charts" / f"{chart}.png").stat().st_size > 1000
        assert f'id="{chart}"' in page
    assert main(["status", "results/f"]) == 0
    said = capsys.readouterr().out
    assert "hypervolume" in said
    assert "20 of 20 candidates, 4 of 4 finalists" in said

    assert main(["export", "results/f", "--budget", "macs<=30%", "--epochs", "0.1"]) == 0
    exported = json.loads((run.path / "macs-30pct" / "architecture.json").read_text())
    assert share(run.path / "macs-30pct") <= 0.3
    chosen = run.trial(exported["provenance"]["trial"])
    assert list(chosen.widths) == exported["widths"]  # as it was evaluated
    assert main(["export", "results/f", "--trial", "0", "--budget", "macs<=30%"]) == 0  # of a named trial: cut
    assert 0.2 < share(run.path / "trial-0-macs-30pct") <= 0.3
    capsys.readouterr()
    smallest = min(s for n, s in shares.items() if n < 20)
    assert smallest > 0.006
    assert main(["export", "results/f", "--budget", f"macs<={100 * smallest - 0.05:.2f}%"]) == 2
    assert "no candidate of the front keeps to that; the smallest one" in capsys.readouterr().err


@pytest.mark.slow
def test_a_front_that_was_stopped_goes_on_as_if_it_had_not_been(run_front):
    class Stops(RunProgress):
        """Ctrl-C after so many trials."""

        def on_told(self, trial):
            if trial.number == 18:
                raise KeyboardInterrupt

    def facts(path):
        return [(t.widths, t.fidelity, t.metrics["loss"], t.genes) for t in RunDirectory.open(path).record().trials]

    whole = run_front("whole", encoding="compensation", budget="params<=80%")
    with pytest.raises(KeyboardInterrupt):
        run_front("stopped", encoding="compensation", budget="params<=80%", progress=Stops(quiet=True))
    again = resume("results/stopped")
    assert facts(again.run_dir) == facts(whole.run_dir)
    assert again.widths == whole.widths
    assert share(again.run_dir / "best", "params") <= 0.8


def test_a_learnt_ranking_is_cut_and_others_are_refused(run_front, here, capsys):
    result = run_front("ranking", strategy="lcp", budget="macs<=50%", trials=8, finalists=1)
    assert main(["export", str(result.run_dir), "--budget", "macs<=20%"]) == 0
    assert 0.1 < share(result.run_dir / "macs-20pct") <= 0.2
    known = {t.widths for t in RunDirectory.open(result.run_dir).record().trials}
    cut = json.loads((result.run_dir / "macs-20pct" / "architecture.json").read_text())["widths"]
    assert tuple(cut) not in known
    with pytest.raises(ValueError, match="front: strategy 'evolution' searches at one budget and learns no ranking"):
        run_front("refused", strategy="evolution")
    with pytest.raises(ValueError, match="front: strategy 'legr' learns its ranking at one budget; give that --budget"):
        run_front("refused", strategy="legr")
    assert not (here / "results/refused").exists()


@pytest.mark.slow
def test_profile_shows_every_constraint(digits_weights, here, capsys):
    line = f"profile --model search_spaces.models:digits_cnn --weights {digits_weights} --data digits"
    budgets = ["--score-samples=64", "--budget=macs<=50%", "--budget=params<=40%", "--budget=activations<=80%"]
    assert main([*line.split(), *budgets]) == 0
    said = capsys.readouterr().out
    for cost, limit in (("macs", "50.0 %"), ("params", "40.0 %"), ("activations", "80.0 %")):
        (row,) = [row for row in said.splitlines() if f" {cost} (" in row]
        assert limit in row
    assert main([*line.split(), "--front=macs,params"]) == 0
    assert "100.0 %" in capsys.readouterr().out


@pytest.mark.slow
def test_a_latency_is_one_of_the_costs(run_front, monkeypatch, capsys):
    """Its predictor is made as for a budget; nothing has to be measured to deliver, as no budget is on it."""
    metric, studied = "latency@torch,batch=1,threads=1", []

    def study(backend, name, model, space, example, **_):
        studied.append(name)
        sites = sites_of(model, space, example)
        widths = np.array([space.sample(np.random.default_rng(n)) for n in range(48)])
        made = Channels(sites, len(space.groups))(widths)[1]
        return fit(name, sites, widths, 1 + 0.01 * made.sum(axis=1), 2.0, {"device": "made up"})

    monkeypatch.setattr(needed, "study", study)
    result = run_front("timed", front="macs,latency@torch", trials=8, finalists=2, warm_starts="none")
    assert studied == [metric]
    assert set(result.costs) >= {"macs", metric}
    assert main(["report", str(result.run_dir), "--png"]) == 0
    assert metric in capsys.readouterr().out
    assert (result.run_dir / "charts" / "front-latency-torch-batch-1-threads-1.png").is_file()
    assert main(["export", str(result.run_dir), "--budget", "macs<=60%"]) == 0
    assert studied == [metric], "measured anew"
