"""Detectors as ONNX: one image of any size in, as many detections out as there are."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.detectors import difference, images_of
from autoprune.formats import check_network, to_onnx


class Spots(nn.Module):
    """A box around each bright pixel of an image."""

    def __init__(self, names=("boxes", "labels", "scores")):
        super().__init__()
        self.conv, self.names = nn.Conv2d(3, 1, 3, padding=1), names

    def forward(self, images: list[Tensor]):
        found = []
        for image in images:
            heat = self.conv(image[None])[0, 0].sigmoid()
            rows, columns = torch.nonzero(heat > 0.55, as_tuple=True)
            corner = torch.stack([columns, rows], 1).float()
            said = torch.cat([corner - 1, corner + 1], 1), torch.ones_like(rows), heat[rows, columns]
            found.append(dict(zip(self.names, said, strict=True)))
        return found


def detections(order=(0, 1, 2), scores=(0.9, 0.5, 0.1), shift=0.0, labels=(1, 2, 1)):
    boxes = torch.tensor([[0, 0, 10, 10], [20, 20, 40, 40], [5, 50, 60, 100]]).float() + shift
    found = {"boxes": boxes, "labels": torch.tensor(labels), "scores": torch.tensor(scores)}
    return {name: values[list(order)] for name, values in found.items()}


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (detections(), 0.0),
        (detections(order=(2, 0, 1)), 0.0),  # a set has no order
        (detections(scores=(0.9, 0.5, 0.11)), 0.01),
        (detections(shift=0.5), 0.5 / 100.5),  # half a pixel of the largest coordinate
        (detections(labels=(2, 2, 1)), np.inf),
        (detections(shift=30), np.inf),
    ],
    ids=["same", "order", "score", "boxes", "label", "other boxes"],
)
def test_how_far_two_sets_are_apart(other, expected):
    found = difference([v.numpy() for v in other.values()], detections())
    assert found > 0.1 if np.isinf(expected) else found == pytest.approx(expected, abs=1e-6)


def test_of_equal_scores_either_may_be_cut_off():
    """Three candidates, places for two: each program keeps another one of the two that tie for the last place."""
    tied = detections(scores=(0.9, 0.1, 0.1), labels=(1, 1, 1))
    one, other = ({name: values[keep] for name, values in tied.items()} for keep in ([0, 1], [0, 2]))
    assert difference([v.numpy() for v in one.values()], other) == 0
    assert difference([v.numpy() for v in detections(scores=(0.8, 0.1, 0.1)).values()], tied) > 0.05


def test_a_detector_is_written_and_takes_images_of_other_sizes(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    net, image = Spots().eval(), torch.rand(3, 12, 16)
    check_network(net, ([image],), onnx=True, pt2=False)
    assert to_onnx(net, ([image],), tmp_path / "model.onnx", {"input": {"mean": [0]}})["onnx_max_difference"] < 1e-5
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    assert session.get_modelmeta().custom_metadata_map == {"input.mean": "[0]"}
    other = torch.rand(3, 20, 9)
    found = session.run(["boxes", "labels", "scores"], {"image": other.numpy()})
    with torch.no_grad():
        assert difference(found, net([other])[0]) < 1e-5
    assert len(found[0]) > 0


def test_what_cannot_be_written_says_why(tmp_path):
    pytest.importorskip("onnxruntime")
    image = torch.rand(3, 8, 8)
    with pytest.raises(ValueError, match=r"--pt2: .*torch.export cannot follow a network whose detections are as many"):
        check_network(Spots().eval(), ([image],), onnx=True, pt2=True)
    with pytest.raises(ValueError, match=r"--onnx: .*that answer a list of dictionaries"):
        check_network(Lists(), ([image],), onnx=True, pt2=False)


class Lists(nn.Module):
    """Answers with a tensor."""

    def forward(self, images):
        return images[0].mean()


@pytest.mark.parametrize("example", [torch.zeros(1), (torch.zeros(1),), {"x": torch.zeros(1)}, ([],), ([1],)])
def test_what_is_no_list_of_images(example):
    assert images_of(example) is None
