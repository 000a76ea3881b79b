"""A run of a task that has a name: its tables, its way on, and the file that repeats it."""

from autoprune.cli import main

MINE = """
import torch
from torch import nn
import autoprune

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

def close(outputs, targets):
    return ((outputs - targets).abs() < 1).float().mean(1)

def task():
    inputs = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    batches = [(inputs, inputs.sum(1, keepdim=True))]
    return autoprune.Task.of(batches, batches, batches, loss=nn.functional.mse_loss, metrics={"close": close})
"""


def test_it_is_told_by_its_scores_and_begun_again_from_its_file(here, capsys):
    (here / "named_task.py").write_text(MINE)
    few = ["--trials=1", "--finalists=0", "--epochs=0", "--criterion=l1", "--device=cpu"]
    assert main(["search", "--model=named_task:net", "--task=named_task:task", "--name=one", *few]) == 0
    told = capsys.readouterr()
    assert "close, validation samples" in told.out
    assert "nan" not in told.out
    assert "autoprune resume results/one" in told.err + told.out
    assert main(["search", "--config=results/one/config.toml", "--name=two"]) == 0
