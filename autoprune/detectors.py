"""Networks that take a list of images of any sizes (torchvision's detectors) as ONNX: one image in, its detections out.

How many detections there are depends on the image, which torch.export cannot follow; PyTorch's exporter by tracing can.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces import copy_of

SAME = 1e-2  # of the largest box: two detections nearer than that are the same one
TIE = 2e-6  # scores nearer than that are in an order of no meaning


def images_of(example_inputs: Any) -> list[Tensor] | None:
    """The images of a list, where a network is called with one and nothing else; None: it is called otherwise."""
    given = example_inputs
    if isinstance(given, (tuple, list)) and len(given) == 1 and isinstance(given[0], list):
        given = given[0]
        if given and all(isinstance(image, Tensor) for image in given):
            return given
    return None


class OneImage(nn.Module):
    """A network of a list of images as one of a single image.

    Args:
        model: Answers a list of dictionaries, one for each image.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Its detections, by name: boxes [D, 4], labels [D], scores [D] ...

        Raises:
            ValueError: If the network answers otherwise.
        """
        found = self.model([image])
        if not (isinstance(found, list) and len(found) == 1 and isinstance(found[0], Mapping)):
            raise ValueError("of a network that takes a list of images, only those are written that answer a list of "
                             "dictionaries, as torchvision's detectors do; use autoprune.load")  # fmt: skip
        return dict(found[0])


def write_onnx(model: nn.Module, image: Tensor, file: Any) -> tuple[tuple[Tensor], dict[str, Tensor]]:
    """Write an ONNX file with the input "image" [3, height, width] and an output for each name of the detections.

    Args:
        model: As torchvision's detectors.
        image: [3, H, W] of 0..1; those of other sizes may be given to the file, too.
        file: A path, or something to write to.

    Returns:
        The image, and what torch answers.
    """
    net, image = OneImage(copy_of(model).cpu().eval()), image.cpu()
    with torch.no_grad():
        expected = net(image)
    axes = {"image": {1: "height", 2: "width"}, **{name: {0: "detections"} for name in expected}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: what it takes for a constant, and that it is the older way
        torch.onnx.export(
            net, (image,), str(file) if isinstance(file, Path) else file, dynamo=False,
            do_constant_folding=False, input_names=["image"], output_names=[*expected], dynamic_axes=axes,
        )  # fmt: skip
    return (image,), expected


def difference(found: Sequence[NDArray[Any]], expected: Mapping[str, Tensor]) -> float:
    """The largest difference of two sets of detections, boxes relative to the largest coordinate.

    Each detection is compared with the nearest of its label in the other set. Those whose scores are equal to float
    precision come in any order, and some of them are cut off or suppressed in one set only: they need no partner.

    Args:
        found: Of another program, in the order of `expected`.
        expected: Of torch: "boxes" [D, 4], "labels" [D], "scores" [D].
    """
    names = [*expected]
    if not {"boxes", "labels", "scores"} <= set(names):
        return _plain(found, [t.numpy() for t in expected.values()])
    one = {name: values.astype(np.float64) for name, values in zip(names, found, strict=True)}
    other = {name: values.numpy().astype(np.float64) for name, values in expected.items()}
    size = max(1.0, *(float(np.abs(d["boxes"]).max(initial=0.0)) for d in (one, other)))
    count = min(len(one["scores"]), len(other["scores"]))
    scores = [np.sort(d["scores"])[::-1][:count] for d in (one, other)]
    worst = float(np.abs(scores[0] - scores[1]).max(initial=0.0))
    apart = np.abs(one["boxes"][:, None] - other["boxes"][None]).max(2, initial=0.0) / size
    apart = np.maximum(apart, np.abs(one["scores"][:, None] - other["scores"][None]))
    apart[one["labels"][:, None] != other["labels"][None]] = np.inf
    for mine, distances in ((one, apart), (other, apart.T)):
        nearest = distances.min(1, initial=np.inf)
        nearest = nearest[(nearest <= SAME) | ~_tied(mine["scores"])]
        worst = max(worst, float(nearest.max(initial=0.0)))
    return worst


def _tied(scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each is as high as another one, or as the last one that was not cut off."""
    near = np.abs(scores[:, None] - scores[None]) <= TIE
    tied: NDArray[np.bool_] = (near.sum(1) > 1) | (scores <= scores.min(initial=np.inf) + TIE)
    return tied


def _plain(found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float:
    if any(f.shape != e.shape for f, e in zip(found, expected, strict=True)):
        return float("inf")
    return max(float(np.abs(f.astype(float) - e).max(initial=0.0)) for f, e in zip(found, expected, strict=True))
