"""What reads a number of channels without asking it: it is frozen with the place named, or followed."""

import json
import struct
from array import array
from decimal import Decimal
from fractions import Fraction
from itertools import count, islice, repeat
from json import dumps
from operator import index
from struct import pack

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces import trace

HALF = Decimal("0.5")


class Scaled(nn.Module):
    """conv (3 -> 8) -> times a number -> linear; the number is worked out of the channels, or of an attribute."""

    def __init__(self, number):
        super().__init__()
        self.conv, self.head, self.number, self.dim = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), number, 8
        self.other = nn.Conv2d(3, 6, 3)
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        y = self.conv(x).flatten(2)
        y = y.reshape(y.shape[0], self.dim, -1) * self.number(self, y)
        return self.head(y.relu().mean(2)) + self.last(self.other(x).relu().mean((2, 3)))


READERS = {
    "Decimal()": lambda c: float(Decimal(c).sqrt()),
    "arithmetic": lambda c: float(HALF * c),
    "a fraction": lambda c: float(Fraction(1, 3) * c),
    "bytes()": lambda c: len(bytes(c)),
    "bytearray()": lambda c: len(bytearray(c)),
    "to_bytes()": lambda c: int.from_bytes(c.to_bytes(2, "big"), "big"),
    "a text": lambda c: int(f"{c}"),
    "hex()": lambda c: int(hex(c), 16),
    "bin()": lambda c: sum(len(bin(inner)) for inner in [c]),
    "chr()": lambda c: ord(chr(c)),
    "index()": lambda c: index(c) * 0.1,
    "islice()": lambda c: len(list(islice(count(), c))),
    "repeat()": lambda c: len(list(repeat(0, c))),
    "array()": lambda c: array("i", [c])[0],
    "pack()": lambda c: struct.unpack("i", pack("i", c))[0],
    "dumps()": lambda c: json.loads(dumps([c]))[0],
    "IntTensor()": lambda c: torch.IntTensor([c])[0],
    "LongTensor()": lambda c: torch.LongTensor([[c, 1]]).sum(),
    "DoubleTensor()": lambda c: torch.DoubleTensor(c).fill_(1).sum(),
    "torch.tensor": lambda c: torch.tensor([[c]]),
    "int()": lambda c: int(np.prod((c, 2))),
}


@pytest.mark.parametrize("place", READERS)
@pytest.mark.parametrize("of", [lambda s, y: y.shape[1], lambda s, y: s.dim], ids=["shape", "attribute"])
def test_a_number_that_is_read_freezes(law, place, of):
    read = READERS[place]
    space = law(Scaled(lambda s, y: read(of(s, y))), torch.randn(2, 3, 5, 5), seeds=(0,))
    assert [g.name for g in space.groups] == ["other"]
    (reason,) = {g.frozen_because for g in space.frozen if g.name == "conv"}
    assert place in reason


@pytest.mark.parametrize(
    "number",
    [
        lambda s, y: y.nbytes,
        lambda s, y: len(s.conv.weight),
        lambda s, y: y.untyped_storage().nbytes(),
        lambda s, y: y[1].storage_offset(),
        lambda s, y: torch._shape_as_tensor(y)[1],
        lambda s, y: sum(map(sum, s.conv.weight.flatten(1).tolist())),
        lambda s, y: y.shape[1] // 4 * 4,
        lambda s, y: y[:, : s.dim // 4 * 4].numel(),
        lambda s, y: 2.0 if y.shape[1] // 8 else 3.0,
        lambda s, y: 2.0 if s.dim // 8 else 3.0,
        lambda s, y: abs(y.shape[1] * -1),
        lambda s, y: pow(s.dim, 2, 7),
    ],
)
def test_what_a_tensor_says_of_itself_freezes(law, number):
    space = law(Scaled(number), torch.randn(2, 3, 5, 5), seeds=(0,))
    assert [g.name for g in space.groups] == ["other"]


@pytest.mark.parametrize(
    "same",
    [
        lambda s, y: torch.cat([y[:, : y.shape[1] >> 1], y[:, y.shape[1] >> 1 :]], 1),
        lambda s, y: torch.cat(y.split(divmod(y.shape[1], 2)[0], 1), 1),
        lambda s, y: torch.cat([y[:, : s.dim // 2], y[:, s.dim // 2 :]], 1),
        lambda s, y: torch.cat(y.split(s.dim >> 1, 1), 1),
    ],
)
def test_halves_are_followed(law, same):
    space = law(Scaled(same), torch.randn(2, 3, 5, 5), seeds=(0,))
    assert {g.name: g.size for g in space.groups} == {"conv": 4, "other": 6}


def test_what_is_rounded_down_and_multiplied_again_must_stay_divisible(law):
    """`c // 4 * 4` is `c` only as long as `c` is divisible: as whole rows of four it is."""
    rows = lambda s, y: y.view(2, 4, y.shape[1] // 4, -1).view(2, y.shape[1] // 4 * 4, -1)  # noqa: E731
    space = law(Scaled(rows), torch.randn(2, 3, 5, 5), seeds=(0,))
    assert {g.name: g.size for g in space.groups} == {"conv": 2, "other": 6}


def test_what_is_imported_in_a_trace_finds_no_stand_ins():
    """A library that the network imports while it runs may keep what it finds in Python's own modules."""
    import itertools
    import operator

    found = []

    def number(s, y):
        found.extend([itertools.islice, itertools.repeat, operator.index])
        return 1.0

    trace(Scaled(number), torch.randn(2, 3, 5, 5))
    assert found[:3] == [islice, repeat, index]
    assert found[0] is islice


def test_types_are_types_while_a_network_is_traced(law):
    """A class that is made, and a type that is asked for, where stand-ins are."""

    def number(s, y):
        class Own(Decimal):
            pass

        assert isinstance(b"", bytes)
        assert issubclass(Own, Decimal)
        assert isinstance(range(3), range)
        assert {bytes: 2}[b"".__class__] == 2
        assert isinstance(y.int().type(torch.FloatTensor), torch.FloatTensor)
        return float(Own(2)) * len(bytes.fromhex("00ff"))

    space = trace(Scaled(number), torch.randn(2, 3, 5, 5))
    assert len(space.groups) == 2
    assert type(Decimal) is type
    assert "bytes" not in globals()


@pytest.mark.parametrize("value", [b"ab", bytearray(b"ab"), range(2), Decimal(2), "ab", 2, 2.0, (1, 2), {"k": 2}])
def test_patterns_of_types_match_while_a_network_is_traced(value):
    seen = []

    def number(s, y):
        match value:
            case bytes(found) | bytearray(found):
                seen.append(len(found))
            case range(stop=found) | {"k": found} | (_, found):
                seen.append(found)
            case str(found):
                seen.append(len(found))
            case Decimal() | int() | float():
                seen.append(int(value))
        match y.shape:
            case (batch, _, _):
                return float(batch)

    model = Scaled(number)
    assert len(trace(model, torch.randn(2, 3, 5, 5)).groups) == 2
    assert set(seen) == {2}


def test_trace_within_a_traced_network_is_refused():
    def number(s, y):
        trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(1, 3))
        return 1.0

    with pytest.raises(ValueError, match="calls trace while it runs"):
        trace(Scaled(number), torch.randn(2, 3, 5, 5))
    assert trace(Scaled(lambda s, y: 1.0), torch.randn(2, 3, 5, 5)).groups  # nothing is left behind
