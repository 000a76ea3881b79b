"""A small network with coupled layers, a task and a problem, for methods that prune while they train."""

import copy
import functools

import numpy as np
import torch
from torch import nn

from autoprune.problem import Problem
from autoprune.tasks import Task
from autoprune.training import Checkpoints, Pruning, TrainingSettings, finetune
from objectives import parse
from search_spaces import trace

PER_EPOCH, EPOCHS = 8, 4
SETTINGS = TrainingSettings(lr=0.05, lr_schedule="constant", device="cpu", amp="off")


class Tiny(nn.Module):
    """A stem, a residual block that couples two layers to it, a layer, and a linear head."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 7, 3, padding=1, bias=False), nn.BatchNorm2d(7)
        self.conv3, self.bn3 = nn.Conv2d(7, 6, 1), nn.BatchNorm2d(6)
        self.conv4, self.bn4 = nn.Conv2d(6, 5, 3, stride=2), nn.BatchNorm2d(5)
        self.head = nn.Linear(5 * 4, 4)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(x + self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(x))))))
        return self.head(torch.relu(self.bn4(self.conv4(x))).flatten(1))


class Normed(nn.Module):
    """Patches, a block with layer-norms as in a transformer, and a linear head."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.patches, self.norm1, self.norm2 = nn.Conv2d(3, 8, 3, 3), nn.LayerNorm(8), nn.LayerNorm(8)
            self.rise, self.fall, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.fall(torch.relu(self.rise(self.norm1(x))))
        return self.head(self.norm2(x).mean(1))


class Coupled(nn.Module):
    """Two streams: blocks add to the first, one of them reads both, and so does the head."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem1, self.norm1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
            self.stem2, self.norm2 = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
            self.conv1, self.conv2 = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(11, 6, 1)
            self.head = nn.Linear(11, 4)

    def forward(self, x):
        one, other = torch.relu(self.norm1(self.stem1(x))), torch.relu(self.norm2(self.stem2(x)))
        one = torch.relu(one + self.conv1(one))
        one = torch.relu(one + self.conv2(torch.cat([one, other], 1)))
        return self.head(torch.cat([one, other], 1).mean((2, 3)))


class Grouped(nn.Module):
    """A grouped convolution reads the stem, a grouped transposed one is read next, then a linear head."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.inner, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8)
            self.wider, self.norm3 = nn.ConvTranspose2d(8, 12, 2, groups=2), nn.BatchNorm2d(12)
            self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = torch.relu(self.norm1(self.stem(x)))
        x = torch.relu(self.norm2(self.inner(x)))
        return self.head(torch.relu(self.norm3(self.wider(x))).mean((2, 3)))


def network(seed=0):
    """The network with batch-norms as after some training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Tiny()
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.uniform_(m.weight, 0.3, 1.2)
                nn.init.uniform_(m.bias, -0.3, 0.3)
    return net


def task(dtype=torch.float32):
    """Some batches of eight images of four classes."""
    batches = PER_EPOCH
    drawn = torch.Generator().manual_seed(1)
    labels = torch.randint(4, (batches, 8), generator=drawn)
    images = torch.randn(batches, 8, 3, 6, 6, generator=drawn) + labels[:, :, None, None, None] * 0.5
    pairs = list(zip(images.to(dtype), labels, strict=True))
    return Task.of(pairs, pairs[:2], loss=nn.functional.cross_entropy)


@functools.cache
def space_of(kind, dtype):
    """What may be pruned in a network of this class and these numbers."""
    return trace(kind().to(dtype), torch.zeros(1, 3, 6, 6, dtype=dtype))


def pruning(net, budgets=("macs<=60%",), kept=None, divisor=1, depth=False):
    """What may be pruned, the units that the scores keep at the budgets included."""
    space = space_of(type(net), net.head.weight.dtype).with_limits(divisor=divisor, depth=depth)
    scores = tuple(np.random.default_rng(3).random(g.size) for g in space.groups)
    problem = Problem(space, tuple(map(parse, budgets)), scores)
    if kept is None:
        kept = space.kept(problem.project(space.full), scores)
    large = problem.project(space.full)
    levels = {"large": large, "small": space.clip(w / 2 for w in large)}
    return Pruning(space, scores, kept, problem.project, problem, levels)


def trained(method, net, steps=PER_EPOCH * EPOCHS, settings=SETTINGS, checkpoint=None, listener=None):
    """A copy of the network after a training with the method, which is used up."""
    data = task(net.head.weight.dtype)
    net = copy.deepcopy(net) if method is None else method.network(copy.deepcopy(net))
    kept = None if checkpoint is None else Checkpoints(checkpoint, every=5)
    said = None if listener is None else lambda done, total, loss: listener(net, done)
    finetune(net, data, settings, steps=steps, method=method, checkpoints=kept, listener=said)
    return net


def equal(a, b):
    """Whether two networks are the same to the bit."""
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
