"""Concepts: the groups of a residual block, as `search_spaces.trace` finds them."""

from typing import Any

import torch
from drawing import Drawing
from torch import Tensor, nn

from search_spaces import trace

SIZE = (760, 250)
TITLE = "A residual block: the stem and the second convolution are added, so their output channels are one group."
COLORS = ("one", "two", "three", "four")


class Net(nn.Module):
    """stem -> two convolutions around which the input goes -> head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = (
            nn.Conv2d(3, 16, 3, padding=1),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.Conv2d(32, 16, 3, padding=1),
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = self.stem(x)
        x = x + self.outer(self.inner(x).relu())
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def sides() -> tuple[list[Any], dict[tuple[str, str], int]]:
    """The groups, and which one is on which side ("in", "out") of which layer."""
    space = trace(Net(), torch.zeros(1, 3, 8, 8))
    found = {}
    for number, group in enumerate(space.groups):
        for member in group.members:
            found[(member.tensor.rpartition(".")[0], member.role)] = number
    return list(space.groups), found


def draw(d: Drawing) -> None:
    """Draw it."""
    groups, at = sides()
    places = {"stem": 90, "inner": 250, "outer": 410, "head": 625}
    d.text(20, 26, "Channels that must go together are one group", bold=True)
    d.line([(30, 130), (90, 130)], arrow=True)
    d.text(28, 118, "image", "soft", 12)
    for (name, x), after in zip(places.items(), ("inner", "outer", "add", "answer"), strict=True):
        for side, left in (("in", x), ("out", x + 40)):
            number = at.get((name, side))
            d.rect(left, 100, 40, 60, "gone" if number is None else COLORS[number], r=0)
            d.text(left + 20, 134, side, "back", 12, "middle", bold=True)
        d.text(x + 40, 92, name, size=13, anchor="middle")
        end = {"add": 552, "answer": 752}.get(after, places.get(after, 0))
        d.line([(x + 80, 130), (end, 130)], COLORS[at[(name, "out")]] if (name, "out") in at else "soft", 2, arrow=True)
    d.circle(565, 130, 12, "soft", hollow=True)
    d.text(565, 135, "+", size=16, anchor="middle")
    d.line([(577, 130), (625, 130)], COLORS[at[("outer", "out")]], 2, arrow=True)
    d.line([(200, 130), (200, 185), (565, 185), (565, 143)], COLORS[at[("stem", "out")]], 2, arrow=True)
    d.text(738, 118, "answer", "soft", 12, "middle")
    for number, group in enumerate(groups):
        x = 90 + 300 * number
        d.rect(x, 213, 14, 14, COLORS[number], r=2)
        d.text(x + 22, 225, f"group '{group.name}': {group.size} channels", size=13)
