"""A run under latency budgets as a page: what was predicted, what was measured, how good the predictor was."""

import itertools
import json
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.config import RunConfig
from autoprune.ledger.measurements import Measurement
from autoprune.ledger.records import Entry, Record
from autoprune.problem import Trial, TrialState
from autoprune.report.compare import print_compare, read_runs, run_table, share_of
from autoprune.report.console import print_report
from autoprune.report.page import write_page
from autoprune.report.page.dots import LossAxis
from autoprune.report.page.facts import Facts
from autoprune.report.page.measured import measured_chart, points
from autoprune.report.page.overlay import write_overlay
from autoprune.report.page.predictor import cards, predictor_chart, verdict
from autoprune.report.page.prices import amount, cost_label, slug
from autoprune.report.page.tiles import tiles
from autoprune.report.page.words import budgets, nothing
from autoprune.report.status import print_status
from autoprune.runs.directory import RunDirectory
from objectives.latency import Comparison, Latency, Quality
from objectives.latency.features import NUM_TERMS
from objectives.latency.sites import Site
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace, TensorShape

pytest.importorskip("matplotlib")
TORCH, BATCHED = "latency@torch,batch=1,threads=1", "latency@onnxruntime,batch=8,threads=2"
AXES = [Axis(3, 3), Axis(8, 0, ((0, 1),)), Axis(16, 0, ((1, 1),)), Axis(10, 10)]
LAYERS = tuple(Layer(f"conv{i}", "conv", 9, 64, a, b) for i, (a, b) in enumerate(itertools.pairwise(AXES)))
SPACE = SearchSpace(
    tuple(ChannelGroup(f"conv{i}", size, ()) for i, size in enumerate((8, 16))),
    (),
    LAYERS,
    tuple(TensorShape(f"{x.name}.weight", (x.makes, x.reads, Axis(9, 9))) for x in LAYERS),
)


def latency(name, mape=2.0, spearman=0.99, held_out=()):
    """A device on which a layer takes 0.1 ms and a microsecond for each pair of channels."""
    sites = tuple(Site(x.name, f"s{i}", "conv", 1.0, 0.0, 0.0, x.reads, x.makes) for i, x in enumerate(LAYERS))
    coefficients = np.zeros((len(sites), NUM_TERMS))
    coefficients[:, 0], coefficients[:, 1] = 0.1, 0.001
    about = {
        "backend": "torch",
        "command": "",
        "device": "A Device",
        "system": "Os x1",
        "threads": "1",
        "torch": "1.2.3",
    }
    return Latency(name, sites, 2, coefficients, Quality(mape, 12.5, spearman, 96, held_out), 0.6, about)


# dense: 0.3 + (3*8 + 8*16 + 16*10) / 1000 = 0.612; (4, 8): 0.3 + (12 + 32 + 80) / 1000 = 0.424 = 69.3 %
DENSE_MS, PRUNED_MS = 0.612, 0.424


def took(share, error=0.002):
    return Comparison(0.66, 0.01, 0.66 * share, 0.004, share, error, 5)


def measured(widths, share, holds, metrics=(TORCH,)):
    return Measurement(widths, {m: took(share) for m in metrics}, holds)


@dataclass(frozen=True)
class Run(RunDirectory):
    """A run whose ledger is a list."""

    trials: tuple = ()
    seen: tuple = ()

    def space(self):
        return SPACE

    def record(self):
        said = [{"kind": "measured", **m.to_json()} if m else {"kind": "gave up"} for m in self.seen]
        notes = {f"measured.{i}": note for i, note in enumerate(said)}
        return Record({}, {"versions": {"torch": "9.9"}}, tuple(Entry(t) for t in self.trials), notes)


def complete(number, widths, loss, fidelity="proxy"):
    metrics = {"loss": loss, "top1": 1 - loss / 10}
    return Trial(number, widths, TrialState.COMPLETE, metrics, fidelity, worker="node-7", seconds=2.0)


TRIALS = (complete(0, (6, 12), 0.9), complete(1, (4, 8), 1.0), complete(2, (4, 8), 0.5, "short"))


@pytest.fixture
def make(tmp_path):
    """A run's directory, stopped before its winner was delivered."""

    def make(
        name="r", budget=("latency<=70%@torch",), seen=(), predictors=(TORCH,), trials=TRIALS, held_out=(), **settings
    ):
        config = RunConfig(model="m:f", data="digits", trials=2, fidelity="proxy", budget=budget, **settings)
        run = Run(tmp_path / name, config, trials, seen)
        run.path.mkdir()
        (run.path / "config.toml").write_text(config.to_toml(), encoding="utf-8")
        known = {m: latency(m, held_out=held_out).to_json() for m in predictors}
        (run.path / "latency.json").write_text(json.dumps(known), encoding="utf-8")
        return run

    return make


def charts(path):
    return re.findall(r'<figure id="([^"]+)"', path.read_text(encoding="utf-8"))


def test_the_page_prices_by_the_predictor_of_the_run(make):
    asked = ("latency<=70%@torch", "latency<=0.5ms@onnxruntime,batch=8,threads=2")
    run = make(budget=asked, predictors=(TORCH, BATCHED))
    facts = Facts.of(run)
    assert facts.price(TORCH, (8, 16)) == pytest.approx(DENSE_MS)
    assert facts.priced(TORCH, [(4, 8)])[0] == pytest.approx(PRUNED_MS / DENSE_MS)
    assert [(b.budget, b.state, b.used) for b in budgets(facts)] == [
        (asked[0], "kept", "0.424 ms of 0.428 ms allowed: 99.0 % of the budget is used, as predicted"),
        (asked[1], "kept", "0.424 ms of 0.5 ms allowed: 84.8 % of the budget is used, as predicted"),
    ]
    page = write_page(run)
    by_layer = ["cost-latency-torch-batch-1-threads-1", "cost-latency-onnxruntime-batch-8-threads-2"]
    assert [c for c in charts(page) if c.startswith("cost")][:3] == ["cost-macs", *by_layer]
    words = page.read_text(encoding="utf-8")
    wanted = ["2.0 % on average, 12.5 % at worst", "0.990 (Spearman)", "96 measured", "A Device, Os x1", "torch 1.2.3"]
    wanted += ["Latency on onnxruntime, batch 8, 2 threads", "No network of this run has been measured"]
    wanted += ["0.612 ms before, 0.424 after: 69.3 % kept"]
    assert [w for w in wanted if w not in words] == []


def test_what_was_measured_counts_more_than_what_was_predicted(make):
    seen = (measured((6, 12), 0.75, False), measured((4, 8), 0.68, True))
    run = make(seen=seen)
    facts = Facts.of(run)
    (held,), (tile,) = budgets(facts), [t for t in tiles(facts) if "atency" in t.label]
    assert held == ("latency<=70%@torch", "kept", "68.0 ± 0.2 % of the dense network, predicted 69.3 %")
    assert tile[:3] == ("Latency on torch", "68.0 %", "0.449 of 0.66 ms, measured")
    assert [(p.name, p.holds) for p in points(facts, TORCH)] == [("trial 0", False), ("trial 2", True)]
    chart = measured_chart(facts, TORCH)
    assert chart.rows[1] == ("trial 2", "0.424 ms", "0.449 ± 0.004 ms", "69.3 %", "68.0 ± 0.2 %", "held")
    assert charts(write_page(run))[-1] == "measured-latency-torch-batch-1-threads-1"
    assert "No network of this run" not in cards(facts)[0].verdict
    assert "But it was" not in cards(facts)[0].verdict


def test_a_predictor_that_is_wrong_about_the_finalists_is_said_to_be(make):
    facts = Facts.of(make(seen=(measured((4, 8), 0.9, False),)))  # 30 % above 69.3 %
    assert "But it was 30 % off, on average, on the networks that this run measured" in cards(facts)[0].verdict


def test_a_budget_that_the_device_breaks_is_broken_whatever_was_predicted(make):
    facts = replace(Facts.of(make(seen=(measured((4, 8), 0.71, False),))), export={"widths": [4, 8]})
    (held,) = budgets(facts)
    assert (held.state, held.used[:4]) == ("broken", "71.0")


@pytest.mark.parametrize(
    ("seen", "winner"),
    [
        ((), 2),
        ((measured((4, 8), 0.71, False),), 0),  # not measured yet
        ((measured((4, 8), 0.71, False), measured((6, 12), 0.69, True)), 0),
        ((measured((4, 8), 0.71, False), measured((4, 8), 0.69, True)), 2),
        ((measured((4, 8), 0.69, True), measured((4, 8), 0.71, False), measured((6, 12), 0.69, True)), 0),
        ((measured((4, 8), 0.71, False), measured((6, 12), 0.71, False)), None),
        ((measured((4, 8), 0.71, False), measured((6, 12), 0.71, False), None), None),  # gave up: nobody
    ],
)
def test_the_page_the_status_and_the_export_name_the_same_winner(make, capsys, seen, winner):
    run = make(seen=seen)
    facts = Facts.of(run)
    print_status(run)
    said = " ".join(capsys.readouterr().out.split())
    if winner is None:
        assert facts.winner is None
        assert "best none yet" in said
        assert "held the latency budget" in nothing(facts)
        assert nothing(facts) in write_page(run).read_text(encoding="utf-8")
        with pytest.raises(ValueError, match="no complete trial"):
            run.trial()
    else:
        assert facts.winner.number == run.trial().number == winner
        assert f"best trial {winner}, {TRIALS[winner].fidelity}:" in said


def test_the_held_out_candidates_and_the_finalists_are_drawn_in_milliseconds(make):
    held_out = ((0.3, 0.31), (0.5, 0.4), (0.45, 0.45))
    run = make(seen=(measured((4, 8), 0.68, True),), held_out=held_out, predictors=(TORCH, BATCHED))
    chart = predictor_chart(Facts.of(run), TORCH)
    assert chart.rows == [
        ("held out", "0.31 ms", "0.3 ms", "−3.2 %"),
        ("held out", "0.4 ms", "0.5 ms", "+25.0 %"),
        ("held out", "0.45 ms", "0.45 ms", "+0.0 %"),
        ("trial 2", "0.408 ms", "0.424 ms", "+3.9 %"),  # 68 % of the 0.6 ms of then, not of the 0.66 ms of today
    ]
    (bare,) = [c for c in charts(write_page(run)) if c.startswith("predictor-latency-onnxruntime")]
    assert predictor_chart(Facts.of(run), BATCHED).name == bare
    page = run.path.joinpath("report.html").read_text(encoding="utf-8")
    assert "held out: measured 0.4 ms, predicted 0.5 ms" in page
    assert "trial 2: measured 0.408 ms, predicted 0.424 ms" in page


def test_a_run_that_kept_no_points_shows_the_figures_only(make):
    run = make()
    assert predictor_chart(Facts.of(run), TORCH) is None
    page = write_page(run).read_text(encoding="utf-8")
    assert "predictor-latency" not in page
    assert "0.990 (Spearman)" in page


def test_a_run_without_its_predictor_still_has_a_page(make, capsys):
    run = make(seen=(measured((4, 8), 0.68, True),))
    (run.path / "latency.json").unlink()
    print_report(run)
    page = write_page(run)
    assert charts(page) == ["history", "front", "widths", "cost-macs", "cost-params", "cost-activations"]
    assert "latency.json is missing" in page.read_text(encoding="utf-8")
    assert "best trials" in capsys.readouterr().out


def test_measurements_before_the_run_gave_up_are_shown(make):
    seen = measured((4, 8), 0.5, False)
    for name, notes in (("a", (seen,)), ("b", (seen, None))):
        assert [m.widths for m in Facts.of(make(name, seen=notes)).measurements] == [(4, 8)]


@pytest.mark.parametrize(
    ("trials", "settings", "drawn"),
    [
        ((), {}, 0),
        ((Trial(0, (4, 8), TrialState.FAIL, error="boom"),), {}, 0),
        (TRIALS, {"cluster": "local", "finalists": 1}, 7),
    ],
)
def test_every_run_under_a_latency_budget_has_a_page(make, trials, settings, drawn):
    path = write_page(make(trials=trials, **settings))
    assert len(charts(path)) == drawn
    text = path.read_text(encoding="utf-8")
    assert "How well latency was predicted" in text
    assert "Quick score against fine-tuned" in text


def test_a_comparison_has_a_column_for_every_device(make, capsys):
    runs = read_runs(
        [make("a", seen=(measured((4, 8), 0.68, True),)), make("b"), make("c", budget=("macs<=50%",), predictors=())]
    )
    assert share_of(runs[0], TORCH) == (0.68, "measured")
    head, rows = run_table(runs)
    column = head.index("latency on torch")
    assert [row[column] for row in rows] == ["68.0 % measured", "69.3 % predicted", "-"]
    assert {len(row) for row in rows} == {len(head)}
    print_compare(runs)
    assert "68.0 % measured" in capsys.readouterr().out
    assert charts(write_overlay(runs, runs[0].path / "compare.html")) == ["history", "widths"]


def test_the_verdict_is_the_bar_of_a_predictor():
    assert verdict(8.0, 0.95).startswith("Good on held-out")
    assert "it is off by more than 8 % on held-out" in verdict(8.1, 0.95)
    assert "a rank correlation below 0.95 on held-out" in verdict(1.0, float("nan"))


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("macs", "MACs"),
        ("mine:Memory", "Memory"),
        (TORCH, "latency on torch"),
        (BATCHED, "latency on onnxruntime, batch 8, 2 threads"),
        ("latency@torch,batch=1,threads=1,device=cuda", "latency on torch, cuda"),
        ("latency@slow_device:Slow,batch=1,threads=1", "latency on Slow"),
    ],
)
def test_a_cost_is_called_what_a_person_would_call_it(metric, label):
    assert cost_label(metric) == label


def test_amounts_have_their_unit():
    assert [amount(TORCH, ms) for ms in (0.05463, 0.2, 12.34, 1234.5)] == ["0.0546 ms", "0.2 ms", "12.3 ms", "1234 ms"]
    assert amount("macs", 1_077_000) == "1.077 M"


@given(st.text())
def test_a_slug_is_safe_in_a_file_name_and_an_id(text):
    assert not re.search(r"[\s/\\#\"'<>&]", slug(text))


@given(st.lists(st.floats(0.001, 1e6), min_size=1))
def test_the_loss_axis_is_never_empty_and_shows_the_best(losses):
    axis = LossAxis.of(losses)
    assert axis.low < min(losses) <= axis.high
    assert axis.low < axis.top < axis.high
    assert not axis.is_log or axis.low > 0


def test_the_loss_axis_is_logarithmic_where_losses_differ_by_much():
    assert LossAxis.of([0.001, 0.01, 1.0]).is_log
    assert not LossAxis.of([0.5, 0.6, 1.0]).is_log
    assert not LossAxis.of([0.0, 0.5, 1.0]).is_log
    assert not LossAxis.of([]).is_log
