"""Several networks in one set of weights: slices, switching, one level alone."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces import NestedNetwork, PaddedShortcut, prune, trace


class Streams(nn.Module):
    """A stem, a residual block, an option-A shortcut into a wider stream, a depthwise layer, a head."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 7, 3, padding=1, bias=False), nn.BatchNorm2d(7)
        self.conv3 = nn.Conv2d(7, 6, 1)
        self.short, self.conv4 = PaddedShortcut(6, 10), nn.Conv2d(6, 10, 3, 2, 1)
        self.deep, self.bn4 = nn.Conv2d(10, 10, 3, padding=1, groups=10), nn.BatchNorm2d(10)
        self.head = nn.Linear(10 * 16, 4)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = x + self.conv3(torch.relu(self.bn2(self.conv2(x))))
        x = torch.relu(self.bn4(self.deep(self.conv4(x) + self.short(x))))
        return self.head(x.flatten(1))


class SideBySide(nn.Module):
    """Two layers whose channels stand side by side for a third: no slice has the first ones of both."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 6, 1)
        self.bn, self.c, self.head = nn.BatchNorm2d(14), nn.Conv2d(14, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.bn(torch.cat([self.a(x), self.b(x)], 1)))
        return self.head(torch.relu(self.c(x)).mean((2, 3)))


IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def nested(cls=Streams, names=("large", "middle", "small"), shares=(0.9, 0.6, 0.3), scales=False):
    torch.manual_seed(0)
    net = cls().eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            for t, low in ((m.running_mean, -0.3), (m.running_var, 0.5), (m.weight, 0.5), (m.bias, -0.3)):
                nn.init.uniform_(t, low, low + 1)
    space, drawn = trace(net, IMAGES), np.random.default_rng(0)
    order = [drawn.permutation(g.size) for g in space.groups]
    levels = {n: space.clip(s * g.size for g in space.groups) for n, s in zip(names, shares, strict=True)}
    return net, NestedNetwork(net, space, order, levels, scales)


def reference(net, several, level):
    """The network of a level as `prune` makes it."""
    widths = several.levels[level]
    return prune(net, several.space, [np.sort(o[:w]) for o, w in zip(several.order, widths, strict=True)])


@pytest.mark.parametrize("cls", [Streams, SideBySide])
@pytest.mark.parametrize("shares", [(0.9, 0.6, 0.3), (1.0, 0.5, 0.2)])
def test_every_level_answers_what_prune_makes_of_it(cls, shares):
    net, several = nested(cls, shares=shares)
    again = copy.deepcopy(several)
    assert several.levels["small"] < several.levels["large"]
    for level in (*several.names, *reversed(several.names)):
        expected = reference(net, several, level)
        torch.testing.assert_close(several.switch(level)(IMAGES), expected(IMAGES), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(again.switch(level)(IMAGES), several(IMAGES))
        alone, _ = several.alone(level)
        assert alone.state_dict().keys() == expected.state_dict().keys()
        for a, b in zip(alone.state_dict().values(), expected.state_dict().values(), strict=True):
            assert torch.equal(a, b)
    whole = several.spread(net)  # each unit is in its own place
    for a, b in zip(reference(whole, several, "large").state_dict().values(),
                    reference(net, several, "large").state_dict().values(), strict=True):  # fmt: skip
        assert torch.equal(a, b)


def storages(tensors):
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}


def test_switching_copies_no_weights():
    net, several = nested()
    largest = sum(p.nbytes for p in several.largest.parameters())
    assert largest < sum(p.nbytes for p in net.parameters())
    stored = storages(several.parameters())
    assert sum(stored.values()) == largest  # one set of weights, not one for each level
    for level in several.names:
        parameters = list(several.switch(level).network.parameters())
        assert storages(parameters).keys() <= stored.keys()
        assert several.copied == 0
    with torch.no_grad():
        several.largest.conv1.weight[0].fill_(7.0)  # the first unit is everybody's
    assert (several.network.conv1.weight[0] == 7).all()


def test_what_no_slice_has_is_copied_and_counted():
    _, several = nested(SideBySide, shares=(1.0, 0.5, 0.2))
    assert several.switch("large").copied == 0
    small = several.switch("small").network
    assert several.copied == small.c.weight.nbytes + small.bn.weight.nbytes + small.bn.bias.nbytes
    assert several.copied < sum(p.nbytes for p in small.parameters())


def test_statistics_are_each_levels_own_and_scales_if_asked():
    for scales in (False, True):
        _, several = nested(scales=scales)
        before = {n: t.clone() for n, t in several.state_dict().items()}
        narrow = several.train().trained_at("small")
        narrow(IMAGES).square().sum().backward()
        after = several.state_dict()
        changed = {n for n, t in after.items() if not torch.equal(t, before[n])}
        assert changed
        assert all((n.startswith("own.1.") and "/running_" in n) or "tracked" in n for n in changed)
        assert (several.largest.bn1.weight.grad is None) == scales
        width = several.levels["small"][0]
        assert several.largest.conv1.weight.grad[:width].any()
        assert not several.largest.conv1.weight.grad[width:].any()


def test_a_state_dict_holds_it_all():
    _, several = nested(scales=True)
    _, other = nested(scales=True)
    with torch.no_grad():
        for t in several.state_dict().values():
            if t.is_floating_point():
                t.mul_(1.5)
    other.load_state_dict(several.state_dict())
    for level in several.names:
        assert torch.equal(several.switch(level)(IMAGES), other.switch(level)(IMAGES))
    several.double()
    assert several(IMAGES.double()).dtype == torch.float64


def test_bad_input():
    net, several = nested()
    with pytest.raises(ValueError, match="level 'tiny': this network has large, middle, small"):
        several.switch("tiny")
    space, order = several.space, list(several.order)
    with pytest.raises(ValueError, match=r"level 'b': keeps \d units of group '.*', more than the \d of 'a'"):
        NestedNetwork(net, space, order, {"a": space.floor, "b": space.full})
    with pytest.raises(ValueError, match="at least one level"):
        NestedNetwork(net, space, order, {})
    with pytest.raises(ValueError, match="the order must name each of its 6 units once"):
        NestedNetwork(net, space, [order[0][:-1], *order[1:]], {"a": space.full})
    odd = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3)), nn.Conv2d(6, 2, 1)).eval()
    space = trace(odd, IMAGES)
    with pytest.raises(ValueError, match="'0': computes its weight"):
        NestedNetwork(odd, space, [np.arange(g.size) for g in space.groups], {"a": space.full, "b": space.floor})
