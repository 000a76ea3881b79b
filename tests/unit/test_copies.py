"""Networks that keep what they computed in their last pass, with its graph, are copied, traced, verified and pruned."""

import copy

import pytest
import torch
from torch import nn

from search_spaces import copy_of, mask, prune, trace, verify

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Keeps(nn.Sequential):
    """As many networks do, for later looks."""

    def forward(self, x):
        self.maps, self.last = [], {}
        for number, layer in enumerate(self):
            x = layer(x)
            self.maps.append(x)
            self.last[number] = (x, None)
        return x


def layers():
    return nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)


def keeping():
    return Keeps(*layers())


def normed():
    first, *others = layers()
    return nn.Sequential(nn.utils.weight_norm(first), *others)


pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")


@pytest.mark.parametrize("make", [keeping, normed])
def test_a_network_after_a_pass_with_gradients(make):
    net = make().eval()
    expected = net(IMAGE)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(net)
    copied = copy_of(net)
    assert torch.equal(copied(IMAGE), expected)
    own = {id(t) for t in net.state_dict(keep_vars=True).values()}
    assert own.isdisjoint(id(t) for t in copied.state_dict(keep_vars=True).values())
    space = trace(net, IMAGE[:1])
    net(IMAGE)  # a trace's pass has no gradients
    verify(net, space, IMAGE[:1])
    kept = [[0, 2, 3][: g.size] for g in space.groups]
    net(IMAGE)
    masked, pruned = mask(net, space, kept), prune(net, space, kept)
    assert torch.allclose(masked(IMAGE), pruned(IMAGE), atol=1e-5)
    assert next(pruned.parameters()).numel() < next(net.parameters()).numel()


def test_what_is_shared():
    net = keeping()
    net(IMAGE)
    copied = copy_of(net, list(net.parameters()))
    assert all(a is b for a, b in zip(net.parameters(), copied.parameters(), strict=True))
    assert not any(t.requires_grad for t in copied.maps)
    assert all(torch.equal(a, b) for a, b in zip(net.maps, copied.maps, strict=True))
