"""Surgery: what `prune` and `Dresser` build, and what they must leave alone."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_spaces import Dresser, SearchSpace, mask, prune, trace
from search_spaces.models import digits_cnn
from search_spaces.verify import random_kept

IMAGE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return digits_cnn()


@pytest.fixture
def space(model):
    return trace(model, IMAGE)


def some(space, seed=0):
    return random_kept(space, np.random.default_rng(seed))


def test_sizes_and_attributes_follow(model, space):
    kept = some(space)
    pruned = prune(model, space, kept)
    conv, norm = pruned.block1[0], pruned.block1[1]
    width = len(kept[[g.name for g in space.groups].index("block1.0")])
    assert (conv.out_channels, norm.num_features, pruned.block1[3].in_channels) == (width,) * 3
    assert conv.weight.shape[0] == norm.weight.shape[0] == norm.running_var.shape[0] == width
    assert pruned.linear.in_features == pruned.linear.weight.shape[1]
    assert torch.equal(norm.weight, model.block1[1].weight[kept[[g.name for g in space.groups].index("block1.0")]])


def test_the_dense_network_is_left_alone(model, space):
    before = copy.deepcopy(model.state_dict())
    for build in (prune, mask):
        build(model, space, some(space))
    pruned = prune(model, space, some(space)).train()
    optimizer = torch.optim.SGD(pruned.parameters(), 0.1)
    pruned(IMAGE).sum().backward()
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_keeping_everything_is_a_copy(model, space):
    whole = prune(model, space, [np.arange(g.size) for g in space.groups])
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in whole.parameters()}
    assert not shared
    assert torch.equal(whole.eval()(IMAGE), model.eval()(IMAGE))


def test_mode_dtype_and_requires_grad_are_kept(model, space):
    model.stem[0].weight.requires_grad_(False)
    model.train()
    model.block1.eval()
    pruned = prune(model.double(), space, some(space))
    assert pruned.training
    assert not pruned.block1.training
    assert not pruned.stem[0].weight.requires_grad
    assert {p.dtype for p in pruned.parameters()} == {torch.float64}


def test_pruned_networks_can_be_copied_and_pickled(model, space):
    pruned = prune(model, space, some(space)).eval()
    expected = pruned(IMAGE)
    assert torch.equal(copy.deepcopy(pruned)(IMAGE), expected)
    assert torch.equal(pickle.loads(pickle.dumps(pruned))(IMAGE), expected)


def test_shared_parameters_stay_shared():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.norm = nn.Embedding(20, 8), nn.LayerNorm(8)
            self.head = nn.Linear(8, 20, bias=False)
            self.head.weight = self.table.weight

        def forward(self, i):
            return self.head(self.norm(self.table(i)))

    model, tokens = Tied(), torch.randint(0, 20, (2, 5))
    space = trace(model, tokens)
    pruned = prune(model, space, [np.arange(3)])
    assert pruned.head.weight is pruned.table.weight
    assert pruned.table.embedding_dim == pruned.head.in_features == 3
    assert pruned.norm.normalized_shape == (3,)


def test_recurrent_layers_keep_their_own_weights():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.up, self.out = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.out(F.relu(self.up(self.lstm(x)[0])))

    model = Recurrent()
    space = trace(model, torch.randn(2, 4, 5))
    pruned = prune(model, space, [np.arange(3), np.arange(3)])
    assert pruned.lstm._flat_weights[0] is pruned.lstm.weight_ih_l0
    assert pruned.lstm.weight_ih_l0 is not model.lstm.weight_ih_l0
    pruned(torch.randn(2, 4, 5)).sum().backward()
    assert pruned.lstm.weight_ih_l0.grad is not None


def test_layers_that_only_run_in_training_shrink_along():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.out, self.aux = (
                nn.Conv2d(1, 8, 3),
                nn.Linear(8, 3),
                nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)),
            )

        def forward(self, x):
            x = self.stem(x).mean((2, 3))
            return (self.out(x), self.aux(x)) if self.training else self.out(x)

    model = Auxiliary()
    space = trace(model, IMAGE)
    assert {x.name for x in space.layers} == {"stem", "out"}  # costs are those of inference
    pruned = prune(model, space, [np.arange(3)] * len(space.groups)).train()
    assert [tuple(y.shape) for y in pruned(IMAGE)] == [(2, 3), (2, 3)]


def test_dresser_dresses_one_instance_as_prune_would(model, space):
    dresser, model = Dresser(model, space), model.eval()
    first = dresser.dress(some(space, 0))
    for seed in (1, 2):
        kept = some(space, seed)
        again = dresser.dress(kept)
        assert again is first
        assert torch.equal(again.eval()(IMAGE), prune(model, space, kept).eval()(IMAGE))
    dresser.dress([np.arange(g.size) for g in space.groups])
    assert torch.equal(first.eval()(IMAGE), model(IMAGE))


def test_training_a_dressed_network_changes_nothing_else(model, space):
    before, dresser, kept = copy.deepcopy(model.state_dict()), Dresser(model, space), some(space)
    expected = dresser.dress(kept).eval()(IMAGE)
    dressed = dresser.dress(kept).train()
    optimizer = torch.optim.SGD(dressed.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        dressed(IMAGE).pow(2).sum().backward()
        optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(dresser.dress(kept).eval()(IMAGE), expected)


def test_new_weights_of_the_dense_network_are_read(model, space):
    dresser, kept = Dresser(model, space), some(space)
    dresser.dress(kept)
    with torch.no_grad():
        model.linear.bias.add_(1)
    assert torch.equal(dresser.dress(kept).linear.bias, model.linear.bias)


@pytest.mark.parametrize("bad", [[], [0, 0], [-1], [24]])
def test_bad_kept_indices(model, space, bad):
    kept = [np.array(bad, dtype=np.int64), *some(space)[1:]]
    with pytest.raises(ValueError, match=r"group 'stem.0': kept indices must be distinct, within 0..23 and not empty"):
        prune(model, space, kept)


def test_a_space_of_another_network(space):
    with pytest.raises(ValueError, match=r"traced from another network: Linear has no 'block1.0"):
        prune(nn.Linear(3, 3), space, some(space))


def test_a_missing_group(model, space):
    with pytest.raises(ValueError, match=r"kept indices for 3 groups given, but this space has 4"):
        prune(model, space, some(space)[1:])


def test_a_space_from_json_prunes_alike(model, space):
    same, kept = SearchSpace.from_json(space.to_json()), some(space)
    assert torch.equal(prune(model, same, kept).eval()(IMAGE), prune(model, space, kept).eval()(IMAGE))
