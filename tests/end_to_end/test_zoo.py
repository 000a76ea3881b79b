"""Networks of torchvision, timm and transformers, without a line of code for any of them: pruned equals masked."""

import copy
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from objectives.costs import Macs, Params
from search_spaces import prune, trace, verify
from search_spaces.contents import tensors_in
from search_spaces.tracing import slow_path
from search_spaces.verify import random_kept, subject_of

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import zoo
from judge import judge

NETWORKS = zoo.TORCHVISION
MORE = [name for name in zoo.NETWORKS if name not in NETWORKS]


def build(name):
    library = {"timm": "timm", "hf": "transformers"}.get(name.partition("/")[0])
    if library is not None:
        pytest.importorskip(library, reason=f"{library} is not installed: pip install autoprune[zoo]")
    return zoo.build(name)


HEAVY = ("wide_resnet50_2", "efficientnet_v2_s", "inception_v3")  # as resnet50, efficientnet_b0 and googlenet, larger


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in HEAVY)) for n in NETWORKS])
def test_network(name, law):
    model, image = build(name)
    space = law(model, image, seeds=(0,))
    fine = ("output of the network", "one unit always stays, and there is only one")  # the latter in ShuffleNet's tails
    other = {g.name: g.frozen_because for g in space.frozen if not g.frozen_because.startswith(fine)}
    assert other == {}
    prunable = sum(t.axes[0].size for t in space.tensors if not t.axes[1:])
    whole = sum(p.numel() for p in model.parameters())
    assert prunable < 0.4 * whole  # most weights have an axis that shrinks


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("name", MORE)
def test_more_networks(name):
    """Three random choices of channels each, and an independent judge."""
    model, example = build(name)
    space = trace(model, example)
    assert verify(model, space, example) < 1e-4
    for group in space.frozen:  # the operation and the layer, or that it is the answer
        assert re.search(r"'[^']+'|the model|output of the network", group.frozen_because)
    limited = space.with_limits(min_keep=0.05)
    assert Macs(limited)(limited.floor) < LEAST.get(name, 0.1) * Macs(limited)(limited.full)
    for seed in range(3):
        kept = random_kept(space, np.random.default_rng(seed))
        assert name in zoo.UNJUDGED or judge(model, space, kept, example, seed) < 1e-6
        pruned = prune(model, space, kept)
        assert Params(space)([len(k) for k in kept]) == sum(p.numel() for p in pruned.parameters())


# What keeps more than a tenth of its multiply-adds where 5 % of every group stays, and why.
LEAST = {
    "raft_small": 0.6,  # its pyramid of correlations is scaled by the root of a width
    "timm/pvt_v2_b0": 0.2,  # one head, whose width sets the scale
    "timm/edgenext_xx_small": 0.2,  # 58 channels cut into four
    "hf/t5": 0.2,  # the stream is the answer
}


def is_no_error(subject, space, wrong, kept):
    """Does the reversed map say the same of these channels (both heads in the middle), or of a tensor that is idle?

    Biases of keys are: softmax does not see what is the same for all keys.
    """
    for group, other, stays in zip(space.groups, wrong.groups, kept, strict=True):
        gone = np.setdiff1d(np.arange(group.size), stays)
        for right, reversed_map in zip(group.members, other.members, strict=True):
            if right is not reversed_map:
                if np.array_equal(np.sort(right.index[gone], None), np.sort(reversed_map.index[gone], None)):
                    return True
                noisy = copy.deepcopy(subject.model)
                dict(noisy.named_parameters(remove_duplicate=False))[right.tensor].add_(0.5)
                answers = [list(tensors_in(model(*subject.args, **subject.kwargs))) for model in (noisy, subject.model)]
                return all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(*answers, strict=True))
    return False


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_wrong_maps_are_noticed(name, mutants):
    """Each of eight index maps, reversed on purpose, makes `verify` fail."""
    model, image = build(name)
    space = trace(model, image)
    with torch.no_grad(), slow_path():
        subject = subject_of(model.eval(), image, 0, 1e-6)
        kept = random_kept(space, np.random.default_rng(0))
        assert subject.difference(space, kept) <= subject.tolerance
        noticed = 0
        for group, wrong in mutants(space, range(8)):
            if subject.difference(wrong, kept) > subject.tolerance:
                noticed += 1
            else:
                assert is_no_error(subject, space, wrong, kept), group
        assert noticed > 2


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
