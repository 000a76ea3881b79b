"""The tables of a finished search: who won, who broke a budget, and which latencies were only predicted."""

import json
from dataclasses import dataclass, replace

import pytest

from autoprune.config import RunConfig
from autoprune.ledger.measurements import Measurement
from autoprune.ledger.records import Entry, Record
from autoprune.problem import Trial, TrialState
from autoprune.report import best_table, cost_rows, front_table
from autoprune.report.best import verdicts_of
from autoprune.report.console import rows_of
from autoprune.report.fronts import goal_table
from autoprune.runs.directory import RunDirectory
from autoprune.tradeoff import TradeOff
from objectives import Feasibility
from objectives.latency import Comparison
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace

METRIC = "latency@torch,batch=1,threads=1"
SPACE = SearchSpace(
    (ChannelGroup("g", 100, ()),), (), (Layer("l", "conv", 1, 1.0, Axis(1, 1), Axis(100, 0, ((0, 1),))),), ()
)
BROKE = "broke a latency budget"


class Device:
    """A predictor: a hundredth of a millisecond a unit."""

    metric, unit = METRIC, "ms"

    def __call__(self, widths):
        return widths[..., 0] / 100 if hasattr(widths, "ndim") else widths[0] / 100


def complete(number, width, loss, fidelity="proxy"):
    metrics = {"loss": loss, "top1": 1 - loss}
    return Trial(number, (width,), TrialState.COMPLETE, metrics, fidelity, seconds=1.0)


TRIALS = (
    *(complete(n, 10 * (n + 1), 0.9 - n / 10) for n in range(5)),
    *(complete(5 + n, 50 - 10 * n, 0.1 + n / 10, "short") for n in range(3)),  # widths 50, 40, 30
)


@dataclass(frozen=True)
class Run(RunDirectory):
    """A run whose ledger is two lists: its trials, and (width, holds) of what was measured; None: it gave up."""

    trials: tuple = TRIALS
    seen: tuple = ()

    def record(self):
        took = {METRIC: Comparison(1.0, 0.01, 0.6, 0.01, 0.6, 0.002, 5)}
        notes = [m and {"kind": "measured", **Measurement((m[0],), took, m[1]).to_json()} for m in self.seen]
        kept = {f"measured.{i}": note or {"kind": "gave up"} for i, note in enumerate(notes)}
        return Record({}, {}, tuple(map(Entry, self.trials)), kept)


@pytest.fixture
def judged(tmp_path):
    """What was measured, and the trial that was delivered -> the verdicts."""

    def judged(*seen, delivered=None, trials=TRIALS):
        run = Run(tmp_path, RunConfig(fidelity="proxy"), trials, seen)
        if delivered is not None:
            run.best.mkdir()
            said = {
                "format": "autoprune architecture 1", "model": {}, "widths": [1], "kept": [[0]], "costs": {},
                "metrics": {}, "space": {}, "provenance": {} if delivered < 0 else {"trial": delivered},
            }  # fmt: skip
            (run.best / "architecture.json").write_text(json.dumps(said))
        return verdicts_of(run, run.record())

    return judged


def test_before_there_is_a_trial_there_is_no_verdict(judged):
    assert judged(trials=()) == {}


def test_the_best_finalist_leads_until_it_is_delivered(judged):
    assert judged() == {5: "leads"}
    assert judged(delivered=5) == {5: "winner"}


def test_an_export_that_does_not_say_its_trial_has_no_winner(judged):
    assert judged(delivered=-1) == {5: "leads"}


def test_a_better_one_that_came_later_leads_beside_the_old_winner(judged):
    assert judged(delivered=6) == {5: "leads", 6: "winner"}


def test_who_broke_a_budget_when_measured_is_said_and_does_not_lead(judged):
    assert judged((50, False)) == {5: BROKE, 6: "leads"}
    assert judged((50, False), (40, False), (30, True), delivered=7) == {5: BROKE, 6: BROKE, 7: "winner"}


def test_what_broke_before_the_run_gave_up_is_said_until_it_holds(judged):
    assert judged((50, False), None) == {5: BROKE, 6: "leads"}
    assert judged((50, False), None, (50, True)) == {5: "leads"}


def test_the_verdict_is_on_the_last_complete_trial_of_a_network(judged):
    failed = replace(complete(9, 20, 0.1, "short"), state=TrialState.FAIL)
    cached = replace(complete(10, 20, 0.8), metrics={"loss": 0.8, "cached": True})
    found = judged((20, False), (99, False), trials=(*TRIALS, failed, cached))  # nobody knows 99
    assert found == {1: BROKE, 5: "leads"}


def cells(table, name):
    return next([*map(str, column.cells)] for column in table.columns if str(column.header) == name)


def test_the_table_shows_the_best_and_all_on_which_there_is_a_verdict():
    table = best_table(TRIALS, verdicts={7: "winner", 1: BROKE}, shown=2)
    assert cells(table, "trial") == ["5", "6", "7", "4", "3", "1"]
    assert cells(table, "verdict") == ["", "", "winner", "", "", BROKE]
    assert [str(column.header) for column in best_table(TRIALS).columns].count("verdict") == 0


def test_a_latency_that_was_not_measured_is_called_predicted():
    feasibility = Feasibility(SPACE, (), costs={METRIC: Device()})
    for name, label in (("macs", "macs"), (METRIC, f"{METRIC}, predicted")):
        assert str(front_table(TRIALS[:5], feasibility, name).columns[1].header) == label
        goals = goal_table(TradeOff((name,), feasibility, 1.0), TRIALS, "proxy", "loss")
        assert str(goals.columns[1].header) == label
    costs = {"macs": {"dense": 100.0, "pruned": 40.0}, METRIC: {"dense": 2.0, "pruned": 0.5}}
    assert [row[3] for row in cost_rows(costs)] == ["40.0 %", "25.0 %, predicted"]


def test_what_the_fine_tune_did_is_a_row_below_the_validation_images():
    good, bad = {"loss": 0.25, "top1": 0.875}, {"loss": 0.5, "top1": 0.75}
    dense = {"dense_val": good, "pruned_val": good, "dense_test": good, "pruned_test": good}

    def row(before, after, harmed):
        told = {
            "before_finetune_val": {**before, "delivered": harmed},
            "after_finetune_val": {**after, "delivered": not harmed},
        }
        names, *rest = zip(*rows_of({**dense, **told}, {}), strict=True)
        assert names.index("top-1 before the fine-tune") == 1
        return tuple(column[1] for column in rest)

    assert row(bad, good, False) == ("", "0.7500", "loss 0.5 before, 0.25 after")
    assert row(good, bad, True) == ("", "0.8750", "delivered: loss 0.25 before, 0.5 after")
    assert row(good, {"top1": 0.1}, True)[2] == "delivered: loss 0.25 before, nan after"
    assert len(rows_of(dense, {})) == 2
