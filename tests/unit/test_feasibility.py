"""Projection on the budgets: golden cases by hand, its laws as properties, and what a budget says that cannot hold."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives import Budget, Feasibility, InfeasibleBudget, Reachable, parse
from search_spaces import Axis, ChannelGroup, Layer, Member, SearchSpace, TensorShape

MINE = "mine:Cost"  # a metric that only `costs=` knows


def parallel(*sizes, divisor=1, floor=1) -> SearchSpace:
    """Branches side by side: each channel makes one output element, so activations = the sum of the widths."""
    groups = tuple(ChannelGroup(f"g{i}", c, (), divisor, min(floor, c)) for i, c in enumerate(sizes))
    layers = tuple(Layer(f"g{i}", "conv", 1, 1, Axis(1, 1), Axis(c, 0, ((i, 1),))) for i, c in enumerate(sizes))
    return SearchSpace(groups, (), layers, ())


def chain(*sizes, divisors=None, floors=None, pixels=None) -> SearchSpace:
    """conv 3 -> sizes[0] -> sizes[1] ... -> linear 5."""
    count = len(sizes)
    divisors, floors, pixels = divisors or [1] * count, floors or [1] * count, pixels or [16] * count
    sides = [Axis(3, 3), *(Axis(c, 0, ((g, 1),)) for g, c in enumerate(sizes)), Axis(5, 5)]
    output = Member("fc.weight", 0, "out", np.arange(5)[:, None])
    names = [*(f"conv{g}" for g in range(count)), "fc"]
    return SearchSpace(
        groups=tuple(ChannelGroup(f"conv{g}", c, (), divisors[g], min(floors[g], c)) for g, c in enumerate(sizes)),
        frozen=(ChannelGroup("fc", 5, (output,), frozen_because="output"),),
        layers=tuple(
            Layer(n, "conv", 9 if n != "fc" else 1, p, r, m)
            for n, p, r, m in zip(names, [*pixels, 1], sides, sides[1:], strict=False)
        ),
        tensors=tuple(
            TensorShape(f"{n}.weight", (m, r, Axis(3, 3), Axis(3, 3)) if n != "fc" else (m, r))
            for n, r, m in zip(names, sides, sides[1:], strict=False)
        ),
    )


# -- golden cases ----------------------------------------------------------------------------------------------------
def test_over_budget_shrinks_along_one_factor():
    feasibility = Feasibility(parallel(100, 100), [parse("activations<=50%")])
    # 1 + 89 s and 1 + 59 s: at s = 0.663 they are 60.01 and 40.12; rounded down 60 + 40 = 100 (61 needs s = 0.674)
    assert feasibility.project((90, 60)) == (60, 40)


def test_under_budget_grows_towards_the_dense_network():
    feasibility = Feasibility(parallel(100, 100), [parse("activations<=50%")])
    # 20 + 80 s and 40 + 60 s: at s = 0.2875 they are 43 and 57.25; rounded down 43 + 57 = 100 (58 needs s = 0.3)
    assert feasibility.project((20, 40)) == (43, 57)


def test_what_is_left_goes_where_a_score_is_cheapest():
    space, budgets = parallel(100, 100, 100), [Budget("activations", 200)]
    # one factor gives 66 + 66 + 66, two are left: one channel each for two groups
    assert Feasibility(space, budgets).project(space.full) == (67, 67, 66)
    scores = [np.ones(100), np.full(100, 10.0), np.full(100, 5.0)]
    assert Feasibility(space, budgets, scores).project(space.full) == (66, 67, 67)
    late = [
        np.arange(100.0),
        np.r_[np.full(66, 200.0), np.zeros(34)],
        np.full(100, 5.0),
    ]  # what the *next* unit is worth
    assert Feasibility(space, budgets, late).project(space.full) == (67, 66, 67)


def test_score_is_counted_per_cost():
    space = chain(8, 8, divisors=[4, 4], pixels=[1, 10])  # a step of conv0 costs 4 elements, one of conv1 40
    limit = Budget("activations", 4 + 40 + 5 + 42)  # both at 4, the classifier's 5, and one step of either
    assert Feasibility(space, [limit], [np.ones(8), np.full(8, 5.0)]).project((8, 8)) == (8, 4)  # 4 / 4 > 20 / 40
    assert Feasibility(space, [limit], [np.ones(8), np.full(8, 20.0)]).project((8, 8)) == (4, 8)  # 4 / 4 < 80 / 40


def test_the_proposal_is_restored_before_anything_grows_beyond_it():
    feasibility = Feasibility(parallel(64, 64, divisor=8), [Budget("activations", 72)])
    # s < 1: (24, 32) or so; what is left goes to group 1 as far as 48, and not to group 0, which is at its 16
    assert feasibility.project((16, 64)) == (16, 56)


def test_a_width_that_is_not_legal_is_rounded():
    feasibility = Feasibility(parallel(64, 30, divisor=8), [Budget("activations", 200)])
    assert feasibility.project((13, 500)) == (64, 30)  # no budget binds: dense
    feasibility = Feasibility(parallel(64, 30, divisor=8), [Budget("activations", 46)])
    assert feasibility.project((13, 500)) == (16, 30)


def test_without_budgets_everything_stays():
    assert Feasibility(parallel(4, 8), []).project((1, 1)) == (4, 8)
    assert Feasibility(parallel(4, 8), []).violation((4, 8)) == 0


def test_violation_is_the_worst_relative_excess():
    feasibility = Feasibility(parallel(100, 100), [parse("activations<=50%"), Budget("macs", 80)])
    assert feasibility.violation((60, 60)) == pytest.approx(120 / 80 - 1)
    assert feasibility.violation((40, 40)) == 0
    assert feasibility.fits(np.array([[40, 40], [40, 41], [100, 100]])).tolist() == [True, False, False]


def test_price_names_every_cost():
    assert Feasibility(chain(4, 8), []).price((2, 8)) == {
        "macs": 3 * 2 * 9 * 16 + 2 * 8 * 9 * 16 + 8 * 5,
        "params": 3 * 2 * 9 + 2 * 8 * 9 + 8 * 5,
        "activations": 2 * 16 + 8 * 16 + 5,
    }


def test_reachable_range():
    rows = Feasibility(parallel(100, 100, floor=10), [parse("activations<=50%")]).reachable()
    assert rows[0] == Reachable("activations", "elements", smallest=20, uniform=100, dense=200, limit=100)
    assert {(r.cost, r.limit) for r in rows[1:]} == {("macs", None), ("params", None)}


def test_a_space_without_groups_can_still_be_priced():
    space = SearchSpace((), (), (Layer("fc", "linear", 1, 1, Axis(3, 3), Axis(5, 5)),), ())
    feasibility = Feasibility(space, [])
    assert feasibility.project(()) == ()
    assert feasibility.price(())["macs"] == 15


# -- laws ------------------------------------------------------------------------------------------------------------
def staircase(widths):
    """Monotone, not linear: time in steps of 4 channels, and the widest group counts most."""
    return np.ceil(widths / 4).sum(axis=1) + widths.max(axis=1) ** 1.5


def sawtooth(widths):
    """Not even monotone: multiples of 4 are cheap, as on a real device."""
    return widths.sum(axis=1) + 3.0 * (widths % 4 != 0).sum(axis=1)


@st.composite
def problems(draw, extra=staircase):
    """A feasibility with one to three budgets that the floor keeps, and proposals."""
    count = draw(st.integers(1, 4))
    of = {"min_size": count, "max_size": count}
    sizes = draw(st.lists(st.integers(1, 14), **of))
    space = chain(
        *sizes,
        divisors=draw(st.lists(st.integers(1, 5), **of)),
        floors=draw(st.lists(st.integers(1, 6), **of)),
        pixels=draw(st.lists(st.sampled_from([1, 4, 64]), **of)),
    )
    open_ends = Feasibility(space, [], costs={MINE: extra})
    low, high = open_ends.price(space.floor), open_ends.price(space.full)
    budgets = []
    metrics = st.sampled_from(["macs", "params", "activations", MINE])
    for metric in draw(st.lists(metrics, min_size=1, max_size=3, unique=True)):
        limit = low[metric] + draw(st.floats(0, 1)) * (high[metric] - low[metric])
        budgets.append(Budget(metric, max(limit, low[metric], 1.001)))
    seed = draw(st.none() | st.integers(0, 99))
    scores = None if seed is None else [np.random.default_rng(seed).normal(size=c) for c in sizes]
    proposals = draw(st.lists(st.tuples(*(st.integers(0, c + 2) for c in sizes)), min_size=1, max_size=4))
    return Feasibility(space, budgets, scores, costs={MINE: extra}), proposals


def single_steps(space, widths):
    """Every network that keeps the next legal width in one group."""
    for g, group in enumerate(space.groups):
        if bigger := [w for w in group.choices() if w > widths[g]]:
            yield (*widths[:g], bigger[0], *widths[g + 1 :])


def holds(feasibility, widths):
    """The budgets, without the code under test."""
    return all(feasibility.price(widths)[m] <= limit * (1 + 1e-12) for m, limit in feasibility.limits.items())


@settings(deadline=None, max_examples=200)
@given(problems() | problems(sawtooth))
def test_projected_is_legal_feasible_maximal_and_stays(problem):
    feasibility, proposals = problem
    for proposal in proposals:
        widths = feasibility.project(proposal)
        assert feasibility.space.check(widths) == widths
        assert all(type(w) is int for w in widths)
        assert holds(feasibility, widths)
        assert not any(holds(feasibility, bigger) for bigger in single_steps(feasibility.space, widths))
        assert feasibility.project(widths) == widths
        assert feasibility.project(proposal) == widths


@settings(deadline=None, max_examples=50)
@given(problems())
def test_what_is_feasible_only_grows_and_what_is_maximal_stays(problem):
    feasibility, _ = problem
    choices = [g.choices()[:6] for g in feasibility.space.groups][:3]
    rest = feasibility.space.floor[3:]
    for widths in itertools.islice(itertools.product(*choices), 40):
        candidate = (*widths, *rest)
        if holds(feasibility, candidate):
            grown = feasibility.project(candidate)
            assert all(a >= b for a, b in zip(grown, candidate, strict=True))
            if not any(holds(feasibility, bigger) for bigger in single_steps(feasibility.space, candidate)):
                assert grown == candidate


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(200, 400), min_size=2, max_size=5), st.floats(0.2, 0.9), st.integers(0, 99))
def test_the_shape_of_the_proposal_is_kept(sizes, fraction, seed):
    space = chain(*sizes)
    proposal = tuple(np.random.default_rng(seed).integers(150, sizes).tolist())
    feasibility = Feasibility(space, [Budget("macs", fraction * Feasibility(space, []).price(proposal)["macs"])])
    kept = (np.array(feasibility.project(proposal)) - 1) / (np.array(proposal) - 1)
    assert kept.max() - kept.min() < 0.05


def test_fifty_groups_are_projected_with_some_dozens_of_prices(monkeypatch):
    space = chain(*[64, 128, 256, 512, 1024] * 10)
    rng = np.random.default_rng(0)
    scores = [rng.random(g.size) for g in space.groups]
    asked, price = [], Feasibility._prices
    monkeypatch.setattr(Feasibility, "_prices", lambda self, table: asked.append(len(table)) or price(self, table))
    feasibility = Feasibility(space, [parse("macs<=50%"), parse("params<=40%")], scores)
    for _ in range(20):
        feasibility.project(space.sample(rng))
    assert 20 <= len(asked) < 20 * 50
    assert max(asked) <= 2 * 50  # candidates at once


# -- bad input -------------------------------------------------------------------------------------------------------
def test_floors_that_hold_a_cost_up_are_named_with_the_cure():
    space = parallel(100, 80, 60, 40, 20, floor=10)
    with pytest.raises(InfeasibleBudget) as caught:
        Feasibility(space, [parse("activations<=5%")])
    assert str(caught.value) == (  # 5 * 10 of 300; one channel each: 5 of 300, rounded up
        "budget 'activations<=5%': unreachable, the smallest network of this space keeps 16.7 % "
        "(floors of 5 groups hold it up: g0, g1, g2, ...; a smaller --min-keep reaches 1.67 % at best)"
    )
    Feasibility(space, [parse("activations<=16.7%")])  # the number shown can be kept


@pytest.mark.parametrize(
    ("space", "cure"),
    [
        (parallel(64, 64, divisor=16), "a smaller --divisor"),
        (parallel(64, 64, divisor=16, floor=5), "a smaller --min-keep or --divisor"),
        (parallel(64, 64).with_limits(freeze=["g0"]), "a shorter --freeze"),
    ],
)
def test_the_cure_fits_the_cause(space, cure):
    with pytest.raises(InfeasibleBudget, match=f"; {cure} reaches"):
        Feasibility(space, [parse("activations<=10")])


def test_what_is_left_at_the_smallest_widths_is_told_layer_by_layer():
    with pytest.raises(InfeasibleBudget) as caught:
        Feasibility(chain(4, 8), [parse("params<=20")])
    assert str(caught.value) == (  # one channel each: 3*9 + 9 + 5 = 41
        "budget 'params<=20': unreachable, the smallest network of this space keeps 41 parameters (every group "
        "is at its smallest width, and of what is left conv0 has 66 %, conv1 has 22 %, fc has 12 %; "
        "frozen: fc (output); allow at least 41 parameters)"
    )


def test_what_is_left_is_that_of_the_network_that_is_told():
    with pytest.raises(InfeasibleBudget, match=r"keeps 113 .*every group .* of what is left conv0 has 72 %, conv1 has"):
        Feasibility(chain(3, 1, floors=[3, 1]), [parse("params<=9")])  # 81 + 27 + 5


def test_one_frozen_group_is_named_once_and_several_with_the_reason_of_the_first():
    space = chain(4, 8)
    for frozen, said in ((1, "; frozen: fc (output);"), (2, "; frozen: fc, fc (fc: output);"), (0, "fc has 12 %;")):
        with pytest.raises(InfeasibleBudget, match=re.escape(said)):
            Feasibility(replace(space, frozen=frozen * space.frozen), [parse("params<=20")])
    with pytest.raises(InfeasibleBudget, match=r"\(no group can shrink, and of what is left fc has 100 %"):
        Feasibility(chain(), [parse("params<=2")])


def test_of_two_budgets_on_one_cost_the_tighter_one_binds():
    half = Feasibility(chain(4, 8), [parse("macs<=50%")]).limits["macs"]  # of 6376
    for texts in (("macs<=50%", "params<=90%", "flops<=2k"), ("flops<=2k", "params<=90%", "macs<=50%")):
        assert Feasibility(chain(4, 8), map(parse, texts)).limits == {"macs": 2000, "params": 0.9 * 436}
    feasibility = Feasibility(chain(4, 8), [parse("macs<=1M"), parse("macs<=50%")])
    assert feasibility.limits["macs"] == half == 3188
    assert feasibility.price(feasibility.project((4, 8)))["macs"] <= half
    with pytest.raises(InfeasibleBudget, match=r"^budget 'macs<=100': unreachable"):
        Feasibility(chain(4, 8), [parse("macs<=100"), parse("macs<=50%")])


def test_an_unreachable_plug_in_cost():
    with pytest.raises(InfeasibleBudget, match=r"^budget 'mine:Cost<=1.5': unreachable, .* keeps 3 \("):
        Feasibility(parallel(4, 8), [Budget(MINE, 1.5)], costs={MINE: staircase})


def test_a_plug_in_cost_must_give_numbers():
    with pytest.raises(ValueError, match=r"^cost 'mine:Cost': expected one finite number per candidate"):
        Feasibility(parallel(4, 8), [Budget(MINE, 1.5)], costs={MINE: lambda widths: np.nan * widths[:, 0]})
    with pytest.raises(ValueError, match=r"^cost 'mine:Cost': expected one finite number per candidate"):
        Feasibility(parallel(4, 8), [Budget(MINE, 1.5)], costs={MINE: lambda widths: 1.0})


def test_a_plug_in_cost_by_name():
    feasibility = Feasibility(chain(4, 8), [parse("objectives.costs:Params<=50%")])
    assert feasibility.price(feasibility.project((4, 8)))["objectives.costs:Params"] <= 0.5 * (108 + 288 + 40)


@pytest.mark.parametrize("widths", [(4,), (4, 8, 8), (4, float("nan"))])
def test_project_wants_one_width_per_group(widths):
    with pytest.raises(ValueError, match=r"^project: expected 2 finite widths, got \("):
        Feasibility(chain(4, 8), [parse("macs<=50%")]).project(widths)


def test_scores_must_fit_the_space():
    with pytest.raises(ValueError, match=r"^scores: expected one array per group \(2\), got 1"):
        Feasibility(chain(4, 8), [], [np.ones(4)])
    with pytest.raises(ValueError, match=r"^scores of group 'conv1': expected 8 finite numbers"):
        Feasibility(chain(4, 8), [], [np.ones(4), np.full(8, np.nan)])
