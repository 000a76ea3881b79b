"""Small networks on a few random images, to be evaluated here and on another device."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from autoprune.data import ImageData, Split
from autoprune.evaluation import EvaluationSettings, Evaluator
from search_spaces import trace

SOME = EvaluationSettings(bn_samples=48, fit_samples=32, val_samples=64, short_steps=4, batch_size=16, amp="off")


def images(count, size=8, channels=3):
    pixels = np.random.default_rng(count).integers(0, 256, (count, channels, size, size), dtype=np.uint8)
    labels = np.random.default_rng(1).integers(0, 10, count)
    return Split(torch.from_numpy(pixels), torch.from_numpy(labels))


def data():
    return ImageData(images(200), images(80), images(0), (0.5,) * 3, (0.25,) * 3, tuple("0123456789"))


@cache
def traced(make):
    with torch.random.fork_rng(devices=[]):  # every process has the same one
        torch.manual_seed(0)
        net = make().eval()
    return net, trace(net, data().example)


def evaluator(make, found, device, settings=SOME):
    net, space = traced(make)
    scores = tuple(np.random.default_rng(i).random(g.size) for i, g in enumerate(space.groups))
    return Evaluator(net, found, space, scores, replace(settings, device=device)), space
