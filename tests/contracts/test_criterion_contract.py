"""One exam for every criterion in the facade."""

import inspect
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from autoprune import criteria
from autoprune.criteria import Criterion
from autoprune.criteria.gathering import ACTIVATIONS, NEEDS, gather
from autoprune.criteria.tensors import collect
from search_spaces import trace

CLASSES = [c for _, c in inspect.getmembers(criteria, inspect.isclass)]
CRITERIA = [c for c in CLASSES if issubclass(c, Criterion) and not inspect.isabstract(c)]


@pytest.fixture(scope="module")
def groups():
    """Groups with and without normalisation, with a depthwise layer, with a flattened reader."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 7, 3, padding=1), nn.BatchNorm2d(7), nn.ReLU(inplace=True),
        nn.Conv2d(7, 7, 3, padding=1, groups=7), nn.ReLU(), nn.Conv2d(7, 5, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(5 * 16, 4),
    ).eval()  # fmt: skip
    nn.init.uniform_(net[1].weight, 0.5, 1.5)
    space = trace(net, torch.zeros(1, 3, 4, 4))
    batches = [(torch.randn(6, 3, 4, 4), torch.randint(4, (6,)))]
    return tensors(net, space, batches, NEEDS)


def tensors(net, space, batches, needs):
    """All that a criterion may look at, for each group."""
    found = gather(net, space, batches, needs)
    parameters, masks = dict(net.named_parameters()), found.masks or [None] * len(space.groups)
    rows = zip(space.groups, masks, found.activations, strict=True)
    return [collect(g, parameters, found.weights, m, a) for g, m, a in rows]


def permuted(group, order):
    """The same group with its units told in another order."""
    parts = tuple(replace(p, index=p.index[order]) for p in group.parts)
    activations = {k: a[order] if a.dim() == 1 else a[order][:, order] for k, a in group.activations.items()}
    masks = group.mask_gradients[:, order]
    return replace(group, units=group.units[order], parts=parts, mask_gradients=masks, activations=activations)


def scaled(group, factor):
    """The same group with every weight multiplied by `factor`; gradients and activations as they are."""
    return replace(group, parts=tuple(replace(p, tensor=p.tensor * factor) for p in group.parts))


@pytest.mark.parametrize("cls", CRITERIA)
def test_one_finite_score_per_unit(cls, groups):
    for group in groups:
        score = cls().score(group)
        assert score.shape == (len(group.units),)
        assert score.isfinite().all()
        assert (score >= 0).all()


@pytest.mark.parametrize("cls", CRITERIA)
def test_tells_units_apart(cls, groups):
    for group in groups:
        assert len(cls().score(group).unique()) > 1


@pytest.mark.parametrize("cls", CRITERIA)
def test_deterministic(cls, groups):
    for group in groups:
        assert torch.equal(cls(seed=3).score(group), cls(seed=3).score(group))


@pytest.mark.parametrize("cls", CRITERIA)
def test_permuting_the_units_permutes_the_scores(cls, groups):
    for group in groups:
        order = torch.randperm(len(group.units), generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(cls().score(permuted(group, order)), cls().score(group)[order])


@pytest.mark.parametrize("cls", CRITERIA)
def test_scale_behaves_as_declared(cls, groups):
    for group in groups:
        expected = cls().score(group) * 3.0**cls.degree
        torch.testing.assert_close(cls().score(scaled(group, 3.0)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cls", [c for c in CRITERIA if c.needs & ACTIVATIONS])
def test_activations_scale_as_declared(cls):
    """Without biases and norms, every activation of a ReLU network is proportional to the images."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 5, 1, bias=False), nn.ReLU(), nn.Flatten(),
        nn.Linear(5 * 4, 3, bias=False),
    ).eval()  # fmt: skip
    images, labels = torch.randn(6, 3, 4, 4), torch.randint(3, (6,))
    space = trace(net, images[:1])
    once, fourfold = (tensors(net, space, [(s * images, labels)], cls.needs) for s in (1, 4))
    for group, larger in zip(once, fourfold, strict=True):
        torch.testing.assert_close(cls().score(larger), cls().score(group) * 4.0**cls.activation_degree)


@pytest.mark.parametrize("cls", CRITERIA)
def test_declares_what_it_needs(cls, groups):
    """Without the gradients and activations that it does not declare, the scores are the same."""
    assert cls.needs <= NEEDS
    for group in groups:
        bare = group
        if "gradients" not in cls.needs:
            bare = replace(bare, parts=tuple(replace(p, slope=None) for p in bare.parts))
        if "sample_gradients" not in cls.needs:
            bare = replace(bare, mask_gradients=None)
        bare = replace(bare, activations={k: a for k, a in group.activations.items() if k in cls.needs})
        assert torch.equal(cls().score(bare), cls().score(group))


@pytest.mark.parametrize("cls", CRITERIA)
def test_name_and_source(cls):
    assert criteria.CRITERIA[cls.name] is cls
    source = (cls.__doc__ or "") + (sys.modules[cls.__module__].__doc__ or "")
    assert "https://" in source or cls is criteria.Random
