"""nn.RNN, nn.LSTM, nn.GRU: hidden units go, with their rows and columns of all gates."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from search_spaces.adapters.adapter import Adapter, Call, Cut
from search_spaces.companions import along
from search_spaces.recorder import Recorder

GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "GRU": 3, "LSTM": 4}
LAYERS = (nn.RNN, nn.LSTM, nn.GRU)
LAYER = inspect.signature(nn.RNN.forward)
CELLS = {nn.RNNCell: 1, nn.GRUCell: 3, nn.LSTMCell: 4}
CELL = inspect.signature(nn.GRUCell.forward)


class RecurrentAdapter(Adapter):
    """Hidden units of all layers and both directions together: nn.LSTM knows one size for all of them.

    One unit is its row in every gate (input to hidden, hidden to hidden, biases) and its column in every matrix that
    reads the hidden state, the next layer's included. Projected LSTMs (Sak et al. 2014, arxiv.org/abs/1402.1128) keep
    their sizes: cuDNN wants the projection smaller than the hidden state, which no width can promise.
    """

    def handles(self, module: nn.Module) -> bool:
        """Subclasses may compute something else; so may weights that are no parameters (weight drop)."""
        return type(module) in LAYERS and all(name in module._parameters for name in module._flat_weights_names)  # type: ignore[union-attr, operator]

    def trace(self, rec: Recorder, call: Call) -> None:
        """See `Adapter.trace`."""
        module: Any = call.module
        given = LAYER.bind(module, *call.args, **call.kwargs).arguments
        x = _values(given["input"])
        read = rec.read(x, -1)
        gates = GATES[module.mode]
        hidden = units(rec, call.within("weight_ih_l0"), gates, module.hidden_size)
        state = hidden
        if module.proj_size:
            state = rec.makes(call.within("weight_hr_l0"), 0, module.proj_size)
            for ids in (hidden, state):
                rec.freeze(ids, f"the hidden state of {rec.where} is projected to a size that must stay below its own")
        steps = x.numel() / x.shape[-1] / rec.batch
        for suffixes in _suffixes(module):
            for suffix in suffixes:
                made = gated(rec, call, suffix, gates, hidden, read, state)
                rec.multiplies("linear", kernel=1, pixels=steps, reads=read, makes=made)
                rec.multiplies("linear", kernel=1, pixels=steps, reads=state, makes=made)
                if module.proj_size:
                    name = call.within(f"weight_hr{suffix}")
                    rec.register(name, 1, hidden, "in")
                    rec.register(name, 0, state, "out")
                    rec.multiplies("linear", kernel=1, pixels=steps, reads=hidden, makes=state)
            read = state.repeat(len(suffixes))
        output, states = call.output
        rec.set(_values(output), along(read, -1, _values(output).shape))
        for first, ids in zip(_pair(given.get("hx")), (state, hidden), strict=False):
            begins_with(rec, first, ids)
        for answered, ids in zip(_pair(states), (state, hidden), strict=False):
            rec.set(answered, along(ids, -1, answered.shape))

    def fit(self, module: nn.Module, cut: Cut) -> None:
        """See `Adapter.fit`."""
        net: Any = module
        net.input_size = net.weight_ih_l0.shape[1]
        net.hidden_size = len(net.weight_ih_l0) // GATES[net.mode]
        net.flatten_parameters()  # one block of memory, as cuDNN wants it; on the CPU it does nothing


def units(rec: Recorder, name: str, gates: int, size: int) -> Tensor:
    """The ids of the hidden units, [hidden]: those of the first gate's rows."""
    rows = rec.makes(name, 0, gates * size).reshape(gates, size)
    rec.channels.unite(rows[:1].expand_as(rows), rows, "")
    return rows[0]


def gated(rec: Recorder, call: Call, suffix: str, gates: int, hidden: Tensor, read: Tensor, state: Tensor) -> Tensor:
    """Register the matrices and biases of one layer or cell; the ids of all its gates, [gates * hidden]."""
    made = hidden.repeat(gates)
    for side, ids in (("ih", read), ("hh", state)):
        rec.register(call.within(f"weight_{side}{suffix}"), 1, ids, "in")
        rec.register(call.within(f"weight_{side}{suffix}"), 0, made, "out")
        if call.tensor(f"bias_{side}{suffix}") is not None:
            rec.register(call.within(f"bias_{side}{suffix}"), 0, made, "out")
    return made


def begins_with(rec: Recorder, first: Tensor | None, ids: Tensor) -> None:
    """The state that the code begins with has the channels of the hidden state."""
    if first is not None:
        why = f"the state that {rec.where} begins with has a fixed size"
        rec.channels.unite(ids, rec.read(first, -1, why), why)


def _suffixes(module: Any) -> Iterator[list[str]]:
    """Of the names of each layer's parameters, one for each direction."""
    for layer in range(module.num_layers):
        yield [f"_l{layer}{end}" for end in ("", "_reverse")[: 1 + module.bidirectional]]


def _values(sequence: Tensor | PackedSequence) -> Tensor:
    return sequence.data if isinstance(sequence, PackedSequence) else sequence


def _pair(states: Any) -> tuple[Any, ...]:
    """(hidden,) or (hidden, cell); empty without."""
    return () if states is None else tuple(states) if isinstance(states, (tuple, list)) else (states,)


class CellAdapter(Adapter):
    """The same of nn.RNNCell, nn.LSTMCell, nn.GRUCell, which do one step."""

    def handles(self, module: nn.Module) -> bool:
        """Subclasses may compute something else."""
        return type(module) in CELLS and "weight_ih" in module._parameters and "weight_hh" in module._parameters

    def trace(self, rec: Recorder, call: Call) -> None:
        """See `Adapter.trace`."""
        module: Any = call.module
        given = CELL.bind(module, *call.args, **call.kwargs).arguments
        gates = CELLS[type(module)]
        read = rec.read(given["input"], -1)
        hidden = units(rec, call.within("weight_ih"), gates, module.hidden_size)
        made = gated(rec, call, "", gates, hidden, read, hidden)
        states = _pair(call.output)
        steps = states[0].numel() / len(hidden) / rec.batch
        for ids in (read, hidden):
            rec.multiplies("linear", kernel=1, pixels=steps, reads=ids, makes=made)
        for first in _pair(given.get("hx")):
            begins_with(rec, first, hidden)
        for answered in states:
            rec.set(answered, along(hidden, -1, answered.shape))

    def fit(self, module: nn.Module, cut: Cut) -> None:
        """See `Adapter.fit`."""
        cell: Any = module
        cell.input_size, cell.hidden_size = cell.weight_ih.shape[1], cell.weight_hh.shape[1]
