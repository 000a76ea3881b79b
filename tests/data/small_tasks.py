"""A tiny network and data made in seconds for each kind of task."""

import torch
from torch import nn
from torch.nn import functional as F

from autoprune import tasks


def split(pair, *counts):
    """The samples in parts of so many."""
    found, start = [], 0
    for count in counts:
        found.append(tuple(tasks.mapped(lambda t, a=start, n=count: t[a : a + n], part) for part in pair))
        start += count
    return found


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def conv(into, out, **more):
    return nn.Sequential(nn.Conv2d(into, out, 3, padding=1, **more), nn.BatchNorm2d(out), nn.ReLU())


class UNet(nn.Module):
    """Down, up and a skip."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 16, stride=2), conv(24, 8)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        a = self.a(x)
        b = F.interpolate(self.b(a), scale_factor=2)
        return self.head(self.c(torch.cat([a, b], 1)))


def segmentation():
    x = noise(96, 3, 16, 16)
    y = (F.avg_pool2d(x, 5, 1, 2)[:, 0] * 6).long().clamp(2, 4) - 2
    return UNet(), tasks.Segmentation(*split((x, y), 56, 24, 16))


def regression():
    x = noise(96, 5)
    net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    return net, tasks.Regression(*split((x, x.sum(1) - x[:, 0] ** 2), 56, 24, 16), name="sums")


def keypoints():
    places = noise(96, 2) * 11 + 2
    grid = torch.stack(torch.meshgrid(torch.arange(16), torch.arange(16), indexing="xy"), -1).float()
    x = torch.exp(-((grid - places[:, None, None]) ** 2).sum(-1) / 4)[:, None]
    net = nn.Sequential(conv(1, 8), conv(8, 12, stride=2), nn.Flatten(), nn.Linear(12 * 64, 2))
    return net, tasks.Keypoints(*split((x, places[:, None]), 56, 24, 16), within=2.0)


def multi_label():
    x = noise(96, 6)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    return net, tasks.MultiLabel(*split((x, (x[:, :3] > 0.5).float()), 56, 24, 16))


class TextNet(nn.Module):
    """Called with entries of a dictionary, as networks of Hugging Face are."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.one, self.two, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 2)

    def forward(self, input_ids, attention_mask):
        x = self.embedding(input_ids)
        x = x + self.two(torch.relu(self.one(x)))
        mask = attention_mask[..., None].to(x.dtype)
        return {"logits": self.head((x * mask).sum(1) / mask.sum(1))}


def text():
    ids = torch.randint(20, (96, 7), generator=torch.Generator().manual_seed(0))
    words = {"input_ids": ids, "attention_mask": (torch.arange(7) < 4 + ids[:, :1] % 3).long()}
    return TextNet(), tasks.Text(*split((words, (ids[:, 0] > 9).long()), 56, 24, 16))


def image_to_image():
    clean = F.avg_pool2d(noise(96, 1, 18, 18), 3, 1)
    x = (clean + 0.1 * (noise(96, 1, 16, 16, seed=1) - 0.5)).clamp(0, 1)
    net = nn.Sequential(conv(1, 8), conv(8, 8), nn.Conv2d(8, 1, 3, padding=1))
    return net, tasks.ImageToImage(*split((x, clean), 56, 24, 16))


def signals():
    x, k = torch.randn(96, 2, 32, generator=torch.Generator().manual_seed(0)), torch.arange(96) % 3
    x = x * 0.3 + torch.sin(torch.arange(32) * (k[:, None] + 1) * 0.5)[:, None]
    net = nn.Sequential(
        nn.Conv1d(2, 8, 5), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 12, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(), nn.Linear(12, 3),
    )  # fmt: skip
    return net, tasks.Signals(*split((x, k), 56, 24, 16))


def tabular():
    x = noise(96, 6) * torch.tensor([1, 10, 100, 1, 1, 5])
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    return net, tasks.tabular(*split((x, (x[:, 0] > x[:, 3]).long()), 56, 24, 16))


def scenes(count, seed=0):
    """Images of different sizes, each with a bright square, but for every fifth."""
    draws, found = torch.Generator().manual_seed(seed), []
    for i in range(count):
        height, width, side, x, y = (int(n) for n in torch.randint(0, 16, (5,), generator=draws))
        image = 0.2 * torch.rand(3, 48 + height, 48 + width, generator=draws)
        side, label = 14 + side, 1 + i % 2
        image[label, y : y + side, x : x + side] += 0.7
        boxes = torch.tensor([[x, y, x + side, y + side]]).float()[: i % 5 != 4]
        found.append((image, {"boxes": boxes, "labels": torch.full((len(boxes),), label)}))
    return found


def detection():
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD

    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.ModuleList([nn.Sequential(*(conv(a, b, stride=2) for a, b in ((3, 8), (8, 8), (8, 16)))),
                                         conv(16, 16, stride=2)])  # fmt: skip
            self.out_channels = [16, 16]

        def forward(self, x):
            found = {}
            for i, stage in enumerate(self.stages):
                x = found[str(i)] = stage(x)
            return found

    boxes = DefaultBoxGenerator([[2], [2]], scales=[0.25, 0.4, 0.6])
    net = SSD(Backbone(), boxes, (64, 64), 3, detections_per_img=5, topk_candidates=20)
    return net, tasks.Detection(scenes(24), scenes(10, 1), scenes(5, 2), batch_size=4, num_classes=3)


KINDS = segmentation, regression, keypoints, multi_label, text, image_to_image, signals, tabular, detection
MADE = {f.__name__: f for f in KINDS}
