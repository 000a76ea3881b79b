"""One exam for every cost of the facade."""

import inspect

import numpy as np
import pytest

import objectives
from objectives import COSTS, Cost, Feasibility, parse
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace, TensorShape

CLASSES = [c for _, c in inspect.getmembers(objectives, inspect.isclass)]
FOUND = [c for c in CLASSES if issubclass(c, Cost) and not inspect.isabstract(c)]


@pytest.fixture
def space() -> SearchSpace:
    """Three convolutions, the last with a residual from the first, a depthwise one and a classifier."""
    image, k, classes = Axis(3, 3), Axis(3, 3), Axis(5, 5)
    a, b = Axis(6, 0, ((0, 1),)), Axis(9, 2, ((1, 1),))
    sides = {  # reads, makes, kernel, pixels
        "stem": (image, a, 9, 64),
        "dw": (Axis(1, 1), a, 9, 64),
        "mid": (a, b, 9, 16),
        "out": (b, a, 1, 16),
        "fc": (a, classes, 1, 1),
    }
    return SearchSpace(
        groups=(ChannelGroup("stem", 6, ()), ChannelGroup("mid", 7, (), divisor=2)),
        frozen=(ChannelGroup("mid.fixed", 2, (), frozen_because="view(-1, 2)"),),
        layers=tuple(Layer(name, "conv", kernel, pixels, r, m) for name, (r, m, kernel, pixels) in sides.items()),
        tensors=tuple(TensorShape(f"{name}.weight", (m, r, k, k)) for name, (r, m, _, _) in sides.items()),
    )


def legal(space: SearchSpace, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array([space.sample(rng) for _ in range(count)])


def test_the_exam_finds_the_registry():
    assert {c.name: c for c in FOUND} == COSTS
    assert {"macs", "params", "activations"} <= set(COSTS)


@pytest.mark.parametrize("cls", FOUND)
def test_says_its_name_and_unit(cls):
    assert cls.name == cls.name.lower().strip() != ""
    assert cls.unit


@pytest.mark.parametrize("cls", FOUND)
def test_a_batch_is_its_rows(cls, space):
    priced, batch = cls(space), legal(space, 20)
    values = priced(batch)
    assert values.dtype == np.float64
    assert values.shape == (20,)
    for row, value in zip(batch, values, strict=True):
        assert isinstance(priced(tuple(row.tolist())), float)
        assert priced(tuple(row.tolist())) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("cls", FOUND)
def test_costs_are_positive_and_change_nothing(cls, space):
    priced, batch = cls(space), legal(space, 20)
    before = batch.copy()
    assert (priced(batch) > 0).all()
    assert (batch == before).all()
    assert (priced(batch) == cls(space)(batch)).all()


@pytest.mark.parametrize("cls", FOUND)
def test_wider_is_never_cheaper(cls, space):
    priced, batch = cls(space), legal(space, 20)
    for g in range(len(space.groups)):
        wider = batch.copy()
        wider[:, g] = space.full[g]
        assert (priced(wider) >= priced(batch)).all()
    assert priced(space.floor) < priced(space.full)


@pytest.mark.parametrize("cls", FOUND)
def test_a_budget_on_it_can_be_kept(cls, space):
    feasibility = Feasibility(space, [parse(f"{cls.name}<=80%")])
    widths = feasibility.project(space.full)
    assert cls(space)(widths) <= 0.8 * cls(space)(space.full)
    assert feasibility.price(widths)[cls.name] == cls(space)(widths)
