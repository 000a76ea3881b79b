"""What tasks of any kind must not be given: one sentence that names the part, before the search."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.config import RunConfig
from autoprune.runs.prepare import prepare
from autoprune.tasks import Detection, Regression, Segmentation, Task, Text

QUICK = {"criterion": "l1", "trials": 2, "finalists": 0, "epochs": 0, "warm_starts": "none", "device": "cpu"}


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


class Detector(nn.Module):
    """Of torchvision's kind: it says its own losses."""

    def __init__(self):
        super().__init__()
        self.conv, self.box, self.kind = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Linear(8, 3)

    def forward(self, images, targets=None):
        seen = [torch.relu(self.conv(image[None])).mean((0, 2, 3)) for image in images]
        if self.training and targets is not None:
            pairs = list(zip(seen, targets, strict=True))
            return {"box": sum((self.box(x) - t["boxes"].sum(0)).square().mean() for x, t in pairs),
                    "kind": sum(F.cross_entropy(self.kind(x).expand(len(t["labels"]), 3), t["labels"], reduction="sum")
                                for x, t in pairs)}  # fmt: skip
        return [{"boxes": self.box(x)[None], "labels": torch.ones(1).long(), "scores": torch.ones(1)} for x in seen]


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.hidden, self.head = nn.Embedding(20, 8), nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, input_ids):
        return self.head(torch.relu(self.hidden(self.embed(input_ids).mean(1))))


def masker():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))


def masks(classes=3, size=8):
    return torch.rand(8, 3, 8, 8), torch.randint(classes, (8, size, size)).clamp(min=0)


def item(boxes=((1, 1, 5, 5),), labels=(1,), image=None):
    target = {"boxes": torch.tensor(boxes).float().reshape(-1, 4), "labels": torch.tensor(labels).long()}
    return torch.rand(3, 16, 16) if image is None else image, target


def texts(classes=2, first=0):
    return {"input_ids": torch.randint(20, (8, 5)) + first}, torch.arange(8) % classes


def numbers(inputs=6, targets=2):
    return torch.randn(8, inputs), torch.randn(8, targets)


def each(kind, train, val=None, **settings):
    return lambda: kind(train, train if val is None else val, **settings)


def loaders(loss, train, val, **settings):
    return lambda: Task.of([train], [val], loss=loss, **settings)


NAN = float("nan")
KINDS = {
    "masks of another size": (masker, each(Segmentation, masks(size=6)), "train: expected images .* of the same size"),
    "masks beyond the head": (masker, each(Segmentation, masks(7)), r"expected outputs \[N, 7, 8, 8\]"),
    "masks beyond the classes": (masker, each(Segmentation, masks(), masks(9)), "val: masks run from 0 to 2"),
    "masks of nothing": (masker, each(Segmentation, (masks()[0], masks()[1] * 0 + 255)), "tell of no class but one"),
    "given masks beyond": (masker, loaders(F.cross_entropy, masks(), masks(9)), "loss failed on .*; of val, a batch"),
    "score NaN": (masker, loaders(F.cross_entropy, masks(), masks(), metrics={"m": lambda a, b: a.mean() * NAN}),
                  "val: metric 'm' of the dense network is NaN"),
    "given boxes outside": (Detector, loaders(None, *[tuple(map(list, zip(item(((1, 1, 50, 5),)), strict=True)))] * 2),
                            "train: image 0 of a batch has a box outside of its 16 x 16 pixels"),
    "no pair": (Detector, each(Detection, [torch.rand(3, 16, 16)]), "train: image 0: must be a pair"),
    "target no dictionary": (Detector, each(Detection, [item(), (item()[0], [1])]), "train: image 1: must be a pair"),
    "no labels": (Detector, each(Detection, [(item()[0], {"boxes": torch.zeros(1, 4)})]), '"labels" must be class'),
    "labels that are numbers": (Detector, each(Detection, [(item()[0], {**item()[1], "labels": torch.ones(1)})]),
                                r'"labels" must be class numbers \(integers\) \[n\], got torch.float32 \[1\]'),
    "boxes outside": (Detector, each(Detection, [item(((1, 1, 50, 5),))]), "image 0: has a box outside of its 16 x 16"),
    "box NaN": (Detector, each(Detection, [item(((1, NAN, 5, 5),))]), "holds NaN"),
    "bytes as floats": (Detector, each(Detection, [item(image=torch.full((3, 16, 16), 255.0))]), "divide bytes by 255"),
    "no objects at all": (Detector, each(Detection, [item((), ())]), "train: no image has an object"),
    "labels beyond the head": (Detector, each(Detection, [item(labels=(9,))]), "loss: failed on a batch .*out of bou"),
    "labels beyond those of train": (Detector, each(Detection, [item()], [item(labels=(2,))]), "val: image 0: has the"),
    "classes beyond the head": (Reader, each(Text, texts(4)), "expected one output per class, 4"),
    "words beyond the table": (Reader, loaders(F.cross_entropy, texts(), texts(first=90)),
                               "val: a batch .* does not fit the network or the loss: IndexError"),
    "more inputs in val": (network, each(Regression, numbers(), numbers(inputs=5)), "val: a batch .* does not fit"),
    "more targets in val": (network, each(Regression, numbers(), numbers(targets=3)), "val: a batch .* does not fit"),
    "targets NaN": (network, each(Regression, (numbers()[0], numbers()[1] * NAN)), "train: holds NaN"),
}  # fmt: skip


@pytest.mark.parametrize(("net", "make", "said"), KINDS.values(), ids=KINDS)
def test_what_no_kind_of_task_can_use_is_refused_before_the_search(net, make, said):
    with pytest.raises(ValueError, match=said) as error:
        prepare(RunConfig.make(**QUICK), net().eval(), make())
    assert "\n" not in str(error.value)
    assert "model" in str(error.value) or "task" in str(error.value)


def test_images_without_an_object_are_taken_among_others():
    found = Detection([item(), item((), ())] * 2, [item(), item((), ())])
    assert prepare(RunConfig.make(**QUICK), Detector().eval(), found).task is not None
