"""The pure parts of the comparison of criteria: its table and its given widths. Nothing is trained here."""

import pytest


@pytest.fixture(scope="module")
def bench(script):
    return script("criteria")


def test_the_best_on_the_held_out_images_comes_first(bench):
    def top1(val, test):
        return {"val": val, "test": test, "widths": [1, 2], "machine": "here"}

    def row(name, seed=0, budget="15%"):
        return bench.Row(budget, "which", name, seed)

    found = {
        (row("l1"), "fitted"): top1(60.0, 61.0),
        (row("l2"), "fitted"): top1(50.0, 51.0),
        (row("l2"), "epoch"): top1(70.0, 60.0),
        (row("taylor"), "epoch"): top1(72.0, 50.0),
        (row("taylor", 1), "epoch"): top1(66.0, 54.0),
        (row("apoz", budget="50%"), "epoch"): top1(99.0, 99.0),
    }
    lines = bench.table(found, "15%", "which")[2:]
    assert [line.split("|")[1].strip() for line in lines] == ["`l2`", "`taylor`", "`l1`"]  # 70, 69, not trained
    # mean of 72 and 66, deviation 3 sqrt(2); 50 and 54: 2 sqrt(2)
    assert [c.strip() for c in lines[1].split("|")[2:8]] == [
        "",
        "",
        "69.00 ± 4.24",
        "52.00 ± 2.83",
        "2",
        "50.00, 54.00",
    ]


def test_given_widths_are_those_the_default_search_found(bench):
    for budget in ("50%", "15%"):
        for seed in range(3):
            known = bench.record.read(bench.TABLE)[bench.RunConfig().strategy, budget, seed]
            assert len(known.widths.split()) == 12
