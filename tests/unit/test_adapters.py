"""The registry of adapters, and what a newcomer writes."""

import numpy as np
import pytest
import torch
from duties import examine
from torch import nn

import autoprune
from autoprune.exporting import export, read_architecture
from search_spaces import adapters, prune, trace
from search_spaces.adapters import Adapter, adapter_of
from search_spaces.companions import along
from search_spaces.graph import operator_name


class Scale(nn.Module):
    """A module that compares what it is given with a number of its own."""

    def __init__(self, width):
        super().__init__()
        self.width, self.scale = width, nn.Parameter(torch.randn(width))

    def forward(self, x):
        if x.shape[-1] - self.width:
            raise ValueError("wrong width")
        return x * self.scale


class ScaleAdapter(Adapter):
    """The example in the package's docstring."""

    def handles(self, module):
        return type(module).__name__ == "Scale"

    def trace(self, rec, call):
        ids = rec.register(call.within("scale"), 0, rec.read(call.args[0], -1), "norm")
        rec.set(call.output, along(ids, -1, call.output.shape))

    def fit(self, module, cut):
        module.width = len(module.scale)


@pytest.fixture
def registered():
    before = list(adapters.ADAPTERS)
    adapters.register(ScaleAdapter())
    yield
    adapters.ADAPTERS[:] = before


def test_one_from_outside(registered, law):
    model, x = nn.Sequential(nn.Linear(5, 8), Scale(8), nn.Linear(8, 3)), torch.randn(2, 5)
    space = law(model, x)
    assert {g.name: g.size for g in space.groups} == {"0": 8}
    examine(model, space, x)
    assert prune(model, space, [np.arange(3)])[1].width == 3


def test_a_mistake_in_one_is_not_laid_to_the_inputs(monkeypatch, registered):
    model = nn.Sequential(nn.Linear(5, 8), Scale(8), nn.Linear(8, 3))
    monkeypatch.setattr(ScaleAdapter, "trace", lambda self, rec, call: rec.channels.union())
    with pytest.raises(ValueError, match=r"takes these inputs, but fails while it is traced \(in '1'\): Attr"):
        trace(model, torch.zeros(1, 5))
    with pytest.raises(ValueError, match=r"shape \(1, 6\) do not fit Sequential \(in '0'\): RuntimeError"):
        trace(model, torch.zeros(1, 6))


def test_an_export_asks_for_the_adapters_that_it_was_pruned_with(registered, tmp_path):
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), Scale(8), nn.LSTM(8, 3))

    model, x = make().eval(), torch.randn(2, 5)
    space = trace(model, x)
    kept = [np.arange(3) for _ in space.groups]
    small = prune(model, space, kept)
    export(tmp_path / "best", small, space=space, kept=kept)
    adapters_told = read_architecture(tmp_path / "best")["adapters"]
    assert adapters_told == {"1": f"{__name__}:ScaleAdapter"}  # that of an LSTM is always there
    torch.testing.assert_close(autoprune.load(tmp_path / "best", make)(x)[0], small(x)[0])
    adapters.ADAPTERS.pop(0)
    with pytest.raises(
        ValueError, match=r"best': its '1' was pruned with the adapter '.*:ScaleAdapter', which is not re"
    ):
        autoprune.load(tmp_path / "best", make)


def test_what_stands_in_a_reason_is_called_by_its_kind():
    assert [operator_name(x) for x in (ScaleAdapter(), Scale(2), torch.ops.aten.mul_.Tensor, torch.relu_)] == [
        "ScaleAdapter", "Scale", "mul", "relu"
    ]  # fmt: skip


def test_without_it_the_module_is_frozen():
    model = nn.Sequential(nn.Linear(5, 8), Scale(8), nn.Linear(8, 6), nn.Linear(6, 3))
    assert {g.name for g in trace(model, torch.randn(2, 5)).groups} == {"2"}


def test_each_kind_has_one_adapter_and_plain_layers_have_none():
    for module in (nn.Linear(2, 2), nn.Conv2d(2, 2, 1), nn.LayerNorm(2), nn.Sequential()):
        assert adapter_of(module) is None
    norms = nn.utils.parametrizations
    kinds = [
        nn.MultiheadAttention(4, 2), nn.LSTM(2, 2), nn.GRUCell(2, 2), nn.Transformer(4, 2, 1, 1, 4, batch_first=True),
        norms.weight_norm(nn.Linear(2, 2)), norms.spectral_norm(nn.Linear(2, 2)),
    ]  # fmt: skip
    for module in kinds:
        assert sum(adapter.handles(module) for adapter in adapters.ADAPTERS) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The tensor attributes .*_flat_weights")  # torch says so of nn.GRU in general
@pytest.mark.parametrize("kind", ["attention", "recurrence", "weights"])
def test_pruned_networks_become_onnx(kind, tmp_path):
    pytest.importorskip("onnxscript")
    from autoprune.formats import to_onnx
    from search_spaces.verify import random_kept

    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 4, 20, batch_first=True), 1)
    recurrence = nn.GRU(8, 6, 2, batch_first=True, bidirectional=True)
    sequence, image = torch.randn(2, 7, 5), torch.randn(2, 3, 8, 8)

    class Last(nn.Module):
        def forward(self, found):
            return found[0][:, -1]

    model, x = {
        "attention": (nn.Sequential(nn.Linear(5, 8), encoder, nn.Linear(8, 3)), sequence),
        "recurrence": (nn.Sequential(nn.Linear(5, 8), recurrence, Last(), nn.Linear(12, 3)), sequence),
        "weights": (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Conv2d(8, 4, 1)),
            image,
        ),
    }[kind]  # fmt: skip
    space = trace(model.eval(), x)
    pruned = prune(model, space, random_kept(space, np.random.default_rng(0))).eval()
    assert to_onnx(pruned, x, tmp_path / "model.onnx")["onnx_max_difference"] < 1e-5
