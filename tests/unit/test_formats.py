"""Files of other programs take any batch, however the network is called; where its code fixes it, that is said."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from autoprune.exporting import export, fixed_batch, read_architecture
from autoprune.formats import check_network, to_onnx, to_torch_export
from search_spaces import trace

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'autoprune[onnx]'")


class ByName(nn.Module):
    """Called as networks of Hugging Face are."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask[..., None].float()
        return {"logits": self.head((self.words(input_ids) * mask).sum(1) / mask.sum(1))}


class AnyNumber(nn.Module):
    """Takes as many inputs as there are, beside one with a name."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, first, *others):
        return self.head(first + sum(others))


class Fixed(AnyNumber):
    """Its own code knows one batch size."""

    def forward(self, first):
        return self.head(first.reshape(2, -1))


def inputs(kind, batch):
    if kind is ByName:
        return {"input_ids": torch.randint(9, (batch, 5)), "attention_mask": torch.ones(batch, 5, dtype=torch.long)}
    return tuple(torch.rand(batch, 4) for _ in range(3 if kind is AnyNumber else 1))


@pytest.mark.parametrize("kind", [ByName, AnyNumber])
@pytest.mark.parametrize("traced", [1, 2])
def test_any_batch_however_it_is_called(kind, traced, tmp_path):
    net = kind().eval()
    assert "onnx_batch" not in to_onnx(net, inputs(kind, traced), tmp_path / "net.onnx")
    given = inputs(kind, 7)
    expected = net(**given)["logits"] if kind is ByName else net(*given)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    values = list(given.values()) if kind is ByName else list(given)
    feed = {i.name: v.numpy() for i, v in zip(session.get_inputs(), values, strict=True)}
    torch.testing.assert_close(torch.from_numpy(session.run(None, feed)[0]), expected.detach())
    assert {i.shape[0] for i in session.get_inputs()} == {"batch"}
    to_torch_export(net, inputs(kind, traced), tmp_path / "net.pt2")
    found = torch.export.load(tmp_path / "net.pt2").module()(*values)
    torch.testing.assert_close(found["logits"] if kind is ByName else found, expected)


class Counted(AnyNumber):
    """Its loop fixes the batch of a program, at whatever it is exported with (`len` alone: not with PyTorch 2.7)."""

    def __init__(self):
        super().__init__()
        self.body, self.token = nn.Linear(4, 4), nn.Parameter(torch.rand(1, 3))

    def forward(self, first):
        return self.head(self.body(first).relu()) + torch.cat([self.token for _ in range(len(first))])


@pytest.mark.parametrize(
    ("kind", "given", "asked", "size"),
    [(Fixed, 2, None, 2), (Fixed, 1, None, 2), (Counted, 1, None, 1), (Counted, 3, None, 3), (Counted, 1, 16, 16)],
)
def test_a_fixed_batch_is_what_it_is_run_with_and_said(kind, given, asked, size, tmp_path):
    net = kind().eval()
    assert to_onnx(net, inputs(kind, given), tmp_path / "net.onnx", batch=asked)["onnx_batch"] == size
    (axis, _) = onnx.load(str(tmp_path / "net.onnx")).graph.input[0].type.tensor_type.shape.dim
    assert axis.dim_value == size
    to_torch_export(net, inputs(kind, given), tmp_path / "net.pt2", batch=asked)
    values = inputs(kind, size)
    torch.testing.assert_close(torch.export.load(tmp_path / "net.pt2").module()(*values), net(*values))


def test_the_fixed_batch_of_an_export_is_that_of_its_latency(tmp_path):
    net, example = Counted().eval(), inputs(Counted, 1)
    space = trace(net, example)
    both = {"dense": 1.0, "pruned": 1.0}
    costs = {"macs": both, "latency@onnxruntime,batch=8,threads=1": both}
    export(tmp_path / "best", net, space=space, kept=(np.arange(4),), costs=costs, example_inputs=example, onnx=True)
    assert read_architecture(tmp_path / "best")["onnx_batch"] == 8
    assert fixed_batch(tmp_path / "best").startswith("model.onnx takes batches of 8 only")
    (tmp_path / "best" / "model.onnx").unlink()
    assert not fixed_batch(tmp_path / "best")


@torch.library.custom_op("tests::without_onnx", mutates_args=())
def without_onnx(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + x.abs())


@without_onnx.register_fake
def _(x):
    return torch.empty_like(x)


def test_what_onnx_does_not_know_is_named():
    class Own(nn.Module):
        def forward(self, x):
            return torch.ops.tests.without_onnx(x)

    with pytest.raises(ValueError, match=r"--onnx: this network cannot be written \(.*tests\.without_onnx.*\); change"):
        check_network(Own(), torch.zeros(1, 3), onnx=True, pt2=False)
