"""SearchSpace: legal widths, kept indices, limits and JSON, on a space written by hand."""

import json
import re

import numpy as np
import pytest
import torch

from search_spaces import Axis, ChannelGroup, Layer, Member, SearchSpace, TensorShape, trace
from search_spaces.models import digits_cnn


def group(name, size, **options):
    index = np.arange(size).reshape(size, 1)
    return ChannelGroup(name, size, (Member(f"{name}.weight", 0, "out", index),), **options)


@pytest.fixture
def space():
    a, b = group("a", 10), group("b", 6, divisor=4)
    chain = Layer("b", "conv", 9, 64, Axis(10, 0, ((0, 1),)), Axis(6, 0, ((1, 1),)))
    shape = TensorShape("b.weight", (Axis(9, 9), Axis(10, 0, ((0, 1),)), Axis(6, 0, ((1, 1),))))
    return SearchSpace((a, b), (group("out", 3, frozen_because="output"),), (chain,), (shape,), (("b", 2),))


def test_choices(space):
    assert space.groups[0].choices() == tuple(range(1, 11))
    assert space.groups[1].choices() == (4, 6)
    assert (space.full, space.floor) == ((10, 6), (1, 4))


def test_clip_takes_the_nearest_and_of_two_the_smaller(space):
    assert space.clip((3.4, 5)) == (3, 4)
    assert space.clip((99, -1)) == (10, 4)


def test_axis_counts():
    assert Axis(12, 2, ((0, 1), (2, 3))).at((4, 99, 2)) == 2 + 4 + 6


def test_check(space):
    assert space.check([np.int64(3), 4]) == (3, 4)
    with pytest.raises(ValueError, match=r"group 'b': width 5 is not one of \(4, 6\)"):
        space.check((3, 5))
    with pytest.raises(ValueError, match="1 widths given, but this space has 2 groups"):
        space.check((3,))


def test_kept_are_the_best_and_ties_go_to_the_first(space):
    kept = space.kept((3, 4), ([0, 5, 1, 5, 5, 0, 0, 0, 0, 5], np.zeros(6)))
    assert [k.tolist() for k in kept] == [[1, 3, 4], [0, 1, 2, 3]]


def test_samples_are_legal_and_seeded(space):
    rng = np.random.default_rng(1)
    drawn = [space.sample(rng) for _ in range(50)]
    assert all(space.check(w) == w for w in drawn)
    assert len(set(drawn)) > 10
    assert space.sample(np.random.default_rng(3)) == space.sample(np.random.default_rng(3))


def test_limits(space):
    limited = space.with_limits(divisor=4, min_keep=0.5)
    assert [g.choices() for g in limited.groups] == [(8, 10), (4, 6)]
    assert space.with_limits(freeze=["a"]).groups[0].choices() == (10,)
    assert space.with_limits(min_units=99).floor == (10, 6)
    with pytest.raises(ValueError, match=r"freeze: unknown group 'c'; known: a, b"):
        space.with_limits(freeze=["c"])
    with pytest.raises(ValueError, match="need divisor >= 1"):
        space.with_limits(divisor=0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("linear", "freeze: 'linear' is never pruned anyway (output of the network); leave it out"),
        ("block1.3", "freeze: 'block1.3' is a layer and no group: it has the channels of 'stem.0' and reads those of "
         "'block1.0'; name 'stem.0'"),
        ("down.1", "freeze: 'down.1' is a layer and no group: it has the channels of 'down.0'; name 'down.0'"),
        ("block2", "freeze: 'block2' is a part of the network and no group: in it are 'block2.0'"),
        ("block1.00", "freeze: unknown group 'block1.00'; did you mean 'block1.0'?"),
        ("attention", "freeze: unknown group 'attention'; known: stem.0, block1.0, down.0, block2.0"),
    ],
)  # fmt: skip
def test_a_name_that_is_no_group_is_told_where_it_belongs(name, words):
    found = trace(digits_cnn(), torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        found.with_limits(freeze=["stem.0", name])


def test_json_round_trip(space):
    text = json.dumps(space.to_json())
    same = SearchSpace.from_json(json.loads(text))
    assert same.fingerprint == space.fingerprint
    assert same.layers == space.layers
    assert same.tensors == space.tensors
    assert np.array_equal(same.groups[0].members[0].index, space.groups[0].members[0].index)
    assert space.with_limits(divisor=2).fingerprint != space.fingerprint


def test_scattered_indices_survive_json():
    index = np.array([[3, 0], [7, 5]])
    space = SearchSpace((ChannelGroup("a", 2, (Member("a.weight", 0, "out", index),)),), (), (), ())
    same = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert same.groups[0].members[0].index.tolist() == index.tolist()
