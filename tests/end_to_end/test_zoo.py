"""The torchvision classifiers, without a line of code for any of them: pruned equals masked, costs are exact."""

import numpy as np
import pytest
import torch
import torchvision

from search_spaces import trace
from search_spaces.tracing import slow_path
from search_spaces.verify import random_kept, subject_of

NETWORKS = {  # name -> (image size, constructor arguments)
    "resnet18": (64, {}),
    "resnet50": (64, {}),
    "wide_resnet50_2": (64, {}),
    "resnext50_32x4d": (64, {}),
    "vgg16_bn": (32, {}),
    "alexnet": (64, {}),
    "squeezenet1_0": (64, {}),
    "densenet121": (64, {}),
    "mobilenet_v2": (64, {}),
    "mobilenet_v3_small": (64, {}),
    "mobilenet_v3_large": (64, {}),
    "mnasnet0_5": (64, {}),
    "shufflenet_v2_x1_0": (64, {}),
    "efficientnet_b0": (64, {}),
    "efficientnet_v2_s": (64, {}),
    "regnet_y_400mf": (64, {}),
    "regnet_x_400mf": (64, {}),
    "convnext_tiny": (64, {}),
    "googlenet": (64, {"init_weights": False}),
    "inception_v3": (299, {"init_weights": False}),
    "vit_b_16": (64, {"image_size": 64, "num_layers": 3}),
    "swin_t": (64, {}),
}
# What may stay frozen besides the output: the streams that run through attention.
FROZEN = {"swin_t": "attention"}


UNJUDGED = {}


def build(name):
    size, options = NETWORKS[name]
    torch.manual_seed(0)
    if name == "vit_b_16":
        options = {"patch_size": 16, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072, **options}
        return torchvision.models.VisionTransformer(**options), torch.randn(1, 3, size, size)
    return torchvision.models.get_model(name, weights=None, **options), torch.randn(1, 3, size, size)


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name, law):
    model, image = build(name)
    space = law(model, image, seeds=(0,), judged=name not in UNJUDGED)
    fine = ("output of the network", "one unit always stays, and there is only one")  # the latter in ShuffleNet's tails
    other = {g.name: g.frozen_because for g in space.frozen if g.frozen_because not in fine}
    if name not in FROZEN:
        assert other == {}
    prunable = sum(t.axes[0].size for t in space.tensors if not t.axes[1:])
    whole = sum(p.numel() for p in model.parameters())
    assert prunable < 0.4 * whole  # most weights have an axis that shrinks


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_wrong_maps_are_noticed(name, mutants):
    """Each of eight index maps, reversed on purpose, makes `verify` fail."""
    model, image = build(name)
    space = trace(model, image)
    with torch.no_grad(), slow_path():
        subject = subject_of(model.eval(), image, 0, 1e-6)
        kept = random_kept(space, np.random.default_rng(0))
        assert subject.difference(space, kept) <= subject.tolerance
        for group, wrong in mutants(space, range(8)):
            assert subject.difference(wrong, kept) > subject.tolerance, group


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x1_0", "mobilenet_v3_small"])
def test_more_seeds_and_sizes(name, law):
    model, _ = build(name)
    law(model, torch.randn(2, 3, 96, 80), seeds=range(1, 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_published_size(name, law):
    size = 299 if name == "inception_v3" else 224
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    torch.manual_seed(1)
    law(torchvision.models.get_model(name, weights=None, **options), torch.randn(1, 3, size, size), seeds=(1, 2, 3))
