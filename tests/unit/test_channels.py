"""Channel ids and counts."""

import copy
import pickle
import statistics
from fractions import Fraction

import pytest
import torch
from torch import nn

from search_spaces.channels import Channels
from search_spaces.companions import folded, squeeze
from search_spaces.counts import ChannelCount


def ids(*values):
    return torch.tensor(values)


class Book:
    """Writes down what a count reports."""

    trusted, where = False, "the test"

    def __init__(self):
        self.frozen, self.promises = [], []

    def freeze(self, ids, why):
        self.frozen.append(why)

    def note(self, number, how):
        pass

    def promise(self, left, right, why):
        self.promises.append((left.factor, right.factor))

    def promise_divisible(self, count, divisor, why):
        self.promises.append(divisor)


def test_united_ids_share_the_lowest():
    channels = Channels()
    channels.allocate(6)
    channels.unite(ids(4, 2), ids(5, 6), "")
    channels.unite(ids(6), ids(5), "")
    assert channels.roots.tolist() == [0, 1, 2, 3, 2, 2, 2]
    assert channels.canonical(ids(6, 3).expand(2, 2)).tolist() == [[2, 3], [2, 3]]


def test_meeting_a_constant_freezes_and_does_not_spread():
    channels = Channels()
    channels.allocate(3)
    channels.unite(ids(1, 2), ids(0, 3), "meets a constant")
    assert channels.reasons() == {1: "meets a constant"}
    channels.freeze(ids(3, 1, 0), "later")
    assert channels.reasons() == {1: "meets a constant", 2: "later"}  # the first reason stays; 3 is one with 2


def test_promises_are_judged_at_the_end():
    channels = Channels()
    a, b = channels.allocate(2), channels.allocate(2)
    channels.promise(a, Fraction(1), b, Fraction(1), "not equal")
    channels.promise(a, Fraction(1), None, Fraction(1, 2), "not even")
    channels.unite(a, b, "")
    channels.resolve()
    assert set(channels.reasons().values()) == {"not even"}


def test_squeeze_undoes_expansion():
    assert squeeze(torch.arange(3)[:, None].expand(3, 5)).shape == (3, 1)


def test_counts_follow_proportional_arithmetic():
    book = Book()
    count = ChannelCount.of(torch.arange(1, 9), book)
    book.trusted = True  # so that the comparisons below are not reported
    for value, factor in (
        (count * 3, 3),
        (3 * count, 3),
        (count // 4, Fraction(1, 4)),
        (count // 4 * 2, Fraction(1, 2)),
        (count << 1, 2),
        (count >> 2, Fraction(1, 4)),
        (divmod(count, 2)[0], Fraction(1, 2)),
        (+abs(count), 1),
        (abs(count * -1), 1),
    ):
        assert value == 8 * factor
        assert value.factor == factor
    assert len((count + count).ids) == 16
    assert count // count == 1
    assert count % 4 == 0
    assert book.promises == [1, 2, 4]  # that `count // 4` is whole, `divmod` leaves nothing, and `%` likewise
    assert book.frozen == []


@pytest.mark.parametrize(
    ("use", "value"),
    [
        (lambda c: c - 1, 7),
        (lambda c: 1 - c, -7),
        (lambda c: c / 2, 4.0),
        (lambda c: c**2, 64),
        (lambda c: 2**c, 256),
        (lambda c: c // 3, 2),
        (lambda c: 17 // c, 2),
        (lambda c: c % 3, 2),
        (lambda c: c + 1, 9),
        (lambda c: c * c, 64),
        (lambda c: c * 0.5, 4.0),
        (lambda c: -c, -8),
        (lambda c: float(c), 8.0),
        (lambda c: int(c), 8),
        (lambda c: c == 8, True),
        (lambda c: c != 8, False),
        (lambda c: c > 4, True),
        (lambda c: max(c, 4), 8),
        (lambda c: round(c), 8),
        (lambda c: 1 << c, 256),
        (lambda c: c >> 4, 0),
        (lambda c: divmod(c, 3), (2, 2)),
        (lambda c: divmod(17, c), (2, 1)),
        (lambda c: 8 == c, True),
        (lambda c: c.bit_length(), 4),
        (lambda c: statistics.mean([c, c]), 8),
        (lambda c: type(c)(c), 8),
        (lambda c: Fraction(c, 3), Fraction(8, 3)),
        (lambda c: f"{c:03}", "008"),
        (str, "8"),
        (lambda c: Fraction(3, 2) / Fraction(c), Fraction(3, 16)),
    ],
)
def test_any_other_use_gives_the_number_and_freezes(use, value):
    book = Book()
    result = use(ChannelCount.of(torch.arange(1, 9), book))
    assert book.frozen
    book.trusted = True
    assert result == value


def test_what_the_type_of_a_count_makes_counts_nothing():
    book = Book()
    count = ChannelCount.of(torch.arange(1, 9), book)
    assert type(type(count)(4)) is int
    assert type(pickle.loads(pickle.dumps(count))) is int
    assert not book.frozen


def test_the_parts_of_a_count_count_on():
    book = Book()
    count = ChannelCount.of(torch.arange(1, 9), book)
    assert count.real.ids is count.conjugate().ids is count.ids
    assert not book.frozen


def test_how_a_layer_shows_itself_asks_nothing():
    book, layer = Book(), nn.Linear(2, 3)
    layer.in_features = ChannelCount.of(torch.arange(1, 9), book)
    assert "in_features=8" in repr(layer)
    assert not book.frozen


def test_a_copied_count_counts_on():
    count = ChannelCount.of(torch.arange(1, 9), Book())
    for copied in (copy.copy(count), copy.deepcopy([count])[0]):
        assert torch.equal(copied.ids, count.ids)
        assert (copied * 2).factor == 2


@pytest.mark.parametrize(
    ("varies", "shape", "folds"),
    [
        ((1, 1, 8), (2, 3, 8), (1, 6, 2, 4)),
        ((1, 3, 1), (2, 3, 8), (6, 8)),
        ((2, 1, 8), (2, 3, 8), (2, 24)),
        ((1, 1, 8), (1, 6, 8), (2, 3, 8, 1)),
        ((1, 1), (4, 6), (24,)),
        ((), (), (1, 1)),
    ],
)
def test_a_folded_companion_is_the_reshaped_one(varies, shape, folds):
    companion = torch.arange(torch.Size(varies).numel()).reshape(varies).expand(shape)
    assert torch.equal(folded(companion, folds), companion.reshape(folds))


def test_what_is_constant_stays_expanded_when_it_is_folded():
    companion = torch.arange(8).expand(5, 100, 8)
    assert folded(companion, (5, 10, 10, 2, 4)).untyped_storage().size() == 8 * 8
