"""A search under a latency budget: priced by one predictor, which the run keeps, and a resume reads."""

import json

import numpy as np
import pytest

from autoprune import resume, search
from autoprune.cli import main
from autoprune.runs.directory import RunDirectory
from autoprune.runs.winner import measured_costs
from objectives.latency import Comparison, fit, needed
from objectives.latency.sampling import sample
from objectives.latency.sites import Channels, sites_of

BUDGET = "latency<=60%@torch"
METRIC = "latency@torch,batch=1,threads=1"
QUICK = {
    "trials": 4, "finalists": 1, "short_steps": 2, "epochs": 0, "val_samples": 64, "bn_samples": 64,
    "score_samples": 64, "fidelity": "proxy", "device": "cpu",
}  # fmt: skip


@pytest.fixture
def studies(monkeypatch):
    """Every study that was asked for; a made-up device answers it."""
    asked = []

    def study(backend, name, model, space, example, **_):
        asked.append(name)
        sites = sites_of(model, space, example)
        widths = np.array([sample(space, n) for n in range(48)])
        i, o = Channels(sites, len(space.groups))(widths)
        ms = (0.001 + 100 * i * np.ceil(o / 8) * 8 * np.array([s.work for s in sites])).sum(axis=1)
        return fit(name, sites, widths, ms, 1.0, {"device": "made up"})

    monkeypatch.setattr(needed, "study", study)
    as_predicted = Comparison(1.0, 0.01, 0.55, 0.01, 0.55, 0.001, 5)
    monkeypatch.setattr("autoprune.runs.latency_meter.compare", lambda *_: as_predicted)
    return asked


def test_the_run_keeps_its_predictor_and_a_resume_prices_the_same(here, digits_weights, studies):
    model = {"model": "search_spaces.models:digits_cnn", "weights": str(digits_weights)}
    result = search(**model, data="digits", budget=[BUDGET, "params<=80%"], name="quick", **QUICK)
    latency = RunDirectory.open(result.run_dir).latency()[METRIC]
    assert result.costs[METRIC] == {"dense": 1.0, "pruned": 0.55}, "as measured"
    assert result.metrics[METRIC]["predicted_ms"] == latency(result.widths) <= 0.6 * latency.dense * (1 + 1e-9)
    assert json.loads((result.run_dir / "best/architecture.json").read_text())["costs"] == result.costs
    assert result.costs["params"]["pruned"] <= 0.8 * result.costs["params"]["dense"]
    header, *rows = (result.run_dir / "trials.csv").read_text().splitlines()
    assert "latency@torch" in header
    assert len(rows) >= 4
    assert studies == [METRIC]
    again = resume(result.run_dir, trials=5)
    assert studies == [METRIC], "measured anew"
    assert again.costs[METRIC] == result.costs[METRIC]


def test_a_latency_costs_what_was_measured_and_else_what_was_predicted():
    macs, other = {"dense": 100.0, "pruned": 50.0}, "latency@tensorrt,batch=1"
    costs = {"macs": macs, METRIC: {"dense": 0.378, "pruned": 0.2083}, other: {"dense": 3.0, "pruned": 2.0}}
    metrics = {"pruned_val": {"loss": 0.1}, METRIC: {"dense_ms": 0.372, "pruned_ms": 0.213, "predicted_ms": 0.2083}}
    assert measured_costs(costs, metrics) == {**costs, METRIC: {"dense": 0.372, "pruned": 0.213}}
    assert measured_costs(costs, {}) == costs


def test_another_table_is_another_problem(here, digits_weights, studies):
    model = {"model": "search_spaces.models:digits_cnn", "weights": str(digits_weights)}
    result = search(**model, data="digits", budget=BUDGET, name="quick", **QUICK)
    path = result.run_dir / "latency.json"
    data = json.loads(path.read_text())
    data[METRIC]["coefficients"][0][0] += 0.5
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="latency"):
        resume(result.run_dir, trials=5)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"latency.json': damaged .*start the search anew"):
        resume(result.run_dir, trials=5)


@pytest.mark.slow
def test_profile_times_the_dense_network(here, digits_weights, studies, capsys, monkeypatch):
    from objectives.latency import BACKENDS

    for name in [n for n in BACKENDS if n not in ("torch", "tensorrt")]:
        monkeypatch.delitem(BACKENDS, name)
    line = f"profile --model search_spaces.models:digits_cnn --weights {digits_weights} --data digits --latency"
    assert main([*line.split(), "--budget", BUDGET, "--score-samples", "64"]) == 0
    said = capsys.readouterr().out
    assert "latency of the dense network" in said
    assert "where the time goes on torch" in said
    assert "tensorrt is not installed" in " ".join(said.split())
    assert "held-out candidates" in said


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--budget", "latency<=50%@phone"], "unknown latency backend 'phone'"),
        (["--budget", "latency<=50%@torch,threads=999"], "threads must lie between 1 and"),
        (["--budget", "latency<=50%@command"], "--latency-command: expected a command with {onnx}"),
        (["--budget", "latency<=0.0001%@torch"], "unreachable, the smallest network of this space keeps"),
    ],
)
def test_bad_input_is_one_sentence(here, studies, capsys, options, why):
    line = "profile --model search_spaces.models:digits_cnn --data digits"
    assert main([*line.split(), *options]) == 2
    said = capsys.readouterr().err
    assert why in said
    assert len(said.splitlines()) == 1
