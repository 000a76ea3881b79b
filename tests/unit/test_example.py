"""Whether the network could be run on --input here, asked before it is tried."""

import pytest
import torch
from torch import nn

from autoprune import data
from autoprune.config import RunConfig
from autoprune.runs import example as module
from autoprune.runs.example import example_of
from autoprune.tasks import Classification
from search_spaces.models import digits_cnn


def asked(monkeypatch, model, shape, memory):
    monkeypatch.setattr(module, "memory", lambda: memory)
    monkeypatch.setattr(module, "SMALL", 0)
    return example_of(RunConfig(input=shape), Classification(data.load("digits")), model)


def test_what_the_largest_operation_makes_counts(monkeypatch):
    model = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 4, 1))
    needed = 2 * 4 * 32 * 100 * 100  # reads and makes float32 [1, 32, 100, 100]
    assert asked(monkeypatch, model, "1x1x100x100", needed).shape == (1, 1, 100, 100)
    with pytest.raises(ValueError, match=r"input '1x1x100x100': to run the network on it takes about 0 GB"):
        asked(monkeypatch, model, "1x1x100x100", needed - 1)
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


def test_operations_of_no_module_count(monkeypatch, toy):
    model = toy(lambda s, x: x + torch.einsum("bchw,bcij->bhwij", x, x).mean())
    with pytest.raises(ValueError, match="input '1x3x30x30'"):
        asked(monkeypatch, model, "1x3x30x30", 4 * 30**4)


def test_code_that_needs_numbers_and_shapes_that_do_not_fit_are_for_the_trace(monkeypatch, toy):
    model = toy(lambda s, x: x if x.mean() > 0 else -x)  # cannot run without numbers
    assert asked(monkeypatch, model, "1x3x8x8", 10_000).shape == (1, 3, 8, 8)
    assert asked(monkeypatch, digits_cnn(), "1x3x8x8", 10_000).shape == (1, 3, 8, 8)


def test_without_a_shape_it_is_an_image_of_the_data(monkeypatch):
    assert asked(monkeypatch, digits_cnn(), "", 1).shape == (1, 1, 8, 8)
