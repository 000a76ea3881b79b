import pytest
import torch
from torch import nn

from autoprune.compute import Compute
from autoprune.data import ImageData, Split
from autoprune.recovery import reestimate, reestimate_evenly
from autoprune.tasks import Classification


def test_statistics_are_the_average_over_the_batches():
    norm = nn.BatchNorm1d(1)
    reestimate(norm, [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [8.0]])])
    assert norm.running_mean.item() == 3.5  # of 1 and 6
    assert norm.running_var.item() == 5.0  # of 2 and 8, both unbiased
    assert norm.num_batches_tracked == 2


def test_everything_but_the_statistics_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.9), nn.BatchNorm2d(3))
    model[2].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    seen = []
    model[2].register_forward_hook(lambda module, args, output: seen.append(torch.equal(args[0], output)))
    reestimate(model, [torch.randn(4, 1, 8, 8)] * 2)
    assert seen == [True, True]  # dropout was off
    assert [m.training for m in model.modules()] == modes
    assert (model[1].momentum, model[3].momentum) == (0.3, 0.1)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {f"{i}.{n}" for i in (1, 3) for n in ("running_mean", "running_var", "num_batches_tracked")}


def test_without_batchnorm_nothing_is_run():
    def never():
        raise AssertionError("a forward pass for nothing")
        yield

    reestimate(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.BatchNorm1d(2, track_running_stats=False)), never())


@pytest.mark.parametrize(
    ("images", "batch_size", "sizes"),
    [
        (1000, 128, [125] * 8),
        (1000, 64, [63] * 15 + [55]),
        (13, 3, [5, 5, 3]),  # not 4, 4, 4, 1: one image with one pixel has no statistics
        (7, 2, [4, 3]),
        (5, 128, [5]),
    ],
)
def test_batches_are_even_and_none_is_of_one_image(images, batch_size, sizes):
    split = Split(torch.randint(256, (images, 1, 4, 4), dtype=torch.uint8), torch.arange(images) % 2)
    data = ImageData(split, split, split, (0.5,), (0.5,), ("a", "b"))
    model = nn.Sequential(nn.Conv2d(1, 3, 4), nn.BatchNorm2d(3))  # 1 x 1 maps
    seen = []
    model[0].register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    task = Classification(data)
    drawn = task.draw("calibration", images, 0)
    reestimate_evenly(model, task, drawn, batch_size, Compute(torch.device("cpu"), amp=False))
    assert seen == sizes
