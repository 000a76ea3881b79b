"""The replay of schedules on measured candidates: worked out by hand."""

import pytest


@pytest.fixture(scope="module")
def bench(script):
    return script("schedules")


def measured(**losses):
    """Losses by number; the cheap score takes 1 s, the dear one 10 s."""
    prices = {"cheap": 1.0, "dear": 10.0}
    return {w: {n: {"loss": v, "seconds": prices[w]} for n, v in enumerate(x)} for w, x in losses.items()}


def test_each_rung_judges_the_best_of_the_one_below(bench):
    known = measured(cheap=[0.1, 0.2, 0.3, 0.4], dear=[4.0, 3.0, 2.0, 1.0])
    assert bench.replay([("cheap", 1)], range(4), known) == (0, 4)
    assert bench.replay([("dear", 1)], range(4), known) == (3, 40)
    assert bench.replay([("cheap", 1), ("dear", 0.5)], range(4), known) == (1, 24)  # 0 and 1 come so far
    assert bench.replay([("cheap", 1), ("dear", 0.01)], range(4), known) == (0, 14)  # at least one does
    assert bench.replay([("cheap", 1), ("dear", 0.5)], [3, 2], known) == (2, 12)


def test_as_many_as_fit_into_the_seconds(bench):
    known = measured(cheap=[0.0] * 4, dear=[0.0] * 4)
    rungs = [("cheap", 1), ("dear", 0.5)]  # 1: 11 s, 2: 12, 3: 23 (1.5 rounds to 2), 4: 24
    assert [bench.most(rungs, s, known, 4) for s in (1, 11, 12, 22, 23, 24, 999)] == [1, 1, 2, 2, 3, 4, 4]


def test_the_table_has_what_was_measured_and_no_more(bench):
    fine = {n: {"loss": -n, "seconds": 2.0} for n in range(30)}
    lines = bench.table({"reconstructed": fine}, {n: float(n) for n in range(30)})
    rows = [line for line in lines if line.startswith("| reconstruction ")]
    # A perfect judge: the largest of 20 of 0..29 is 20 / 21 * 31 - 1 = 28.52 in the mean; all 30 fit into 60 s.
    assert len(rows) == 1
    assert [float(c) for c in rows[0].split("|")[2:-1]] == pytest.approx([40, 28.52, 30, 29, 30, 29], abs=0.1)
    assert not any("halving: " in line for line in lines if line.startswith("| "))
    assert bench.table({"reconstructed": fine}, {0: 1.0}) == []
