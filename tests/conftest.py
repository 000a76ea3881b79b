"""What all tests share: one thread each, and a results directory of their own."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory: results/ of a test's runs lands there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
