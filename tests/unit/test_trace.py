"""What `trace` and `verify` do with networks and inputs that do not fit, and what they leave behind."""

import contextlib
import copy
import functools
import gc
import pickle
import threading
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from search_spaces import SearchSpace, VerificationError, trace, verify
from search_spaces.models import digits_cnn
from search_spaces.tracing.dispatch import OPERATORS

IMAGE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_example_that_does_not_fit():
    with pytest.raises(
        ValueError, match=r"example inputs of shape \(2, 3, 8, 8\) do not fit DigitsCNN \(in 'stem.0'\): RuntimeError"
    ):
        trace(digits_cnn(), torch.randn(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"do not fit DigitsCNN .in the model.: TypeError"):
        trace(digits_cnn(), {"picture": IMAGE})


def test_nothing_to_prune():
    with pytest.raises(
        ValueError, match=r"Linear has no group of channels that can be pruned \('weight': output of the network\)"
    ):
        trace(nn.Linear(3, 3), torch.randn(2, 3))
    with pytest.raises(ValueError, match="no layer makes channels"):
        trace(nn.ReLU(), torch.randn(2, 3))


def test_wrappers_are_named():
    with pytest.raises(ValueError, match=r"DataParallel is a wrapper .* model.module"):
        trace(nn.DataParallel(digits_cnn()), IMAGE)


def test_lazy_layers_are_named():
    with pytest.raises(ValueError, match=r"'0.weight' is not initialised yet"):
        trace(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)), torch.randn(2, 3))


def test_the_network_and_pytorch_are_left_as_they_were():
    apply = torch.autograd.Function.__dict__["apply"]
    model = digits_cnn().train()
    model.block1.eval()
    modes = [m.training for m in model.modules()]
    state = torch.random.get_rng_state()
    for example in (IMAGE, torch.randn(2, 3, 8, 8)):
        try:
            trace(model, example)
        except ValueError:
            assert example.shape[1] == 3
        assert modes == [m.training for m in model.modules()]
        assert torch.autograd.Function.__dict__["apply"] is apply
        assert not torch.nn.modules.module._global_forward_hooks
        assert not torch.nn.modules.module._global_forward_pre_hooks
        assert not hasattr(example, "_channel_ids")
        assert torch.backends.mha.get_fastpath_enabled()
    torch.random.set_rng_state(state)
    trace(model, IMAGE)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_counters_in_buffers_are_put_back():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1)
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("seen", torch.zeros(3))

        def forward(self, x):
            self.calls += 1
            self.seen = self.seen + 1
            return self.out(F.relu(self.conv(x)))

    model = Counting()
    seen = model.seen
    trace(model, IMAGE)
    assert model.calls == 0
    assert model.seen is seen


def momentum_in_place(q, k):
    k.mul_(0.5).add_(q, alpha=0.5)


def momentum_by_data(q, k):
    k.data = k.data * 0.5 + q.data * 0.5


@pytest.mark.parametrize(
    "write",
    [
        momentum_in_place,
        momentum_by_data,
        lambda q, k: k.data.clamp_(min=0),
        lambda q, k: torch._foreach_mul_([k, q], 0.5),
    ],
)
@pytest.mark.parametrize("always", [True, False])
def test_weights_that_the_network_writes_into_are_put_back(write, always):
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.q, self.k = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            if always or self.training:
                written.append(self.training)
                with torch.no_grad():
                    write(self.q.weight, self.k.weight)
            return self.k(self.a(x).relu())

    model, written = Writing(), []
    places = [p.data_ptr() for p in model.parameters()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with contextlib.suppress(ValueError):  # channels of weights that are written into may be frozen, all of them
        trace(model, torch.randn(2, 4))
    with contextlib.suppress(VerificationError):
        verify(model, trace(nn.Sequential(model.a, model.k), torch.randn(2, 4)), torch.randn(2, 4))
    assert written
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert places == [p.data_ptr() for p in model.parameters()]


class Rescaling(nn.Module):
    """A network that divides a weight once for inference, and multiplies it again to train (RWKV)."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 3)
        self.is_rescaled = False

    def forward(self, x):
        if self.is_rescaled == self.training:
            with torch.no_grad():
                self.b.weight.mul_(4) if self.training else self.b.weight.div_(4)
            self.is_rescaled = not self.training
        return self.c(self.b(self.a(x).relu()).relu())


@pytest.mark.parametrize("before", [False, True])
def test_what_a_network_notes_about_its_weights_is_put_back_with_them(law, before):
    model, x = Rescaling().eval(), torch.randn(2, 4)
    if before:
        model(x)
    space = law(model, x)
    assert [g.name for g in space.groups] == ["a", "b"]
    assert model.is_rescaled == before


def test_what_a_network_notes_in_a_new_attribute_goes_with_what_it_did(law):
    class Once(nn.Module):
        """Scales a weight, and makes a part, in its first pass."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.gate = nn.Linear(4, 6), nn.Linear(6, 3), None

        def forward(self, x):
            if not hasattr(self, "done"):
                with torch.no_grad():
                    self.a.weight.mul_(3)
                self.done = True
            if self.gate is None:
                self.gate = nn.Sigmoid()
            return self.b(self.gate(self.a(x)))

    model, x = Once().eval(), torch.randn(2, 4)
    expected = copy.deepcopy(model)(x)
    names = {*vars(model)}
    space = law(model, x)
    assert [g.name for g in space.groups] == ["a"]
    assert {*vars(model)} == names
    assert [name for name, _ in model.named_children()] == ["a", "b"]
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


def test_weights_that_are_exchanged_or_renormalised_are_put_back():
    class Exchanging(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.a, self.b = nn.Embedding(5, 6, max_norm=0.1), nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x):
            self.b.weight = nn.Parameter(self.b.weight * 2)
            return self.b(self.a(self.table(x)).relu())

    model = Exchanging()
    weight, before = model.b.weight, model.table.weight.clone()
    trace(model, torch.arange(4))
    assert model.b.weight is weight
    assert torch.equal(model.table.weight, before)


def test_half_precision_and_double():
    for dtype in (torch.bfloat16, torch.float64):
        assert trace(digits_cnn().to(dtype), IMAGE.to(dtype)).full == trace(digits_cnn(), IMAGE).full


def test_costs_are_per_image():
    one, two = trace(digits_cnn(), IMAGE[:1]), trace(digits_cnn(), IMAGE)
    assert one.fingerprint == two.fingerprint


def test_two_traces_agree_bit_for_bit():
    assert trace(digits_cnn(), IMAGE).fingerprint == trace(digits_cnn(), IMAGE).fingerprint


def test_an_answer_without_tensors_is_refused():
    class Silent(nn.Module):
        def __init__(self, answer):
            super().__init__()
            self.conv, self.answer = nn.Conv2d(1, 4, 3), answer

        def forward(self, x):
            return self.answer(self.conv(x))

    for answer, kind in (
        (lambda x: None, "NoneType"),
        (lambda x: float(x.sum()), "float"),
        (lambda x: (y for y in [x]), "generator"),
    ):
        with pytest.raises(ValueError, match=f"Silent answers no tensor but {kind}"):
            trace(Silent(answer), IMAGE)


def test_code_that_runs_only_in_training_is_traced():
    class Noisy(nn.Module):
        def __init__(self, noise):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 2, 1)
            self.register_buffer("level", torch.ones(1, 8, 1, 1))
            self.noise = noise

        def forward(self, x):
            x = self.a(x).relu()
            return self.b(self.noise(self, x) if self.training else x)

    with pytest.raises(ValueError, match="'a': the model combines it with a constant of fixed size"):
        trace(Noisy(lambda s, x: x + torch.randn(1, 8, 1, 1)), IMAGE)
    for noise in (
        lambda s, x: x + s.level * torch.randn_like(x),
        lambda s, x: F.dropout2d(F.dropout(F.alpha_dropout(x))),
        lambda s, x: x * torch.empty(x.shape[0], x.shape[1], 1, 1).bernoulli_(0.5),
    ):
        space = trace(Noisy(noise), IMAGE)
        assert [(g.name, g.size) for g in space.groups] == [("a", 8)]
    assert ("level", "free") in {
        (m.tensor, m.role) for m in trace(Noisy(lambda s, x: x * s.level), IMAGE).groups[0].members
    }


def test_a_network_that_cannot_train_on_the_example_is_traced_in_eval_mode():
    class NeedsTargets(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 2, 1)

        def forward(self, x, targets=None):
            if self.training and targets is None:
                raise ValueError("targets should not be none when in training mode")
            return self.b(self.a(x).relu())

    model = NeedsTargets()
    space = trace(model, IMAGE)
    assert [(g.name, g.size) for g in space.groups] == [("a", 8)]
    assert verify(model, space, IMAGE) < 1e-9


def test_a_mistake_of_the_tracer_in_training_mode_is_not_passed_over(monkeypatch):
    """What is lost there would be ties, and the pruned network could not be trained."""

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x = self.a(x).relu()
            return self.b(x.erf() if self.training else x)

    def broken(*_):
        raise IndexError("dimension out of range")

    monkeypatch.setitem(OPERATORS, torch.ops.aten.erf, broken)
    with pytest.warns(UserWarning, match=r"what Noisy does in training mode could not be followed.*please report"):
        trace(Noisy(), IMAGE)


def test_a_network_that_ends_the_process_in_training_is_traced_in_eval_mode():
    class Ends(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            if self.training:
                raise SystemExit("needs targets")
            return self.b(self.a(x).relu())

    assert [(g.name, g.size) for g in trace(Ends(), IMAGE).groups] == [("a", 8)]


@pytest.mark.parametrize(("asks", "passes"), [(False, 1), (True, 2)])
def test_the_network_runs_in_training_mode_only_if_its_own_code_asks_for_the_mode(asks, passes):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.drop, self.b, self.runs = nn.Conv2d(1, 8, 3), nn.Dropout(), nn.Conv2d(8, 2, 1), []

        def forward(self, x):
            self.runs.append(1)
            x = self.drop(self.a(x).relu())
            return self.b(x * 2 if asks and self.training else x)

    model = Counting()
    trace(model, IMAGE)
    assert len(model.runs) == passes
    assert "training" not in vars(nn.Module)


def test_parameters_of_the_network_itself_have_names():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.w1, self.w2 = nn.Parameter(torch.randn(6, 16)), nn.Parameter(torch.randn(16, 12))
            self.w3 = nn.Parameter(torch.randn(12, 3))

        def forward(self, x):
            return ((x @ self.w1).relu() @ self.w2).relu() @ self.w3

    space = trace(Bare(), torch.randn(5, 6))
    assert [(g.name, g.size) for g in space.groups] == [("w1", 16), ("w2", 12)]
    assert space.with_limits(freeze=["w2"]).groups[1].choices() == (12,)


@pytest.mark.parametrize(
    ("prepare", "cure"),
    [
        (
            lambda conv: nn.utils.parametrizations.orthogonal(conv),
            "torch.nn.utils.parametrize.remove_parametrizations",
        ),
        (lambda conv: prune.l1_unstructured(conv, "weight", 0.5), "torch.nn.utils.prune.remove"),
    ],
)
def test_computed_weights_say_what_to_do_first(prepare, cure):
    model = nn.Sequential(prepare(nn.Conv2d(1, 8, 3)), nn.ReLU(), prepare(nn.Conv2d(8, 2, 1)))
    with pytest.raises(ValueError, match=f"the weight of '0' is computed, not a parameter: call {cure} first"):
        trace(model, IMAGE)


def test_what_computed_weights_make_is_listed_beside_what_may_be_pruned():
    class Positive(nn.Module):
        def __init__(self):
            super().__init__()
            self.raw, self.a, self.b = nn.Parameter(torch.randn(7, 4)), nn.Linear(7, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.b(self.a(F.linear(x, self.raw.cumsum(0))).relu())

    space = trace(Positive(), torch.randn(2, 4))
    assert [(g.name, g.size) for g in space.groups] == [("a", 6)]
    found = {g.name: (g.size, g.frozen_because) for g in space.frozen}
    assert found["Positive"] == (7, "the weight of the model is computed, not a parameter")
    again = SearchSpace.from_json(space.to_json())
    assert [g.name for g in again.frozen] == [g.name for g in space.frozen]
    half = nn.Sequential(
        prune.l1_unstructured(nn.Linear(4, 7), "weight", 0.5), nn.ReLU(), nn.Linear(7, 6), nn.Linear(6, 2)
    )
    space = trace(half, torch.randn(2, 4))
    assert [g.name for g in space.groups] == ["0", "2"]  # a weight times its mask is as wide as both
    assert verify(half, space, torch.randn(2, 4)) < 1e-6


def test_several_computed_weights_of_one_module_are_listed_with_the_channels_that_they_make():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.raw = nn.Parameter(torch.randn(6, 10, 2, 2)), nn.Parameter(torch.randn(7, 10, 1, 1))
            self.bare = nn.Parameter(torch.randn(6, 3, 1, 1))
            self.Several = nn.Conv2d(7, 5, 1)
            self.end = nn.Conv2d(5, 2, 1)

        def forward(self, x):
            x = F.conv_transpose2d(F.conv2d(x, self.bare), self.up.cumsum(0), stride=2)
            return self.end(self.Several(F.conv2d(x, self.raw.cumsum(0))).relu())

    space = trace(Several(), torch.randn(2, 3, 4, 4))
    why = "the weight of the model is computed, not a parameter"
    assert {g.name: (g.size, g.frozen_because) for g in space.frozen if not g.members} == {
        "Several#2": (10, why), "Several#3": (7, why)
    }  # fmt: skip


def test_a_network_prepared_for_quantisation_says_prune_before():
    class FakeQuantised(nn.Conv2d):
        def __init__(self, *args):
            super().__init__(*args)
            self.weight_fake_quant = nn.Identity()

        def forward(self, x):
            return F.conv2d(x, self.weight_fake_quant(self.weight * 1.0), self.bias)

    with pytest.raises(ValueError, match="the weight of '0' is computed, not a parameter: prune before prepare_qat"):
        trace(nn.Sequential(FakeQuantised(1, 8, 3), nn.ReLU(), FakeQuantised(8, 2, 1)), IMAGE)


def test_a_scripted_part_is_frozen_with_its_name():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        block = torch.jit.script(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Dropout()))
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), block, nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))
    space = trace(model, IMAGE)
    assert [(g.name, g.size) for g in space.groups] == [("3", 8)]
    assert space.frozen[0].frozen_because == "its code is TorchScript, which cannot be followed ('2')"
    assert all(module.training for module in model.modules())
    images = torch.ones(2, 4, 5, 5)
    assert not torch.equal(block(images), block(images))  # its dropout is on, as before
    assert not any(module.training for module in model.eval().modules())
    assert verify(model, space, IMAGE) < 1e-9


def test_networks_that_are_traced_in_several_threads_wait_for_each_other():
    found = []

    class Net(nn.Sequential):
        def forward(self, x):
            if not found:
                found.append(threading.Thread(target=lambda: found.append(trace(small(), x))))
                found[0].start()
                found[0].join(0.5)
            return super().forward(x)

    def small():
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

    space = trace(Net(*small()), torch.randn(3, 4))
    found[0].join()
    assert [g.size for g in space.groups] == [g.size for g in found[1].groups] == [6]


def test_caches_of_other_code_hand_out_no_sizes():
    """Two equal blocks share a cache of sizes, and so do two networks: neither freezes the other."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            y = self.a(x)
            return x + self.b(y.reshape(_remembered(y.shape)).relu())

    for blocks in (2, 1):
        parts = [nn.Conv2d(1, 8, 3), *[Block() for _ in range(blocks)], nn.Conv2d(8, 2, 1)]
        space = trace(nn.Sequential(*parts), IMAGE)
        assert [g.size for g in space.groups] == [8] * (1 + blocks)
    hits = _remembered.cache_info().hits
    _remembered((1, 2))
    assert type(_remembered((1, 2))[1]) is int
    assert _remembered.cache_info().hits == hits + 1


@functools.lru_cache
def _remembered(shape):
    return tuple(shape)


def test_sizes_that_a_module_keeps_are_plain_numbers_after_the_trace():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 2, 1)
            self.table, self.seen = {}, []

        def forward(self, x):
            x = self.a(x)
            self.seen.append(x.shape[1])
            self.table[x.shape[1]] = [x.shape, (x.shape[1],)]
            return self.b(x)

    model = Keeps()
    trace(model, IMAGE)
    kept = [*model.seen, *model.table, *model.table[8][0], *model.table[8][1], model.a.out_channels]
    assert {type(n) for n in kept} == {int}


def test_a_traced_network_is_let_go():
    """Nothing that tracing leaves behind holds on to it: a worker would have two copies of every weight."""
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 10)).eval()
    space, alive = trace(model, torch.zeros(1, 1, 8, 8)), weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    assert space.groups


class Transformed(nn.Module):
    """Two layers, one that `function(self, x)` uses inside a transform, and two."""

    def __init__(self, function, out=6):
        super().__init__()
        self.function = function
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 8)
        self.inner = nn.Linear(8, out)
        self.third, self.fourth = nn.Linear(8, 9), nn.Linear(9, 2)

    def forward(self, x):
        return self.fourth(F.relu(self.third(self.function(self, F.relu(self.second(F.relu(self.first(x))))))))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("torch.vmap", lambda s, x: torch.vmap(lambda row: row + s.inner(row).mean())(x)),
        ("torch.vmap", lambda s, x: torch.vmap(s.inner)(x).mean(1, keepdim=True) + torch.zeros(8)),
        ("torch.vmap", lambda s, x: torch.vmap(lambda n: x[0] * n * s.inner(x[0]).sum())(torch.arange(4.0))),
        ("torch.func.grad", lambda s, x: torch.func.grad(lambda q: s.inner(q).tanh().sum())(x)),
        ("torch.vmap", lambda s, x: torch.vmap(torch.func.grad(lambda q: s.inner(q).tanh().sum()))(x)),
        ("torch.func.functionalize", lambda s, x: torch.func.functionalize(lambda q: s.inner(q).relu_().mean() + q)(x)),
        ("torch.vmap", lambda s, x: torch.vmap(torch.func.functionalize(lambda q: s.inner(q).mean() + q))(x)),
        ("torch.func.vjp", lambda s, x: torch.func.jacrev(lambda q: s.inner(q).tanh().sum())(x)),
    ],
)
def test_what_enters_a_function_transform_stays(name, function):
    """Its tensors are not what they seem there; the layers around it go."""
    torch.manual_seed(0)
    model, example = Transformed(function), torch.randn(4, 5)
    space = trace(model, example)
    assert {g.name: g.size for g in space.groups} == {"first": 7, "third": 9}
    why = f"{name} in the model cannot be followed"
    assert {m.layer: g.frozen_because for g in space.frozen for m in g.members if m.role == "out"} == {
        "second": why, "inner": why, "fourth": "output of the network"
    }  # fmt: skip
    assert verify(model, space, example) < 1e-6


def test_a_network_all_in_a_function_transform_has_nothing_to_prune():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, x):
            return torch.vmap(self.network)(x)

    with pytest.raises(ValueError, match=r"no group of channels .*torch.vmap in the model cannot be followed"):
        trace(Whole(), torch.randn(4, 5))


@pytest.mark.parametrize("hide", [lambda x: torch.Tensor._make_subclass(torch.Tensor, x), nn.Parameter])
def test_an_answer_whose_origin_is_not_seen_is_not_pruned(hide):
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x):
            return hide(self.second(self.first(x).relu()))

    space = trace(Hidden(), torch.randn(2, 5))
    assert [g.name for g in space.groups] == ["first"]
    assert [g.name for g in space.frozen] == ["second"]
    assert "the answer of the model may have been made of it" in space.frozen[0].frozen_because


@pytest.mark.parametrize(
    ("answer", "frozen"),
    [
        (lambda s, y: unseen(y) + 1, {"second"}),
        (lambda s, y: unseen(y.split([s.some, s.others], -1)[1]), {"second"}),
        (
            lambda s, y: (lambda a, b: unseen(b).sum() + s.third(a))(*y.split([s.some, s.others], -1)),
            {"second#2", "third"},
        ),
        (lambda s, y: (s.aside(y), y)[1] * torch.tensor(2.0) * s.table[0], {"second"}),
    ],
)
def test_what_nothing_reads_stays_where_an_operation_reads_what_nothing_has_made(answer, frozen):
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Linear(5, 8), nn.Linear(8, 7), nn.Linear(3, 2)
            self.aside = nn.Linear(7, 6)
            self.some, self.others, self.table = 3, 4, [torch.tensor(1.0)]

        def forward(self, x):
            return answer(self, self.second(self.first(x).relu()))

    space = trace(Hidden(), torch.randn(2, 5))
    found = {g.name for g in space.frozen}
    assert "first" in [g.name for g in space.groups]
    assert found == frozen


def unseen(x):
    return torch.Tensor._make_subclass(torch.Tensor, x)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: copy.deepcopy([x])[0], lambda x: x])
def test_what_a_network_keeps_of_an_activation_carries_nothing_of_the_trace(copied):
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.kept = nn.Linear(5, 8), nn.Linear(8, 2), []

        def forward(self, x):
            self.kept.append(copied(self.first(x)))
            return self.second(self.kept[-1])

    model = Keeping()
    assert {g.name: g.size for g in trace(model, torch.randn(2, 5)).groups} == {"first": 8}
    assert model.kept
    assert not any(vars(kept) for kept in model.kept)
    pickle.dumps(model.kept)


def test_a_custom_function_says_nothing_of_which_axis_of_a_parameter_makes_channels():
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            return x.new_zeros(2, 7)  # which an extension fills

    class Custom(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.out = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(7, 2)
            self.weight = nn.Parameter(torch.randn(7, 6))

        def forward(self, x):
            return self.out(Product.apply(self.second(self.first(x).relu()), self.weight))

    space = trace(Custom(), torch.randn(2, 5))
    assert {g.name: g.size for g in space.frozen} == {"second": 6, "out": 2}


def test_a_copied_activation_has_its_channels():
    copied = Transformed(lambda s, x: copy.deepcopy(x), out=8)
    space = trace(copied, torch.randn(4, 5))
    assert {g.name: g.size for g in space.groups} == {"first": 7, "second": 8, "third": 9}
    assert verify(copied, space, torch.randn(4, 5)) < 1e-6


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_refused_in_a_sentence(layout):
    class Ragged(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 2)

        def forward(self, x, y):
            both = torch.nested.nested_tensor([x, y], layout=layout)
            return torch.nested.to_padded_tensor(self.second(self.first(both)), 0.0)

    with pytest.raises(ValueError, match=r"^Ragged makes nested tensors \(in the model\), which cannot be followed"):
        trace(Ragged(), (torch.randn(3, 5), torch.randn(4, 5)))


def test_hooks_that_a_network_installs_at_its_first_call_go_with_what_says_so():
    seen = []

    class Captured(nn.Module):
        """As in transformers: hooks collect what its layers answer, and an attribute says that they are there."""

        def __init__(self):
            super().__init__()
            self.layers, self.head = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 8)]), nn.Linear(16, 4)

        def forward(self, x):
            seen.clear()
            if not getattr(self, "installed", False):
                for layer in self.layers:
                    layer.register_forward_hook(lambda _, __, out: seen.append(out))
                self.installed = True
            for layer in self.layers:
                x = layer(x).relu()
            assert len(seen) == 2
            return self.head(torch.cat(seen, -1))

    model, x = Captured().eval(), torch.randn(2, 6)
    first, second = trace(model, x), trace(model, x)
    assert {g.name: g.size for g in first.groups} == {g.name: g.size for g in second.groups} == {
        "layers.0": 8, "layers.1": 8,
    }  # fmt: skip
    assert not any(layer._forward_hooks for layer in model.layers)
    assert verify(model, first, x) < 1e-6
