"""When a search takes no new candidate and when it gives up: what is said, and what the controller makes of it."""

import math
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.config import RunConfig
from autoprune.controller import WAIT, Job, SearchController
from autoprune.errors import SearchStopped
from autoprune.ledger import Ledger
from autoprune.limits import FEWEST, Limits, StoppingRule, Target, duration, longer, parse_target, parse_time
from autoprune.problem import Proposal, Trial, TrialState
from autoprune.schedule import Halving

GOOD = {"loss": 0.2, "top1": 0.95}


class Counting:
    """Proposes 1, 2, 3 ..."""

    def propose(self, number):
        return Proposal((1 + number % 999,))

    def tell(self, trial):
        pass


class Hands:
    """A clock that is set by hand: `time.monotonic` of the ledger."""

    def __init__(self, monkeypatch):
        self.now_s = 1000.0
        monkeypatch.setattr("autoprune.ledger.book.time.monotonic", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch):
    return Hands(monkeypatch)


def control(run, trials=100, finalists=1, **limits):
    ledger = Ledger.open(run, {"a": 1000}, {"seed": 3})
    return SearchController(ledger, Counting(), Halving(trials, ((finalists, "short"),)), limits=Limits(**limits))


def trial(state=TrialState.COMPLETE, fidelity="proxy", **metrics):
    return Trial(0, (1,), state, metrics or GOOD, fidelity)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("45m", 2700), ("2h", 7200), ("1h30m", 5400), ("1h 5m 3s", 3903), ("0.5h", 1800), ("36h", 129600),
     ("2H", 7200), ("", math.inf)],
)  # fmt: skip
def test_durations(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text", ["2 parsecs", "0s", "-1h", "h", "90", "1m1h", "2h30", " ", "1d", "infs", "1e9h", "1h,5m"]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match=rf"^time '{text}': expected hours, minutes and seconds above 0, e.g. 2h"):
        RunConfig.make(time=text)


def test_longer_counts_from_what_was_worked():
    assert longer("+30s", 79.2) == "110s"
    assert parse_time(longer("+1h30m", 0.0)) == 5400
    for text in ("+", "+x", "++3s", "+-3s"):
        with pytest.raises(ValueError, match=r"^time '"):
            longer(text, 1.0)
    with pytest.raises(ValueError, match=r"^time '\+30s'"):  # a search has not worked yet
        RunConfig.make(time="+30s")


@given(st.integers(1, 10**6))
def test_a_duration_in_words_is_read_back_as_about_the_same(seconds):
    again = parse_time(duration(seconds))
    assert again == pytest.approx(seconds, abs=0.5 if seconds < 3600 else 30)


@pytest.mark.parametrize(
    ("text", "target"),
    [("top1>=90%", Target("top1", 0.9, at_least=True)), ("top1 >= 0.925", Target("top1", 0.925, at_least=True)),
     ("top1>=100%", Target("top1", 1.0, at_least=True)), ("miou>=0.7", Target("miou", 0.7, at_least=True)),
     ("rmse<=2", Target("rmse", 2.0)),
     ("loss<=0.4", Target("loss", 0.4)), ("loss<=1e-3", Target("loss", 1e-3)), ("", None)],
)  # fmt: skip
def test_targets(text, target):
    assert parse_target(text) == target
    assert target is None or parse_target(str(target)) == target


@pytest.mark.parametrize(
    ("text", "message"),
    [("top1>=90", "top-1 must lie above 0 and be at most 1 or 100%"), ("top1>=0", "top-1 must lie above 0"),
     ("top1<=90%", "expected top1>=90%"), ("loss>=0.4", "expected top1>=90%"), ("loss<=40%", "expected top1>=90%"),
     ("90%", "expected"), ("top1>=nan", "expected"), ("loss<=1.2.3", "'1.2.3' is no number"), ("loss<=-1", "expected")],
)  # fmt: skip
def test_what_is_no_target_is_refused(text, message):
    with pytest.raises(ValueError, match=message) as error:
        RunConfig.make(target=text)
    assert str(error.value).startswith(f"target '{text}': ")


def test_the_settings_of_a_run():
    config = RunConfig.make(time="2h", target="top1>=90%", max_failures=3, max_failure_rate=0.5)
    assert config.limits == Limits(7200.0, Target("top1", 0.9, at_least=True), 3, 0.5)
    assert RunConfig().limits == Limits(math.inf, None, 10, 0.8)
    for wrong in ({"max_failures": 0}, {"max_failure_rate": 1.5}, {"max_failure_rate": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RunConfig.make(**wrong)


def test_only_a_complete_candidate_of_the_search_reaches_the_target():
    others = [trial(TrialState.PRUNED), trial(TrialState.FAIL), trial(fidelity="short"), replace(trial(), probe=True)]
    others += [trial(loss=0.2), trial(loss=0.2, top1=0.8)]  # no top-1 told; not enough
    watch = StoppingRule(Limits(target=Target("top1", 0.9, at_least=True)), "proxy")
    for other in others:
        watch.learn(other)
        assert not watch.is_enough(0.0)
    watch.learn(trial())
    assert watch.is_enough(0.0)
    watch.learn(others[0])
    assert watch.is_enough(0.0)  # for good


@given(st.lists(st.booleans(), max_size=60), st.sampled_from([0.0, 0.1, 0.5, 0.8, 1.0]))
def test_a_failure_rate_is_one_of_at_least_twenty(outcomes, rate):
    watch = StoppingRule(Limits(max_failures=1000, max_failure_rate=rate), "proxy")
    for failed in outcomes:
        watch.count(trial(TrialState.FAIL if failed else TrialState.COMPLETE))
    too_many = len(outcomes) >= FEWEST and sum(outcomes) / len(outcomes) > rate
    assert watch.failing() == (f"{sum(outcomes)} of {len(outcomes)} candidates failed" if too_many else "")


def test_a_search_that_fails_too_often_stops_and_goes_on_after_the_cure(tmp_path):
    c = control(tmp_path / "run", max_failures=8, max_failure_rate=0.5)
    for number in range(FEWEST):
        assert c.ask("w").number == number
        c.tell("w", number, GOOD if number % 3 == 0 else f"no room on {number}")  # 7 of 20 are good
    with pytest.raises(SearchStopped, match=r"13 of 20 candidates failed, trial 19 with: no room on 19; remove the"):
        c.ask("w")
    c.ledger.close()
    assert control(tmp_path / "run", max_failures=8, max_failure_rate=0.5).ask("w").number == FEWEST


def test_a_target_ends_the_candidates_but_not_the_finalists(tmp_path):
    c = control(tmp_path / "run", target=Target("top1", 0.9, at_least=True))
    for number, top1 in enumerate([0.5, 0.7, 0.95]):
        assert c.ask("w") == Job(number, (number + 1,), "proxy")
        c.tell("w", number, {"loss": 1 - top1, "top1": top1})
    finalist = c.ask("w")
    assert (finalist.fidelity, finalist.widths) == ("short", (3,))
    assert c.ask("other") is WAIT
    c.tell("w", finalist.number, GOOD)
    assert c.ask("w") is None
    c.ledger.close()
    again = control(tmp_path / "run", target=Target("top1", 0.9, at_least=True))
    assert again.ask("w") is None  # it is known from the ledger
    again.ledger.close()
    fourth = Job(4, (4,), "proxy")  # of the strategy; the finalist was none
    assert control(tmp_path / "run", target=Target("top1", 0.99, at_least=True)).ask("w") == fourth


def test_time_over_all_resumes_counts_only_while_a_controller_is_at_work(tmp_path, clock):
    def search(until_s, time_s=100.0):
        """Candidates of 10 s each; returns how many were begun until then, and the last answer."""
        c, begun, begin_s = control(tmp_path / "run", time_s=time_s), 0, clock.now_s
        while isinstance(job := c.ask("w"), Job) and clock.now_s - begin_s < until_s:
            begun += job.fidelity == "proxy"
            clock.now_s += 10
            c.tell("w", job.number, {"loss": 1 / (1 + job.number)})
        if isinstance(job, Job):
            c.release("w")
        c.ledger.close()
        return begun, job

    assert search(60) == (6, Job(6, (7,)))
    clock.now_s += 12 * 3600  # a night
    assert search(1000) == (4, None)  # and one finalist, after the limit
    clock.now_s += 12 * 3600
    assert search(1000) == (0, None)
    clock.now_s -= 40 * 24 * 3600  # another boot
    assert search(1000, time_s=150.0)[0] == 4  # 110 s were used


def test_a_search_of_any_time_has_a_winner(tmp_path, clock):
    c = control(tmp_path / "run", time_s=1.0)
    clock.now_s += 60  # workers that start slowly
    assert c.ask("w").number == 0
    c.tell("w", 0, "failed")
    assert c.ask("w").number == 1
    c.tell("w", 1, GOOD)
    assert c.ask("w").fidelity == "short"


def test_what_a_dead_worker_had_is_evaluated_after_the_limit_too(tmp_path, clock):
    c = control(tmp_path / "run", time_s=10.0)
    c.ask("a"), c.ask("b")
    c.tell("a", 0, GOOD)
    clock.now_s += 20
    c.lost("b", "killed")
    assert c.ask("a").number == 1
    assert c.ask("c") is WAIT


def test_a_clock_that_is_set_anew_changes_nothing(tmp_path, clock, monkeypatch):
    real = time.time
    c = control(tmp_path / "run", time_s=100.0)
    c.ask("w")
    c.tell("w", 0, GOOD)
    monkeypatch.setattr(time, "time", lambda: real() + 10**6)
    assert c.ask("w").number == 1
    entry = c.ledger.entries[1]
    assert (entry.asked_s, entry.since_s) == (0.0, 0.0)


def test_the_ledger_says_when_in_its_own_time(tmp_path, clock):
    ledger = Ledger.open(tmp_path / "run", {"a": 9}, {})
    clock.now_s += 5
    ledger.start((3,), "proxy", "w")
    clock.now_s += 2
    ledger.assign(0, "v")
    clock.now_s += 4
    ledger.finish(replace(ledger.trials[0], state=TrialState.COMPLETE, metrics={"loss": 1.0}))
    entry, here = Ledger.read(tmp_path / "run").entries[0], ledger.entries[0]
    ledger.close()
    assert (entry.asked_s, entry.since_s, entry.told_s) == (5.0, 7.0, 11.0) == (here.asked_s, here.since_s, here.told_s)
    assert Ledger.read(tmp_path / "run").worked_s == 11.0
    clock.now_s = 0.0
    with Ledger.open(tmp_path / "run", {"a": 9}, {}) as again:
        assert again.worked_s == 11.0
        clock.now_s += 1
        assert again.worked_s == 12.0
