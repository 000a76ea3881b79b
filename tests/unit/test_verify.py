"""What `verify` sees: a wrong trace in any network, and what it compares."""

from collections import UserDict, deque
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces import VerificationError, trace, verify
from search_spaces.models import digits_cnn
from search_spaces.verify import redraw

index = [*range(100)].__getitem__  # gives a number for itself, unseen by the trace

IMAGE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_verify_catches_a_broken_space_and_names_the_group():
    model = digits_cnn()
    space = trace(model, IMAGE)
    assert verify(model, space, IMAGE) < 1e-5
    broken = space.groups[1]
    shifted = tuple(
        replace(m, index=np.roll(m.index, 1, 0)) if m.tensor == "block1.3.weight" and m.axis == 1 else m
        for m in broken.members
    )
    wrong = replace(space, groups=(space.groups[0], replace(broken, members=shifted), *space.groups[2:]))
    with pytest.raises(
        VerificationError,
        match=f"group '{broken.name}': the pruned network answers otherwise than its channels explain",
    ):
        verify(model, wrong, IMAGE)
    forgotten = tuple(m for m in broken.members if m.tensor != "block1.3.weight")
    wrong = replace(space, groups=(space.groups[0], replace(broken, members=forgotten), *space.groups[2:]))
    with pytest.raises(VerificationError, match=f"group '{broken.name}': the pruned network cannot run without"):
        verify(model, wrong, IMAGE)


def test_verify_sees_what_tracing_cannot():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x = self.conv(x)
            return self.out(x * (1.0 / index(x.shape[1])))  # which asks the count for its number unseen

    model = Hidden()
    with pytest.raises(VerificationError, match="group 'conv'"):
        verify(model, trace(model, IMAGE), IMAGE)


@pytest.mark.parametrize("first", [False, True])
def test_verify_sees_nan_in_any_of_several_outputs(first):
    """The pruned network answers NaN in one output; the other one is fine."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x = self.conv(x)
            out = self.out(x)
            whole = 1.0 if 1.0 / index(x.shape[1]) == 0.125 else float("nan")  # as above: the trace does not see it
            return (out * whole, out) if first else (out, out * whole)

    model = Two()
    with pytest.raises(VerificationError, match="group 'conv': the pruned network cannot run without its channels"):
        verify(model, trace(model, IMAGE), IMAGE)


def test_verify_says_that_the_network_itself_answers_nan():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    nn.init.constant_(model[2].bias, float("inf"))
    with pytest.raises(VerificationError, match=r"^Sequential: answers the example input with NaN or infinity"):
        verify(model, trace(model, IMAGE), IMAGE)


@dataclass(slots=True)
class Slots:
    logits: object


@dataclass
class Fields:
    logits: object


CONTAINERS = {
    "slots": Slots, "dataclass": Fields, "values": lambda y: {"y": y}.values(), "items": lambda y: {"y": y}.items(),
    "deque": lambda y: deque([y]), "set": lambda y: {y}, "namespace": lambda y: SimpleNamespace(y=[y]),
    "user dict": lambda y: UserDict(y=y), "closure": lambda y: lambda: y, "object array": lambda y: np.array([y, None]),
    "deep": lambda y: [{"a": (Slots(deque([Fields(y)])),)}],
}  # fmt: skip


class Answers(nn.Module):
    """conv -> head, in a container or after some last step."""

    def __init__(self, last, hidden=False):
        super().__init__()
        self.conv, self.head, self.last, self.hidden = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 10, 1), last, hidden

    def forward(self, x):
        x = self.conv(x).relu()
        if self.hidden:
            x = x - 5 * (1.0 / index(x.shape[1]))  # a size that the trace cannot see
        return self.last(self.head(x))


@pytest.mark.parametrize("name", CONTAINERS)
def test_an_answer_is_kept_whole_and_compared_in_any_container(name):
    last = CONTAINERS[name] if name != "object array" else lambda y: np.array([Slots(y), None], dtype=object)
    model = Answers(last)
    space = trace(model, IMAGE)
    assert [(g.name, g.size) for g in space.groups] == [("conv", 16)]
    assert verify(model, space, IMAGE) < 1e-9
    hidden = Answers(last, hidden=True)
    with pytest.raises(VerificationError, match="group 'conv'"):
        verify(hidden, trace(hidden, IMAGE), IMAGE)


@pytest.mark.parametrize(
    "last",
    [
        lambda y: y.argmax(1),
        lambda y: (y > 0.1).sum((2, 3)),
        lambda y: torch.complex(y, y * 2),
        lambda y: torch.fft.fft2(y),
        lambda y: y.half(),
        lambda y: (y.mean((1, 2, 3)) > 99).nonzero(),  # an empty answer: what it was chosen from is compared
    ],
)
def test_answers_of_every_kind_are_compared(last):
    model = Answers(last)
    assert verify(model, trace(model, IMAGE), IMAGE) < 1e-3
    hidden = Answers(last, hidden=True)
    with pytest.raises(VerificationError, match="group 'conv'"):
        verify(hidden, trace(hidden, IMAGE), IMAGE)


def test_an_answer_without_numbers_is_no_proof():
    model = Answers(lambda y: y[:0])
    with pytest.raises(VerificationError, match="its answer to the example input holds no number"):
        verify(model, trace(model, IMAGE), IMAGE)


def test_selections_of_equal_scores_are_no_error():
    """Top-k over scores that are equal but for rounding: the order says nothing."""
    model = Answers(lambda y: (1 + 1e-17 * y).flatten(1).topk(5)[1])
    assert verify(model, trace(model, IMAGE), IMAGE) < 1e-9


def test_a_copy_that_holds_on_to_the_original_is_told():
    class Hooked(nn.Module):
        def __init__(self):
            super().__init__()
            self.kept = {}
            self.a, self.b = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
            self.head = nn.Conv2d(10, 2, 1)
            self.a.register_forward_hook(lambda module, args, out: self.kept.__setitem__("a", out))

        def forward(self, x):
            y = self.b(self.a(x))
            return self.head(torch.cat([self.kept["a"], y], 1))

    model = Hooked()
    with pytest.raises(VerificationError, match="a copy of the network does not answer as the network does"):
        verify(model, trace(model, IMAGE), IMAGE)


def test_a_width_that_only_training_names_is_an_error():
    """Should the trace have missed it (here: because it was not ready to train then)."""

    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.ready = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 2, 1), False

        def forward(self, x):
            x = self.a(x)
            if self.training:
                if not self.ready:
                    raise ValueError("not ready")
                x = x + torch.randn(1, 8, 1, 1)
            return self.b(x)

    model = Late()
    space = trace(model, IMAGE)
    model.ready = True
    with pytest.raises(VerificationError, match=r"group 'a': .* cannot run without its channels"):
        verify(model, space, IMAGE)


BLIND = {  # what hid wrong maps: a head of zeros, tiny layer scales, answers that are all bias, half of the numbers
    "zero head": lambda m: nn.init.zeros_(m.linear.weight),
    "tiny scale": lambda m: nn.init.constant_(m.block1[4].weight, 1e-6),
    "all bias": lambda m: nn.init.constant_(m.linear.bias, 1e6),
    "zero norms": lambda m: [nn.init.zeros_(n.weight) for n in m.modules() if isinstance(n, nn.BatchNorm2d)],
    "single precision only": lambda m: m.register_forward_pre_hook(lambda _, args: (args[0].float(),)),
}


@pytest.mark.parametrize("name", BLIND)
def test_wrong_maps_are_noticed(name, mutants):
    model = digits_cnn().eval()
    BLIND[name](model)
    space = trace(model, IMAGE)
    assert verify(model, space, IMAGE, seeds=[0]) < 1e-4
    for group, wrong in mutants(space, range(8)):
        with pytest.raises(VerificationError, match=f"group '{group}'"):
            verify(model, wrong, IMAGE, seeds=[0])


def test_redrawing_leaves_trained_numbers_alone():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1))
    nn.init.zeros_(model[1].bias)
    before = model[0].weight.clone()
    redraw(model, 0)
    assert torch.equal(model[0].weight, before)
    assert model[1].bias.abs().min() > 0


def test_tiny_parameters_are_drawn_anew():
    """A network whose shifts begin at 1e-6 would hide that they go with the wrong channels."""
    layer = torch.nn.Linear(4, 4)
    torch.nn.init.normal_(layer.bias, std=1e-6)
    weight = layer.weight.detach().clone()
    redraw(layer, 0)
    assert layer.bias.abs().max() > 1e-2
    assert torch.equal(layer.weight, weight)


def test_what_a_network_has_worked_out_before_is_worked_out_anew():
    """As LeViT keeps its biases in eval mode, and forgets them in training."""

    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 3)
            self.shift, self.bias_cache = nn.Parameter(torch.zeros(8)), {}

        def train(self, mode=True):
            super().train(mode)
            if mode:
                self.bias_cache = {}
            return self

        def forward(self, x):
            if not self.training and "shift" not in self.bias_cache:
                self.bias_cache["shift"] = self.shift.exp()
            shift = self.shift.exp() if self.training else self.bias_cache["shift"]
            return self.second((self.first(x) * shift).relu())

    model, x = Keeping().eval(), torch.randn(4, 5)
    for _ in range(2):
        space = trace(model, x)
        assert [g.name for g in space.groups] == ["first"]
        assert verify(model, space, x) < 1e-6
        model(x)


def test_a_pruned_network_that_fails_is_told_with_its_own_error():
    from autoprune.report.tables import groups_table

    class Forgetful(nn.Module):
        """Shrinks its weight and not what it compares."""

        def __init__(self):
            super().__init__()
            self.in_channels = self.out_channels = self.channels = 6
            self.weight = nn.Parameter(torch.randn(6, 6))

        def forward(self, x):
            if x.shape[1] != self.channels:
                raise ValueError("expected all of them")
            return torch.einsum("nihw,oi->nohw", x, self.weight)

        def shrink(self, kept_in, kept_out):
            self.weight = nn.Parameter(self.weight.detach()[kept_out][:, kept_in].clone())
            self.in_channels, self.out_channels = len(kept_in), len(kept_out)

    model = nn.Sequential(nn.Conv2d(1, 6, 3), Forgetful(), nn.Conv2d(6, 2, 3))
    space = trace(model, IMAGE)
    with pytest.raises(VerificationError, match=r"group '0': .* its channels \(ValueError: expected all of them\), so"):
        verify(model, space, IMAGE)
    assert [str(cell) for cell in groups_table(space).columns[3]._cells] == ["0, 1", "1, 2"]  # a declaring layer, too
