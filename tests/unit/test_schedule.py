"""What comes next, laid out by hand."""

from dataclasses import replace

from autoprune.fidelity import Fidelity
from autoprune.problem import Trial, TrialState
from autoprune.schedule import PATIENCE, WAIT, Halving, Order, best, halving, num_evaluations, ranked

RUNNING, COMPLETE, PRUNED, FAIL = TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
PLAN = Halving(3, ((2, "short"),))


def trials(*rows):
    """(width, state, loss[, fidelity[, cached]]) -> trials numbered from 0."""
    made = []
    for number, (width, state, loss, *rest) in enumerate(rows):
        fidelity, cached = [*rest, "proxy", False][0], len(rest) > 1 and rest[1]
        metrics = {"loss": loss, **({"cached": True} if cached else {})}
        made.append(Trial(number, (width,), state, metrics, fidelity))
    return made


def test_the_whole_way_of_a_search():
    rows = []
    for width in (1, 2, 3):
        assert PLAN.next(trials(*rows)) == Order("proxy")  # of the strategy's choice
        rows.append((width, RUNNING, 0))
    assert PLAN.next(trials(*rows)) is WAIT  # all proxies asked, the finalists not yet known
    rows = [(1, COMPLETE, 0.3), (2, RUNNING, 0), (3, COMPLETE, 0.1)]
    assert PLAN.next(trials(*rows)) is WAIT
    rows[1] = (2, COMPLETE, 0.2)
    assert PLAN.next(trials(*rows)) == Order("short", (3,))  # the best proxy
    rows.append((3, RUNNING, 0, "short"))
    assert PLAN.next(trials(*rows)) == Order("short", (2,))  # the second best
    rows.append((2, FAIL, 0, "short"))
    assert PLAN.next(trials(*rows)) is WAIT
    rows[3] = (3, COMPLETE, 0.5, "short")
    assert PLAN.next(trials(*rows)) is None


def test_successive_halving():
    """Eight steps: two finalists at 8, four before at 2; the two of the last rung are the best of the one below."""
    assert halving(2, 8) == ((2, "short"),)
    assert halving(2, 8, 3) == ((8, "short:1"), (4, "short:2"), (2, "short"))
    assert halving(2, 8, 3, Fidelity("short:1")) == ((4, "short:2"), (2, "short"))  # nothing is asked twice
    assert halving(2, 8, 3, Fidelity("short")) == ((2, "short"),)
    plan = Halving(4, halving(1, 8, 2))
    rows = [(1, COMPLETE, 0.1), (2, COMPLETE, 0.2), (3, COMPLETE, 0.3), (4, COMPLETE, 0.4)]
    assert plan.next(trials(*rows)) == Order("short:2", (1,))
    rows.append((1, COMPLETE, 0.9, "short:2"))
    assert plan.next(trials(*rows)) == Order("short:2", (2,))
    rows.append((2, RUNNING, 0, "short:2"))
    assert plan.next(trials(*rows)) is WAIT
    rows[-1] = (2, COMPLETE, 0.8, "short:2")
    assert plan.next(trials(*rows)) == Order("short", (2,))  # better after two steps
    rows.append((2, COMPLETE, 0.7, "short"))
    assert plan.next(trials(*rows)) is None
    assert plan.fidelities == ("short", "short:2", "proxy")
    assert best(trials(*rows), plan.fidelities).number == 6


def test_more_trials_than_before_mean_more_proxies_and_only_new_finalists():
    rows = [(1, COMPLETE, 0.3), (2, COMPLETE, 0.2), (3, COMPLETE, 0.1)]
    rows += [(3, COMPLETE, 0.5, "short"), (2, COMPLETE, 0.6, "short")]
    more = Halving(4, ((2, "short"),))
    assert more.next(trials(*rows)) == Order("proxy")
    rows.append((5, COMPLETE, 0.15))
    assert more.next(trials(*rows)) == Order("short", (5,))  # 3 is the best and was tried


def test_what_is_answered_from_the_ledger_is_no_evaluation():
    rows = [(1, COMPLETE, 0.3), (1, COMPLETE, 0.3, "proxy", True), (1, RUNNING, 0, "proxy", True)]
    assert num_evaluations(trials(*rows)) == 1
    assert PLAN.next(trials(*rows)) == Order("proxy")
    assert [t.number for t in ranked(trials(*rows))] == [0]


def test_a_strategy_with_nothing_new_to_say_ends_the_first_phase():
    known = [(1, COMPLETE, 0.3, "proxy", True)] * PATIENCE
    first = [(1, COMPLETE, 0.3), (2, COMPLETE, 0.4)]
    plan = Halving(1000, ((1, "short"),))
    assert plan.next(trials(*first, *known[1:])) == Order("proxy")
    assert plan.next(trials(*first, *known)) == Order("short", (1,))
    assert plan.next(trials(*first, *known[1:], (7, COMPLETE, 0.9))) == Order("proxy")


def test_no_finalists():
    plan = Halving(1, ((0, "short"),))
    assert plan.next([]) == Order("proxy")
    assert plan.next(trials((1, COMPLETE, 0.3))) is None


def test_failed_and_abandoned_candidates_are_no_finalists():
    rows = [(1, PRUNED, 0.1), (2, FAIL, 0.0), (3, COMPLETE, 0.2)]
    assert [t.number for t in ranked(trials(*rows))] == [2]
    assert PLAN.next(trials(*rows)) == Order("short", (3,))
    assert PLAN.next(trials(*rows, (3, FAIL, 0, "short"))) is None


def test_probes_are_no_finalists_and_do_not_win():
    rows = [replace(t, probe=t.number == 0) for t in trials((1, COMPLETE, 0.1), (2, COMPLETE, 0.2), (3, COMPLETE, 0.3))]
    assert [t.number for t in ranked(rows)] == [1, 2]
    assert PLAN.next(rows) == Order("short", (2,))
    assert best(rows, PLAN.fidelities).number == 1


def test_the_best_is_that_of_the_highest_fidelity():
    assert best([], ()) is None
    rows = [(1, COMPLETE, 0.3), (2, COMPLETE, 0.1), (1, COMPLETE, 0.25, "short"), (2, COMPLETE, 0.27, "short")]
    assert best(trials(*rows), PLAN.fidelities).number == 2
    assert best(trials(*rows[:2]), PLAN.fidelities).number == 1
    assert best(trials(*rows[:2], (2, FAIL, 0, "short")), PLAN.fidelities).number == 1
    assert best(trials((1, COMPLETE, 0.2), (2, COMPLETE, 0.2)), PLAN.fidelities).number == 0  # ties: the earlier one
