"""Recurrent layers and cells: hidden units go, with their rows and columns of all gates."""

import numpy as np
import pytest
import torch
from duties import examine
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from objectives.costs import Macs, Params
from search_spaces import VerificationError, prune, trace, verify

# torch says so of nn.LSTM in general.
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes .*_flat_weights", "ignore:LSTM with projections")
LAYERS = [nn.RNN, nn.GRU, nn.LSTM]
CELLS = [nn.RNNCell, nn.GRUCell, nn.LSTMCell]
X = (2, 7, 5)


def sizes(space):
    return {g.name: g.size for g in space.groups}


def reasons(space):
    return {g.name: g.frozen_because for g in space.frozen if g.frozen_because != "output of the network"}


class Classifier(nn.Module):
    """Linear -> recurrent layers -> linear -> linear; `read` says what of the recurrence is read."""

    def __init__(self, kind, read=None, wide=10, **options):
        super().__init__()
        self.enter, self.rnn = nn.Linear(5, 6), kind(6, 10, **{"batch_first": True, **options})
        self.leave, self.out = nn.Linear(wide, 8), nn.Linear(8, 3)
        self.read = read or (lambda net, x: net.rnn(x)[0][:, -1])
        self.hidden, self.depth = 10, options.get("num_layers", 1)

    def forward(self, x):
        return self.out(self.leave(self.read(self, self.enter(x))).tanh())


FREE = {"enter": 6, "rnn": 10, "leave": 8}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 3, "bias": False}, {"num_layers": 2, "bidirectional": True, "wide": 20}], ids=str
)
def test_hidden_units_shrink(law, kind, options):
    model, x = Classifier(kind, **options), torch.randn(X)
    space = law(model, x)
    assert sizes(space) == FREE
    assert not reasons(space)
    pruned = examine(model, space, x)
    assert pruned.rnn.hidden_size == pruned.rnn.weight_hh_l0.shape[1] < 10
    assert pruned.rnn.input_size == pruned.enter.out_features < 6


def test_rows_of_all_gates_go_together(law):
    space = law(Classifier(nn.LSTM, num_layers=2, bidirectional=True, wide=20), torch.randn(X))
    members = {(m.tensor, m.axis, m.role): m.index[1].tolist() for m in space.groups[1].members}
    assert members["rnn.weight_ih_l0", 0, "out"] == [1, 11, 21, 31]
    assert members["rnn.bias_hh_l1_reverse", 0, "out"] == [1, 11, 21, 31]
    assert members["rnn.weight_hh_l0_reverse", 1, "in"] == [1]
    assert members["rnn.weight_ih_l1", 1, "in"] == members["leave.weight", 1, "in"] == [1, 11]
    assert len(members) == 4 * 4 + 4 + 2 + 1  # rows of four tensors in four, columns of hh in four, of ih in two, leave


def test_costs_by_hand():
    model, x = Classifier(nn.GRU, num_layers=2), torch.randn(X)
    space = trace(model, x)
    # 4 channels in, 5 hidden units, 6 channels behind; 7 steps; three gates in each of two layers
    widths = (4, 5, 6)
    macs = 7 * (5 * 4 + 3 * 5 * (4 + 5) + 3 * 5 * (5 + 5)) + 5 * 6 + 6 * 3
    weights = 5 * 4 + 4 + 15 * (4 + 5 + 2) + 15 * (5 + 5 + 2) + 5 * 6 + 6 + 6 * 3 + 3
    assert Macs(space)(widths) == macs
    pruned = prune(model, space, [np.arange(w) for w in widths])
    assert Params(space)(widths) == sum(p.numel() for p in pruned.parameters()) == weights


def packed(net, x):
    lengths = torch.tensor([5, 7])
    answer, _ = net.rnn(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    return pad_packed_sequence(answer, batch_first=True)[0].mean(1)


def zeros(net, x):
    """The state to begin with, as wide as an attribute says."""
    return torch.zeros(net.depth, len(x), net.hidden, dtype=x.dtype)


@pytest.mark.parametrize(("kind", "read", "options"), [
    (nn.LSTM, lambda net, x: net.rnn(x)[1][0][-1], {"num_layers": 2}),
    (nn.GRU, lambda net, x: torch.cat([*net.rnn(x)[1][-2:]], -1), {"bidirectional": True, "wide": 20}),
    (nn.LSTM, lambda net, x: net.rnn(x, (zeros(net, x), zeros(net, x)))[1][1][-1], {"num_layers": 2}),
    (nn.RNN, lambda net, x: net.rnn(input=x, hx=zeros(net, x))[0][:, 0], {"nonlinearity": "relu"}),
    (nn.GRU, lambda net, x: net.rnn(x.transpose(0, 1))[0][-1], {"batch_first": False}),
    (nn.LSTM, packed, {}),
], ids=["last-state", "both-directions", "begun", "keyword", "time-first", "packed"])  # fmt: skip
def test_however_it_is_called(law, kind, read, options):
    model, x = Classifier(kind, read, **options), torch.randn(X)
    space = law(model, x)
    assert sizes(space) == FREE
    assert not reasons(space)
    pruned = examine(model, space, x, exported=read is not packed)
    assert pruned.hidden == pruned.rnn.hidden_size or read is packed or "zeros" not in read.__code__.co_names


class Translator(nn.Module):
    """The decoder begins with the state in which the encoder ends."""

    def __init__(self):
        super().__init__()
        self.words, self.encoder, self.decoder = nn.Embedding(11, 6), nn.GRU(6, 8, 2), nn.GRU(6, 8, 2)
        self.head = nn.Linear(8, 11)

    def forward(self, x):
        words = self.words(x).transpose(0, 1)
        return self.head(self.decoder(words, self.encoder(words)[1])[0])


def test_states_that_are_handed_on_are_tied(law):
    model, x = Translator(), torch.randint(11, (2, 4))
    space = law(model, x)
    assert sizes(space) == {"words": 6, "encoder": 8}
    examine(model, space, x)


def test_a_learnt_first_state_shrinks_along(law):
    class Learnt(Classifier):
        def __init__(self):
            super().__init__(nn.GRU, lambda net, x: net.rnn(x, net.first.repeat(1, len(x), 1))[0][:, -1])
            self.first = nn.Parameter(torch.randn(1, 1, 10))

    model, x = Learnt(), torch.randn(X)
    space = law(model, x)
    assert sizes(space) == FREE
    assert ("first", 2) in {(m.tensor, m.axis) for m in space.groups[1].members}
    examine(model, space, x)


def test_what_cannot_shrink_is_said(law):
    fixed = Classifier(nn.RNN, lambda net, x: net.rnn(x, torch.zeros(1, len(x), 10, dtype=x.dtype))[0][:, -1])
    assert reasons(law(fixed, torch.randn(X))) == {"rnn": "the state that 'rnn' begins with has a fixed size"}
    projected = Classifier(nn.LSTM, wide=4, proj_size=4)
    space = trace(projected, torch.randn(X))
    assert sizes(space) == {"enter": 6, "leave": 8}
    assert "projected" in reasons(space)["rnn"]


class Unrolled(nn.Module):
    """A cell that is called once for each step."""

    def __init__(self, kind, begun=True):
        super().__init__()
        self.enter, self.cell, self.out = nn.Linear(5, 6), kind(6, 10), nn.Linear(10, 3)
        self.hidden, self.begun = 10, begun

    def forward(self, x):
        x, state = self.enter(x), None
        if self.begun:
            state = x.new_zeros(len(x), self.hidden)
            state = (state, state) if isinstance(self.cell, nn.LSTMCell) else state
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.out(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("begun", [True, False])
def test_cells_shrink(law, kind, begun):
    model, x = Unrolled(kind, begun), torch.randn(X)
    space = law(model, x)
    assert sizes(space) == {"enter": 6, "cell": 10}
    pruned = examine(model, space, x)
    assert pruned.cell.hidden_size == pruned.cell.weight_hh.shape[1] < 10
    assert (pruned.hidden < 10) == begun


@pytest.mark.parametrize("model", [Classifier(nn.GRU, num_layers=2), Unrolled(nn.LSTMCell)], ids=["layers", "cell"])
def test_wrong_maps_are_noticed(model, mutants):
    x = torch.randn(X)
    for group, wrong in mutants(trace(model, x), range(8)):
        if group != "leave":
            with pytest.raises(VerificationError):
                verify(model, wrong, x, seeds=(0,))


def test_other_recurrences_are_frozen(law):
    class Own(nn.GRU):
        def forward(self, x):
            return super().forward(x)[0] * self.hidden_size

    net = nn.Sequential(nn.Linear(5, 6), Own(6, 10), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))
    assert reasons(law(net, torch.randn(X))) == {"0": "it computes something of its own on packed gates ('1')"}
