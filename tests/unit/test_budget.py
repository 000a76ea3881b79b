"""Budgets as users write them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives import Budget, parse


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("macs<=50%", Budget("macs", 0.5, True)),
        ("macs<=0.5x", Budget("macs", 0.5, True)),
        ("macs<=56%", Budget("macs", 0.56, True)),  # not 0.5600000000000001
        ("macs<=100%", Budget("macs", 1.0, True)),
        ("params<=1.5M", Budget("params", 1_500_000)),
        ("flops<=20M", Budget("macs", 20_000_000)),  # flops means multiply-adds here
        ("FLOPs <= 1.2 G", Budget("macs", 1_200_000_000)),
        (" activations < 100k ", Budget("activations", 100_000)),
        ("activations≤100K", Budget("activations", 100_000)),
        ("params<=1e6", Budget("params", 1_000_000)),
        ("params<=1_500_000", Budget("params", 1_500_000)),
        ("mine.costs:Energy<=0.25", Budget("mine.costs:Energy", 0.25)),
    ],
)
def test_parse(text, budget):
    assert parse(text) == budget


@pytest.mark.parametrize(
    ("text", "shown"),
    [("flops<=0.5x", "macs<=50%"), ("params<=1500k", "params<=1.5M"), ("activations<=999", "activations<=999")],
)
def test_a_budget_is_written_as_it_is_read(text, shown):
    assert str(parse(text)) == shown


limits = st.one_of(
    st.tuples(st.floats(1e-6, 1), st.just(True)),
    st.tuples(st.floats(1.001, 1e15), st.just(False)),
    st.tuples(st.integers(2, 10**12).map(float), st.just(False)),
)


@settings(deadline=None)
@given(st.sampled_from(["macs", "params", "activations", "mine.costs:Energy"]), limits)
def test_round_trip(metric, limit):
    budget = Budget(metric, *limit)
    assert parse(str(budget)) == budget


def test_bound():
    assert parse("macs<=50%").bound(dense=25_664) == 12_832
    assert parse("macs<=20k").bound(dense=25_664) == 20_000


EXPECTED = "expected <cost><=<limit>, e.g. macs<=50%"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", EXPECTED),
        ("macs", EXPECTED),
        ("macs=50%", EXPECTED),
        ("macs>=50%", EXPECTED),
        ("macs<=half", EXPECTED),
        ("macs<=1,5M", EXPECTED),
        ("macs<=50%, params<=1M", EXPECTED),
        ("macs<=1.5m", "unknown unit 'm', expected"),
        ("macs<=3ms", "unknown unit 'ms', expected"),
        (
            "watts<=50%",
            "unknown cost 'watts'; known: activations, latency, macs, params (flops means macs), or give package",
        ),
        ("macs<=0%", "the limit must be a finite number above 0"),
        ("macs<=-10M", "the limit must be a finite number above 0"),
        ("macs<=1e400", "the limit must be a finite number above 0"),
        ("macs<=101%", "a fraction of the dense network must be at most 100% (1x)"),
        ("macs<=2x", "a fraction of the dense network must be at most 100% (1x)"),
        ("macs<=0.5", "a limit without a unit is a count, which must be above 1; a fraction is written 50% or 0.5x"),
    ],
)
def test_bad_budgets_are_one_sentence(text, complaint):
    with pytest.raises(ValueError, match=r"^budget") as caught:
        parse(text)
    assert str(caught.value).startswith(f"budget '{text}': {complaint}")
    assert "\n" not in str(caught.value)


def test_a_budget_made_by_hand_is_checked_too():
    with pytest.raises(ValueError, match=r"budget 'macs<=150%': a fraction"):
        Budget("macs", 1.5, True)
    with pytest.raises(ValueError, match=r"budget 'macs<=nan': the limit must be a finite number"):
        Budget("macs", float("nan"))
