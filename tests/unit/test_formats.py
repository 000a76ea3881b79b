"""Files of other programs take any batch, however the network is called; where its code fixes it, that is said."""

import onnx
import pytest
import torch
from torch import nn

from autoprune.formats import to_onnx, to_torch_export

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


def test_a_fixed_batch_is_said(tmp_path):
    assert to_onnx(Fixed().eval(), inputs(Fixed, 2), tmp_path / "net.onnx")["onnx_batch"] == 2
    (axis, _) = onnx.load(str(tmp_path / "net.onnx")).graph.input[0].type.tensor_type.shape.dim
    assert axis.dim_value == 2
