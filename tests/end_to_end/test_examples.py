"""The scripts of examples/ run, here on less than they show."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    """Imports a script of examples/ by name."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_the_cosine_transform_is_orthonormal(example):
    dct = example("dct_inputs")
    assert torch.allclose(dct.cosines() @ dct.cosines().T, torch.eye(8), atol=1e-6)
    image = torch.zeros(1, 1, 8, 16)
    image[..., 8:] = 0.5  # a flat block has one coefficient: 8 times its value
    found = dct.coefficients(image)
    assert found.shape == (1, 64, 1, 2)
    assert found[0, 0, 0].tolist() == pytest.approx([0, 4])
    assert found[0, 1:].abs().max() < 1e-6


def test_few_frequencies_suffice(example, capsys):
    found = example("dct_inputs").main(counts=(8,), epochs=2)
    assert found.keys() == {64, 8}
    assert found[8] > 0.7
    assert "8 frequencies: accuracy" in capsys.readouterr().out
