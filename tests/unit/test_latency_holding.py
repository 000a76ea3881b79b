"""A latency budget is hard: the winner was measured, and where the predictor is wrong the search goes on."""

import json
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from autoprune import export, finetune, resume, search
from autoprune.cli import main
from autoprune.errors import DeliveredElsewhere, SearchStopped
from autoprune.ledger.measurements import Measurement, Measurements, used
from autoprune.problem import Problem, Trial, TrialState
from autoprune.report import RunProgress
from autoprune.report.page.facts import Facts
from autoprune.runs import RunDirectory
from autoprune.runs.correcting import SAFETY, binding, corrected, planned
from autoprune.runs.holding import ROUNDS, hold
from autoprune.runs.joining import leave_to_leader, say_delivered
from autoprune.runs.latency_meter import LatencyMeter
from autoprune.schedule import Halving, Order, best
from objectives import parse
from objectives.latency import Comparison, Setting, compare, fit
from objectives.latency.comparing import LEAST, MOST
from objectives.latency.sampling import sample
from objectives.latency.sites import sites_of
from search_spaces import trace
from search_spaces.models import digits_cnn

DATA = Path(__file__).parents[1] / "data"
sys.path.insert(0, str(DATA))
import slow_device  # noqa: E402

QUICK = {
    "trials": 4, "finalists": 2, "short_steps": 2, "epochs": 0, "val_samples": 64, "bn_samples": 64,
    "score_samples": 64, "batch_size": 64, "fidelity": "proxy", "criterion": "l1", "device": "cpu",
    "reconstruct": False,
}  # fmt: skip
BATCHED = "latency<=90%@slow_device:Slow,batch=2"


@pytest.fixture
def device(monkeypatch):
    """The made-up device, known to this process."""
    monkeypatch.setattr("objectives.latency.needed.study", slow_device.study)
    return slow_device


@pytest.fixture
def model(digits_weights):
    return {"model": "search_spaces.models:digits_cnn", "weights": str(digits_weights), "data": "digits"}


def true_share(space, widths):
    """What a network takes of the dense one on the made-up device."""
    sites = sites_of(digits_cnn().eval(), space, torch.zeros(1, 1, 8, 8))
    ms, dense = (slow_device.believed(sites, len(space.groups), np.array([w]))[0] for w in (widths, space.full))
    return slow_device.OVERHEAD + (1 - slow_device.OVERHEAD) * ms / dense


def told(run):
    """What a run did, without what differs between two identical ones: names and times."""
    record = RunDirectory.open(run).record()
    trials = [(t.number, t.widths, t.fidelity, t.state, t.metrics.get("loss")) for t in record.trials]
    notes = {k: v for k, v in record.notes.items() if k.startswith("measured.")}
    return trials, notes


# -- whole searches ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(digits_weights, tmp_path_factory):
    """A search on a device that is slower than its predictor believes, with two latency budgets at once."""
    network = {"model": "search_spaces.models:digits_cnn", "weights": str(digits_weights), "data": "digits"}
    budgets = [slow_device.BUDGET, BATCHED, "params<=90%"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("objectives.latency.needed.study", slow_device.study)
        return search(**network, budget=budgets, name=str(tmp_path_factory.mktemp("runs") / "run"), **QUICK)


@pytest.fixture
def run(finished, here, device):
    """A copy of that search."""
    shutil.copytree(finished.run_dir, here / "run")
    return replace(finished, run_dir=here / "run")


def test_a_budget_is_judged_by_what_would_be_delivered(device, model, here):
    device.Slow.asked.clear()
    search(**model, budget=device.BUDGET, name=str(here / "run"), progress=False, **QUICK)
    assert device.Slow.asked == [True]


def test_the_winner_holds_although_the_predictor_is_wrong(run, capsys):
    record = RunDirectory.open(run.run_dir).record()
    measured = Measurements.of(record.notes)
    first = measured.every[0]
    assert not first.holds, "the predictor is too hopeful: the first round has to fail"
    assert measured.rounds >= 1
    assert measured.extra
    assert true_share(run.space, first.widths) > 0.6 >= true_share(run.space, run.widths)
    assert run.trial.fidelity == "short"
    said = run.metrics[slow_device.METRIC]
    assert said["share"] == pytest.approx(true_share(run.space, run.widths))
    assert said["predicted_share"] < said["share"] - 0.05
    assert said["pruned_ms"] / said["dense_ms"] == pytest.approx(said["share"])
    assert run.metrics[slow_device.METRIC.replace("batch=1", "batch=2")]["share"] <= 0.9
    written = json.loads((run.run_dir / "best" / "architecture.json").read_text())
    assert written["metrics"][slow_device.METRIC] == said
    held = {m.widths for m in measured.every if m.holds}
    assert run.widths in held
    assert RunDirectory.open(run.run_dir).trial().number == run.trial.number
    assert Facts.of(RunDirectory.open(run.run_dir)).winner == run.trial
    assert best(record.trials, ("short", "proxy")).number != run.trial.number or len(held) == len(measured.every)
    for words in (["report", str(run.run_dir)], ["export", str(run.run_dir), "--to", "again"]):
        assert main(words) == 0
        said_of_it = f"predicted {100 * said['predicted_share']:.1f} %"
        line = next(x for x in capsys.readouterr().out.splitlines() if slow_device.METRIC in x and said_of_it in x)
        assert f"{100 * said['share']:.1f}" in line


def test_a_finished_run_measures_nothing_anew_and_more_trials_go_on(run, monkeypatch):
    before, fingerprint = told(run.run_dir), RunDirectory.open(run.run_dir).record().fingerprint
    monkeypatch.setattr(LatencyMeter, "_compare", lambda *_: pytest.fail("measured again"))
    assert resume(run.run_dir).trial == run.trial
    assert told(run.run_dir) == before
    monkeypatch.undo()
    more = resume(run.run_dir, trials=6)
    measured = Measurements.of(RunDirectory.open(run.run_dir).record().notes)
    proposed = [t for t in more_trials(run) if t.fidelity == "proxy" and t.widths not in measured.extra]
    assert len(proposed) == 6, "extra candidates do not count"
    assert true_share(more.space, more.widths) <= 0.6
    assert RunDirectory.open(run.run_dir).record().fingerprint == fingerprint


def more_trials(run):
    return [t for t in RunDirectory.open(run.run_dir).record().trials if not t.metrics.get("cached")]


@pytest.mark.slow
def test_afterwards_networks_are_measured_but_not_searched(run, capsys):
    count = len(more_trials(run))
    looser = export(run.run_dir, budget="latency<=80%@slow_device:Slow")
    said = json.loads((looser / "architecture.json").read_text())
    assert true_share(run.space, said["widths"]) <= 0.8
    assert said["metrics"][slow_device.METRIC]["share"] == pytest.approx(true_share(run.space, said["widths"]))
    capsys.readouterr()
    with RunProgress() as progress:
        batched = "latency<=80%@slow_device:Slow,batch=4"
        other = export(run.run_dir, budget=batched, to="batched", progress=progress)
    assert "measuring networks for the predictor of" in "".join(capsys.readouterr())  # minutes on a real device
    assert json.loads((other / "architecture.json").read_text())["metrics"]
    loser = Measurements.of(RunDirectory.open(run.run_dir).record().notes).every[0]
    number = next(t.number for t in more_trials(run) if t.widths == loser.widths)
    said = json.loads((finetune(run.run_dir, trial=number) / "architecture.json").read_text())
    assert said["metrics"][slow_device.METRIC]["share"] > 0.6
    assert len(more_trials(run)) == count
    with pytest.raises(ValueError, match=r"none of 5 networks held the latency budget .*predicted .*looser budget"):
        export(run.run_dir, budget="latency<=31%@slow_device:Slow")


def test_a_hopeless_device_says_so_and_can_be_resumed(here, model, device, monkeypatch):
    monkeypatch.setattr(device, "OVERHEAD", 0.9)
    with pytest.raises(
        SearchStopped, match=r"held the latency budget .*: measured 9\d\.\d % .*predicted .*resume"
    ) as e:
        search(**model, budget=slow_device.BUDGET, name="hopeless", **QUICK | {"finalists": 0})
    assert "autoprune resume results/hopeless" in str(e.value)
    notes = RunDirectory.open("results/hopeless").record().notes
    kinds = [notes[k]["kind"] for k in sorted(notes, key=len) if k.startswith("measured.")]
    assert kinds.count("none held") < ROUNDS
    assert kinds.count("gave up") == 1
    monkeypatch.setattr(device, "OVERHEAD", 0.1)
    result = resume("results/hopeless")
    assert true_share(result.space, result.widths) <= 0.6


@pytest.mark.slow
def test_killed_while_it_measures_it_goes_on_as_if_nothing_had_been(model, device, tmp_path, start):
    """Killed in the second network of the first round, and again in the first one of the next."""
    settings = {**model, "budget": slow_device.BUDGET, **QUICK, "finalists": 0}
    undisturbed = search(**settings, name=str(tmp_path / "undisturbed"))
    killed = tmp_path / "killed"
    program = f"{slow_device.__file__}:run"
    assert start(tmp_path, program, "search", killed, json.dumps(settings), LEAST + 2).end().code == -signal.SIGKILL
    _, notes = told(killed)
    assert [note["kind"] for note in notes.values()] == ["measured"]
    assert start(tmp_path, program, "resume", killed, "{}", 2 * LEAST + 2).end().code == -signal.SIGKILL
    assert Measurements.of(told(killed)[1]).rounds == 1
    again = resume(killed)
    assert told(killed) == told(undisturbed.run_dir)
    assert (again.trial.number, again.metrics) == (undisturbed.trial.number, undisturbed.metrics)


# -- its parts ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problem():
    """The digits network under three budgets: percent, milliseconds, MACs."""
    model, example = digits_cnn().eval(), torch.zeros(1, 1, 8, 8)
    space, sites = trace(model, example), sites_of(model, trace(model, example), example)
    widths = np.array([sample(space, n) for n in range(48)])
    ms = slow_device.believed(sites, len(space.groups), widths)
    latency = {name: fit(name, sites, widths, ms, 0.2, {}) for name in ("latency@torch,batch=1,threads=1",)}
    budgets = (parse("latency<=60%@torch"), parse("macs<=50%"))
    return Problem(space, budgets, tuple(np.arange(1.0, g.size + 1) for g in space.groups), None, latency)


def took(share, error=0.0, dense_ms=0.2):
    return Comparison(dense_ms, 0.0, share * dense_ms, 0.0, share, error, LEAST)


def test_a_percentage_is_of_the_same_minutes_and_milliseconds_of_the_quicker_pace():
    percent, ms = parse("latency<=60%@torch"), parse("latency<=3ms@torch")
    assert used(percent, took(0.58, 0.005), 5.0) <= 1 < used(percent, took(0.58, 0.011), 5.0)
    assert used(percent, took(0.5), 1.0) == used(percent, took(0.5), 9.0)  # however quick the machine is
    assert used(ms, took(0.55, dense_ms=5.0), 5.0) <= 1 < used(ms, took(0.65, dense_ms=5.0), 5.0)
    assert used(ms, took(0.55, dense_ms=10.0), 5.0) <= 1, "5.5 ms, but on a machine at half its pace"
    assert used(ms, took(0.65, dense_ms=10.0), 5.0) > 1, "too slow at any pace"
    assert used(ms, took(0.65, dense_ms=4.0), 5.0) <= 1, "2.6 ms as measured: there is no arguing with it"


def test_all_of_the_dense_network_always_holds():
    assert not binding([parse("latency<=100%@torch"), parse("macs<=50%")])
    assert len(binding([parse("latency<=99%@torch"), parse("latency<=9ms@torch")])) == 2


def test_the_correction_is_by_the_worst_ratio_and_only_downwards(problem):
    (metric,), widths = problem.latency, problem.project(problem.space.full)
    latency = problem.latency[metric]
    predicted = latency(widths) / latency(problem.space.full)
    exact, slow, quick = (Measurement(widths, {metric: took(f * predicted)}, False) for f in (1.0, 1.2, 0.8))
    assert corrected(problem, []) is problem
    assert corrected(problem, [quick]).budgets == problem.budgets
    for seen in ([slow], [slow, quick, exact]):
        tighter, macs = corrected(problem, seen).budgets
        assert tighter.limit == pytest.approx(0.6 / (1.2 * 1.005 * SAFETY))
        assert macs == problem.budgets[1]
    typical = corrected(problem, [slow, quick, exact], 0.5).budgets[0]
    assert typical.limit == pytest.approx(0.6 / (1.005 * SAFETY)), "the median of them"
    smallest = latency(problem.space.floor) / latency(problem.space.full)
    hopeless = corrected(problem, [Measurement(widths, {metric: took(99.0)}, False)])
    assert hopeless.budgets[0].limit == pytest.approx(smallest)
    assert hopeless.project(problem.space.full) == problem.space.floor  # still feasible


class Book:
    """A controller whose candidates are all evaluated, and its ledger."""

    def __init__(self):
        self.ledger, self.trials, self.notes = self, [], {}

    def note(self, key, value):
        self.notes[key] = value


class Meter:
    """A meter on which the networks `slow` break the budget."""

    def __init__(self, budgets, slow):
        self.budgets, self.slow, self.seen, self.say = budgets, slow, [], print

    def __call__(self, widths, name=""):
        self.seen.append(widths)
        return Measurement(widths, {self.budgets[0].metric: took(0.5)}, widths not in self.slow)

    def figures(self, found):
        return {}


@pytest.mark.parametrize("slow", [(), (4,), (2, 4, 5)])
def test_a_better_finalist_of_a_later_resume_is_measured(problem, slow):
    """However many were measured before: one that holds may be beaten; one that was measured is not measured again."""
    budgets = (parse("latency<=60%@torch"),)
    every = [(*problem.space.full[:-1], n) for n in range(1, 8)]
    book, meter = Book(), Meter(budgets, [every[n] for n in slow])
    prepared = SimpleNamespace(problem=replace(problem, budgets=budgets), config=SimpleNamespace(schedule=Halving(3)))
    for n, widths in enumerate(every):  # a search, then resumes with one trial more; each finds a better finalist
        book.trials.append(Trial(n, widths, TrialState.COMPLETE, {"loss": 1 - n / 10}, "short"))
        held = hold(book, prepared, meter, before=lambda _: None, where="run")
        assert held is not None
        assert held.best.number == n
        assert held.trial.number == max(m for m in range(n + 1) if m not in slow)
    assert meter.seen == every


def test_notes_are_folded_in_their_order(problem):
    a, b, c = ((n, n, n, n) for n in (1, 2, 3))
    notes = [
        {"kind": "measured", **Measurement(a, {}, False).to_json()},
        {"kind": "none held"},
        {"kind": "candidates", "widths": [b, c]},
        {"kind": "measured", **Measurement(b, {}, True).to_json()},
    ]
    folds = [Measurements.of({f"measured.{i}": note for i, note in enumerate(notes[:n])}) for n in range(5)]
    assert [f.num_notes for f in folds] == [0, 1, 2, 3, 4]
    assert [f.closed for f in folds] == [0, 0, 1, 1, 1]
    assert [f.open for f in folds] == [0, 1, 0, 0, 1]
    assert [Measurements(rounds=n).level for n in (1, 2, 5)] == [0.5, 1, 1]
    assert folds[4].extra == (b, c)
    assert [[f.may_win(w) for w in (a, b, c)] for f in (folds[0], folds[3], folds[4])] == [
        [True, True, True], [False, True, True], [False, True, False],
    ]  # fmt: skip
    plan = Halving(3)
    assert planned(plan, problem, {"measured.0": notes[0]}) is plan, "an open round changes nothing"
    given_up = Measurements.of({f"measured.{i}": note for i, note in enumerate([*notes[:3], {"kind": "gave up"}])})
    past = (Measurement(a, {}, False),)
    assert given_up == Measurements(extra=(b, c), num_notes=4, past=past)
    assert [given_up.may_win(w) for w in (a, b, c)] == [False, True, True], "what failed is not the winner meanwhile"
    again = {f"measured.{i}": note for i, note in enumerate([*notes[:3], {"kind": "gave up"}])}
    assert planned(plan, problem, again) == replace(plan, extra=(b, c)), "and what was extra counts for nobody"


def test_the_schedule_takes_extra_candidates_after_the_strategys_and_only_allowed_finalists():
    def trials(*rows):
        made = ((n, *row) for n, row in enumerate(rows))
        return [Trial(n, (w,), state, {"loss": loss}, fidelity) for n, w, state, loss, fidelity in made]

    done = TrialState.COMPLETE
    rows = [(5, done, 0.1, "proxy"), (4, done, 0.2, "proxy")]
    plan = Halving(3, ((1, "short"),), extra=((3,), (2,)), allowed=lambda widths: widths[0] < 4)
    assert plan.next(trials(*rows)) == Order("proxy")
    rows.append((6, done, 0.3, "proxy"))
    assert plan.next(trials(*rows)) == Order("proxy", (3,))
    rows.append((3, TrialState.RUNNING, 0.4, "proxy"))
    assert plan.next(trials(*rows)) == Order("proxy", (2,)), "the workers take one each"
    rows[3:] = [(3, done, 0.4, "proxy"), (2, done, 0.5, "proxy")]
    assert plan.tally(trials(*rows)).evaluated == 3
    assert plan.next(trials(*rows)) == Order("short", (3,))
    rows.append((3, done, 0.35, "short"))
    assert plan.next(trials(*rows)) is None
    assert best(plan.able(trials(*rows, (5, done, 0.01, "short"))), plan.fidelities).number == 5
    assert best(plan.able(trials(*rows[:1])), plan.fidelities) is None


class Noisy(slow_device.Slow):
    """Takes 1 ms (dense) or half of it, with noise that differs from pass to pass, and slow spells for both."""

    level = 0.0

    def run(self, widths, dense):
        noise, spell = np.exp(self.level * self.rng.standard_normal()), 1 + (self.passes % 3 == 2)
        self.passes += widths != dense
        return lambda: (1.0 if widths == dense else 0.5) * spell * (1.0 if widths == dense else noise)


@pytest.mark.parametrize(("level", "passes"), [(0.0, LEAST), (0.002, LEAST), (0.1, MOST)])
def test_passes_go_on_until_the_share_is_known(level, passes):
    device = Noisy(Setting())
    device.level, device.rng, device.passes = level, np.random.default_rng(0), 0
    found = compare(device, lambda widths: device.run(widths, (9,)), (9,), (1,))
    assert found.passes == passes
    assert abs(found.share - 0.5) < max(3 * found.share_error, 1e-3)
    assert found.upper > 0.5
    assert found.share_error == pytest.approx(1.2533 * 0.5 * level / np.sqrt(passes), rel=0.8, abs=1e-9)


@pytest.mark.parametrize("level", [0.005, 0.01, 0.02, 0.04])
def test_a_share_that_is_surely_not_exceeded_is_not(level):
    """The bound is that of 97.7 %, looks after each pass and all."""
    device, over = Noisy(Setting()), 0
    device.level, device.rng = level, np.random.default_rng(1)
    for _ in range(400):
        device.passes = 0
        over += compare(device, lambda widths: device.run(widths, (9,)), (9,), (1,)).upper < 0.5
    assert over <= 400 * 0.045


def test_a_device_that_is_slower_now_is_named_once(device, problem):
    from autoprune.config import RunConfig

    latency = problem.latency["latency@torch,batch=1,threads=1"]
    prepared = SimpleNamespace(
        config=RunConfig(), model=digits_cnn().eval(), example=torch.zeros(1, 1, 8, 8), space=problem.space,
        problem=replace(problem, latency={slow_device.METRIC: latency}),
    )  # fmt: skip
    said = []
    meter = LatencyMeter(prepared, [parse(slow_device.BUDGET)], said.append)
    found = meter(problem.space.floor, "trial 3")
    meter(problem.space.floor)
    assert sum("now, 0.2 ms when the predictor was made" in line for line in said) == 1
    assert any(line.startswith("trial 3: latency<=60%@slow_device") and line.endswith(": holds") for line in said)
    assert found.holds


@pytest.mark.parametrize(("best_number", "elsewhere"), [(7, True), (8, False)])
def test_who_joins_late_hears_of_a_winner_that_is_not_the_best_one(best_number, elsewhere, tmp_path):
    """Measurements, trial 7 did not hold the budget, so trial 9 was delivered."""
    notes = {}
    leader = SimpleNamespace(me="leader", note=notes.__setitem__)
    say_delivered(leader, Trial(9, (1,)), tmp_path, Trial(7, (2,)))
    late = SimpleNamespace(me="late", fresh_note=notes.get, lead=lambda: True)
    if elsewhere:
        with pytest.raises(DeliveredElsewhere, match="over, trial 9 won; leader delivered it"):
            leave_to_leader(late, Trial(best_number, (2,)), tmp_path)
    else:
        leave_to_leader(late, Trial(best_number, (2,)), tmp_path)  # more trials have found a better one


def test_milliseconds_that_give_another_quotient_are_no_more_certain_than_that():
    """A machine of two paces: half of the dense network's time in most passes, all of it by the medians."""
    found = Comparison.of(np.array([[1.0, 0.5], [1.0, 0.5], [2.0, 2.0], [2.0, 2.0], [4.0, 2.0]]))
    assert found.share == 0.5
    assert found.pruned_ms / found.dense_ms == 1
    assert found.upper >= 1


@pytest.mark.parametrize("passes", [5, 10, 15])
def test_what_is_surely_not_exceeded_is_not_and_busy_passes_say_nothing(passes):
    """In 19 of 20 measurements the true share is below; a fifth of the passes at three times it widens little."""
    rng, below, margins = np.random.default_rng(0), [], []
    for busy in (0.0, 0.2):
        noise = 1 + 0.02 * rng.standard_normal((1000, passes))
        shares = 0.5 * np.where(rng.random((1000, passes)) < busy, 3.0, noise)
        found = [Comparison.of(np.stack([np.ones(passes), row], axis=1)) for row in shares]
        below.append(np.mean([c.upper >= 0.5 for c in found]))
        margins.append(np.median([c.upper / c.share - 1 for c in found]))
    assert min(below) >= 0.95
    assert margins[0] < 0.04  # of the share, by passes that vary by 2 %
    assert margins[1] < 2.5 * margins[0]
