"""Costs against tables worked out by hand, against torch's own counter, and against term-by-term arithmetic."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from objectives import Activations, Macs, Params, cost
from objectives.products import SumOfProducts, Term
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace, TensorShape


def toy() -> SearchSpace:
    """conv 3->4 3x3 on 8x8, conv 4->8 3x3 on 8x8, pooled to 2x2 and flattened, linear 32->10."""
    image, k, classes = Axis(3, 3), Axis(3, 3), Axis(10, 10)
    a, b, flat = Axis(4, 0, ((0, 1),)), Axis(8, 0, ((1, 1),)), Axis(32, 0, ((1, 4),))
    return SearchSpace(
        groups=(ChannelGroup("conv1", 4, ()), ChannelGroup("conv2", 8, ())),
        frozen=(),
        layers=(
            Layer("conv1", "conv", 9, 64, image, a),
            Layer("conv2", "conv", 9, 64, a, b),
            Layer("fc", "linear", 1, 1, flat, classes),
        ),
        tensors=(
            TensorShape("conv1.weight", (a, image, k, k)),
            TensorShape("conv1.bias", (a,)),
            TensorShape("conv2.weight", (b, a, k, k)),
            TensorShape("conv2.bias", (b,)),
            TensorShape("fc.weight", (classes, flat)),
            TensorShape("fc.bias", (classes,)),
        ),
    )


def built(widths: tuple[int, int]) -> nn.Module:
    """The toy network, really at these widths."""
    a, b = widths
    convs = nn.Conv2d(3, a, 3, padding=1), nn.Conv2d(a, b, 3, padding=1)
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * b, 10))


def test_macs_by_hand():
    macs = Macs(toy())
    # conv 3->4, 3x3 on 8x8      : 3*4*9*64 =  6_912
    # conv 4->8, 3x3 on 8x8      : 4*8*9*64 = 18_432
    # linear 8*2*2 -> 10         : 32*10    =    320
    assert macs((4, 8)) == 25_664
    assert macs((2, 8)) == 12_992  # halving group 0 halves both convolutions: 3_456 + 9_216 + 320
    assert macs((4, 4)) == 16_288  # halving group 1 leaves the first one:     6_912 + 9_216 + 160
    assert macs.parts((4, 8)) == {"conv1": 6_912, "conv2": 18_432, "fc": 320}


def test_params_by_hand():
    params = Params(toy())
    # conv 3->4, weights and biases : 3*4*9 + 4   = 112
    # conv 4->8, weights and biases : 4*8*9 + 8   = 296
    # linear 32->10                 : 32*10 + 10  = 330
    assert params((4, 8)) == 738
    assert params((2, 8)) == 538  # 56 + 152 + 330
    assert params.parts((4, 8)) == {"conv1": 112, "conv2": 296, "fc": 330}


def test_activations_by_hand():
    activations = Activations(toy())
    # 4 * 64 + 8 * 64 + 10
    assert activations((4, 8)) == 778
    assert activations((2, 8)) == 650


@pytest.mark.parametrize("widths", [(4, 8), (3, 5), (1, 1), (2, 7)])
def test_costs_equal_the_built_network(widths, multiply_adds):
    network = built(widths)
    assert Macs(toy())(widths) == multiply_adds(network, torch.zeros(1, 3, 8, 8))
    assert Params(toy())(widths) == sum(p.numel() for p in network.parameters())


def test_a_batch_is_its_rows():
    macs = Macs(toy())
    batch = np.array([[4, 8], [2, 8], [1, 1]])
    assert macs(batch).tolist() == [25_664, 12_992, macs((1, 1))]
    assert macs(batch[:0]).shape == (0,)


def test_equal_and_proportional_axes_share_a_column():
    a, b = Axis(4, 0, ((0, 1),)), Axis(8, 0, ((1, 1),))
    terms = [Term("x", 1.0, (a, b)), Term("y", 2.0, (Axis(4, 0, ((0, 1),)), Axis(392, 0, ((1, 49),))))]
    product = SumOfProducts(terms, 2)
    assert product._slopes.shape == (2, 3)  # the constant, a, b
    assert product(np.array([[3.0, 5.0]])).tolist() == [3 * 5 + 2 * 3 * 49 * 5]


axes = st.builds(
    lambda fixed, terms: Axis(fixed + sum(12 * k for _, k in terms), fixed, tuple(terms)),
    st.integers(0, 5),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=3),
)
random_terms = st.builds(Term, st.just("x"), st.integers(0, 1000).map(float), st.lists(axes, max_size=4).map(tuple))


@settings(deadline=None, max_examples=150)
@given(st.lists(random_terms, max_size=8), st.lists(st.lists(st.integers(1, 12), min_size=4, max_size=4), max_size=5))
def test_matrix_products_equal_term_by_term(terms, rows):
    batch = np.array(rows, dtype=np.float64).reshape(-1, 4)
    assert SumOfProducts(terms, 4)(batch).tolist() == [sum(t.at(row) for t in terms) for row in rows]


def test_exact_above_float32():
    wide = Axis(4099, 0, ((0, 1),))  # 4099**2 * 12_289 is odd and above 2**37: float32 would round it
    product = SumOfProducts([Term("x", 12_289.0, (wide, wide))], 1)
    assert product(np.array([[4099.0]])).tolist() == [4099**2 * 12_289]


def test_a_plug_in_is_called_with_the_space():
    assert cost("objectives.costs:Macs", toy())(np.array([[4, 8]])).tolist() == [25_664]


def test_an_unknown_cost_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"^unknown cost 'joules'; known: activations, macs, params, or give package"):
        cost("joules", toy())
    with pytest.raises(ValueError, match=r"^cost 'nowhere:X': expected package.module:Name that can be imported, but"):
        cost("nowhere:X", toy())
    with pytest.raises(ValueError, match=r"^cost 'objectives:Nothing': expected package"):
        cost("objectives:Nothing", toy())
    with pytest.raises(ValueError, match=r"^cost 'builtins:repr': expected a callable on widths \[B, G\], got str"):
        cost("builtins:repr", toy())


def test_candidates_together_call_few_functions(work):
    rng = np.random.default_rng(0)
    groups = tuple(ChannelGroup(f"g{i}", 512, ()) for i in range(50))
    sides = [Axis(512, 0, ((i, 1),)) for i in range(50)]
    layers = tuple(Layer(f"l{i}", "conv", 9, 196, sides[i % 50], sides[(i + 1) % 50]) for i in range(54))
    macs = Macs(SearchSpace(groups, (), layers, ()))
    batch = rng.integers(1, 513, (5_000, 50))
    assert work(lambda: macs(batch)) < work(lambda: macs(batch[:1])) * len(batch) / 100
