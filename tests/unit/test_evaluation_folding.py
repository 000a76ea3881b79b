import pytest
import torch
from torch import Tensor, nn

from autoprune.evaluation.folding import Folded, find_pairs
from search_spaces.models import digits_cnn, resnet20

IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Twice(nn.Module):
    """The convolution's output is normalised and also used as it is."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y + self.norm(y)


class Shared(nn.Module):
    """One convolution, two batch-norms."""

    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(self.conv(x))
        return x, self.second(self.conv(x))


def randomise(model):
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.eval()


@pytest.mark.parametrize(("make", "count"), [(lambda: digits_cnn(), 6), (lambda: resnet20(in_channels=1), 19)])
def test_a_folded_network_computes_the_same(make, count):
    model = randomise(make())
    pairs = find_pairs(model, lambda net: net(IMAGES))
    assert len(pairs) == count  # every convolution
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.inference_mode():
        expected = model(IMAGES)
        with Folded(model, pairs):
            convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
            assert all(conv.bias is not None for conv in convs)
            torch.testing.assert_close(model(IMAGES), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(model(IMAGES), expected)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert model.state_dict().keys() == state.keys()


@pytest.mark.parametrize("make", [Twice, Shared])
def test_what_cannot_be_folded_is_not(make):
    assert find_pairs(randomise(make()), lambda net: net(IMAGES)) == ()


def test_a_network_that_overflows_is_not_folded_and_no_error():
    model = randomise(digits_cnn())
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1e30)
    assert find_pairs(model, lambda net: net(IMAGES)) == ()


def test_a_weight_that_is_computed_anew_is_not_folded():
    norm = torch.nn.utils.parametrizations.weight_norm
    model = nn.Sequential(norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)).eval()
    images = torch.randn(2, 3, 8, 8)
    assert find_pairs(model, lambda net: net(images)) == (("2", "3"),)
