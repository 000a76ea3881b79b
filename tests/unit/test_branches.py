"""A width of 0: which groups may have it, what is left then, and what that costs."""

import json

import branches
import numpy as np
import pytest
import torch
from judge import judge
from torch import nn

from objectives.costs import Macs, Params
from search_spaces import Dresser, SearchSpace, mask, prune, trace, verify
from search_spaces.branches import trying
from search_spaces.branches.absent import Absent
from search_spaces.graph import Graph
from search_spaces.verify import redraw

ABSENT_COSTS = {"torch attention", "torch encoder", "torch encoder, pre-norm"}  # fused attention is not counted there


@pytest.fixture(scope="module", params=branches.NETWORKS)
def traced(request):
    torch.manual_seed(0)
    model, x = branches.made(request.param)
    redraw(model.double(), 0)
    return request.param, model, x.double(), trace(model, x.double()).with_limits(depth=True)


def candidates(space, count=6):
    """Random widths with zeros; the last one has no branch left."""
    rng = np.random.default_rng(1)
    for _ in range(count):
        yield tuple(
            0 if g.floor == 0 and rng.random() < 0.5 else w
            for w, g in zip(space.sample(rng), space.groups, strict=True)
        )
    yield space.floor


def kept(space, widths):
    rng = np.random.default_rng(2)
    return space.kept(widths, [rng.random(g.size) for g in space.groups])


def test_what_may_vanish(traced):
    name, _, _, space = traced
    may = [g.name for g in space.groups if g.may_vanish]
    assert len(may) == branches.NETWORKS[name][1], [(g.name, g.stays_because) for g in space.groups]
    assert all(g.stays_because for g in space.groups if not g.may_vanish)
    assert all(g.choices()[:2] == (0, 1) for g in space.groups if g.may_vanish)


@torch.no_grad()
def test_pruned_computes_what_the_masked_network_computes(traced):
    _, model, x, space = traced
    dresser = Dresser(model, space)
    for widths in candidates(space):
        units = kept(space, widths)
        torch.testing.assert_close(dresser.dress(units)(x), mask(model, space, units)(x), rtol=1e-9, atol=1e-9)


def test_an_independent_judge_agrees(traced):
    _, model, x, space = traced
    for widths in candidates(space):
        assert judge(model, space, kept(space, widths), x) < 1e-7


@torch.no_grad()
def test_a_removed_branch_costs_nothing_and_nothing_empty_runs(traced):
    name, model, x, space = traced
    macs, params = Macs(space), Params(space)
    for widths in candidates(space):
        network = prune(model, space, kept(space, widths))
        assert params(widths) == sum(p.numel() for p in network.parameters())
        assert all(
            p.numel() for m in network.modules() if "weight" in m._parameters for p in m.parameters(recurse=False)
        )
        assert sum(macs.parts(widths).values()) == pytest.approx(macs(widths))
        assert macs(widths) == macs(space.settled(widths))
        if name not in ABSENT_COSTS:
            assert macs(widths) == counted(network, x)
    absent = [m for m in network.modules() if isinstance(m, Absent)]
    assert absent
    assert not any(list(m.parameters()) for m in absent)


def counted(network, x):
    """Multiply-adds of one image, by the layers' own shapes."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        network(x)
    return counter.get_total_flops() / 2 / len(x)


def test_verify_tries_zeros(traced):
    _, model, x, space = traced
    assert verify(model, space, x, seeds=[0]) < 1e-6


@torch.no_grad()
def test_survives_json(traced):
    _, model, x, space = traced
    again = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert again.branches == space.branches
    assert [g.stays_because for g in again.groups] == [g.stays_because for g in space.groups]
    units = kept(space, space.floor)
    torch.testing.assert_close(prune(model, again, units)(x), prune(model, space, units)(x), rtol=0, atol=0)


def test_groups_of_one_branch_go_together():
    model, x = branches.made("bottleneck")
    space = trace(model, x).with_limits(depth=True)
    first = [g.name for g in space.groups].index("blocks.0.conv1")
    widths = tuple(0 if i == first else g.size for i, g in enumerate(space.groups))
    settled = space.settled(widths)
    assert [g.name for g, w in zip(space.groups, settled, strict=True) if w == 0] == [
        "blocks.0.conv1",
        "blocks.0.conv2",
    ]
    assert [branch.name for branch in space.removed(widths)] == ["blocks.0"]


def test_what_only_serves_two_branches_goes_with_both():
    """The norm in front of an attention and an MLP that run side by side."""
    model, x = branches.made("parallel")
    space = trace(model, x).with_limits(depth=True)
    names = [b.name for b in space.branches]
    assert names == ["blocks.0.attention", "blocks.0.fc1", "blocks.0"]
    assert [b.name for b in space.removed(space.floor)] == ["blocks.0"]
    assert not [n for n in prune(model, space, kept(space, space.floor)).state_dict() if "norm1" in n]
    attention = next(n for n, g in enumerate(space.groups) if "attention" in g.name)
    held = space.with_limits(depth=True, freeze=[space.groups[attention].name])
    assert [g.floor for g in held.groups if g.may_vanish] == [held.groups[attention].size, 0]


def test_a_gate_goes_with_its_block_and_not_the_other_way_round():
    model, x = branches.made("squeezed")
    space = trace(model, x).with_limits(depth=True)
    names = [g.name for g in space.groups]
    block, gate = names.index("blocks.0.branch.0"), names.index("blocks.0.gate.1")
    without_block = space.settled(tuple(0 if i == block else g.size for i, g in enumerate(space.groups)))
    without_gate = space.settled(tuple(0 if i == gate else g.size for i, g in enumerate(space.groups)))
    assert without_block[gate] == 0
    assert without_gate[block] == space.groups[block].size


def test_the_reason_names_what_differs_at_the_border():
    model, x = branches.made("border")
    (group,) = [g for g in trace(model, x).groups if g.name == "blocks.0.conv1"]
    assert not group.may_vanish
    assert "'blocks.0.depthwise'" in group.stays_because
    assert "border" in group.stays_because


@pytest.mark.parametrize(
    ("name", "group", "because"),
    [("sums, alone", "blocks.0.b.0", "without it and 'blocks.0.a.0' nothing is left"),
     ("windowed", "blocks.0.qkv", "the code of 'blocks.0' does not run without them (RuntimeError: cannot reshape"),
     ("queries", "embed", "no way around it")],
)  # fmt: skip
def test_a_reason_is_given(name, group, because):
    model, x = branches.made(name)
    (found,) = [g for g in trace(model, x).groups if g.name == group]
    assert because in found.stays_because, found.stays_because


@pytest.mark.parametrize(
    ("name", "called"),
    [("windowed", ["blocks.0.mlp"]), ("pre-activation", ["blocks.0", "blocks.1"]),
     ("skipping", ["blocks.0.a", "blocks.0.b", "blocks.0.c"])],
)  # fmt: skip
def test_a_block_is_named_where_all_of_it_goes(name, called):
    space = trace(*branches.made(name))
    assert [b.name for b in space.branches] == called


def test_without_depth_a_group_must_keep_a_unit():
    model, x = branches.made("bottleneck")
    space = trace(model, x)
    empty = [np.arange(0 if g.may_vanish else g.size) for g in space.groups]
    with pytest.raises(ValueError, match=r"blocks.0.conv1.*may vanish: give with_limits\(depth=True\)"):
        prune(model, space, empty)
    held = space.with_limits(depth=True, freeze=["blocks.0.conv2"])
    assert [g.name for g in held.groups if g.floor == 0] == ["blocks.1.conv1", "blocks.1.conv2"]


def test_limits_hold_for_what_stays():
    model, x = branches.made("bottleneck")
    space = trace(model, x).with_limits(depth=True, divisor=4, min_keep=0.5)
    (group,) = [g for g in space.groups if g.name == "blocks.0.conv1"]
    assert group.choices() == (0, 4, 8)


def test_a_space_without_depth_has_the_fingerprint_it_had():
    model, x = branches.made("bottleneck")
    space = trace(model, x)
    data = space.to_json()
    data.pop("branches")
    for group in data["groups"]:
        group.pop("vanishes")
    assert SearchSpace.from_json(data).fingerprint == space.fingerprint
    assert space.with_limits(depth=True).fingerprint != space.fingerprint


def test_layers_that_are_left_keep_their_names():
    model, x = branches.made("pre-activation")
    space = trace(model, x).with_limits(depth=True)
    names = prune(model, space, kept(space, space.floor)).state_dict().keys()
    left = {n for n in names if not n.endswith(".constant")}
    assert left == {"stem.weight", "stem.bias", "blocks.1.shortcut.weight", "blocks.1.shortcut.bias", "fc.weight",
                    "fc.bias", *(f"blocks.1.norm1.{p}" for p in ("weight", "bias", "running_mean", "running_var",
                                                                "num_batches_tracked"))}  # fmt: skip


@pytest.mark.parametrize("name", ["y += x", "squeezed", "dense", "pre-norm"])
def test_what_is_left_is_exported(name):
    model, x = branches.made(name)
    space = trace(model, x).with_limits(depth=True)
    network = prune(model, space, kept(space, space.floor))
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (x,), dynamic_shapes=({0: batch},)).module()
    more = torch.cat([x, x, x])
    torch.testing.assert_close(program(more), network(more))


def test_a_stranger_names_no_other_operator():
    model, x = branches.made("scaled")
    data = trace(model, x).with_limits(depth=True).to_json()
    steps = next(row[4] for row in data["branches"][0][3] if row[4])
    steps[1:] = [["pointwise", "normal_.default", [["step", 0]], []]]
    space = SearchSpace.from_json(data)
    with pytest.raises(ValueError, match="no operator on single elements"):
        prune(model, space, kept(space, space.floor))
    steps[1:] = [["pointwise", "mul.Tensor", [["step", 1]], []]]
    with pytest.raises(ValueError, match="branches"):
        SearchSpace.from_json(data)


def test_the_training_mode_of_a_network_is_that_of_what_stands_in():
    model, x = branches.made("drop-path")
    space = trace(model, x).with_limits(depth=True)
    network = prune(model.train(), space, kept(space, space.floor))
    assert all(m.training for m in network.modules())
    network(x)
    assert isinstance(network.blocks[0].branch, Absent)
    assert isinstance(model.blocks[0].branch, nn.Sequential)


# -- code that may not run without a branch is run ------------------------------------------------------------------


class Reshaping(branches.Windowed):
    """Of the same parts, but another switch: its code gives the reshape all sizes, and runs on no head."""

    def __init__(self):
        super().__init__()
        self.sized = True

    def forward(self, x):
        n, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, dim // 4).permute(2, 0, 3, 1, 4)
        x = x + self.proj(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).reshape(n, tokens, self.heads * (dim // 4)))
        return x + self.mlp(x)


def traced_with_runs(monkeypatch, model, x):
    """The space, and how often the network was run without something."""
    runs = []
    monkeypatch.setattr(trying, "prune", lambda *args: (runs.append(1), prune(*args))[1])
    return trace(model.eval(), x), len(runs)


def test_blocks_that_run_are_run_together(monkeypatch):
    blocks = [branches.Idle(16) for _ in range(6)]
    space, runs = traced_with_runs(monkeypatch, branches.Classifier(*blocks), torch.randn(branches.IMAGES))
    assert sum(g.may_vanish for g in space.groups) == 12
    assert runs == 2


def test_blocks_of_a_kind_that_fails_are_run_once(monkeypatch):
    blocks = [branches.Windowed() for _ in range(8)]
    space, runs = traced_with_runs(monkeypatch, branches.Transformer(*blocks), torch.randn(branches.TOKENS))
    assert [g.may_vanish for g in space.groups if "qkv" in g.name] == [False] * 8
    assert runs == 3


def test_a_block_that_runs_may_go_beside_others_that_fail(monkeypatch):
    blocks = [Reshaping() if n == 5 else branches.Windowed() for n in range(8)]
    space, runs = traced_with_runs(monkeypatch, branches.Transformer(*blocks), torch.randn(branches.TOKENS))
    assert [g.may_vanish for g in space.groups if "qkv" in g.name] == [n == 5 for n in range(8)]
    assert runs == 4


class Steered(nn.Module):
    """Asks for a maximum, which nothing has, where a number says so."""

    def __init__(self, order):
        super().__init__()
        self.order, self.conv1, self.conv2 = order, nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)

    def forward(self, x):
        y = self.conv1(x)
        return x + self.conv2(y) * (1.0 if self.order == 1 else 1.0 + 0.0 * float(y.shape[1] and y.max()))


class Siblings(nn.Module):
    """Its code minds when just one of two of its branches is gone."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(16, 6, 1) for _ in range(3))
        self.up_a, self.up_b, self.up_c = (nn.Conv2d(6, 16, 1) for _ in range(3))

    def forward(self, x):
        a, b, c = self.a(x), self.b(x), self.c(x)
        gone = [bool((each.abs().sum(1) == 0).all()) for each in (a, b, c)]
        if gone[0] != gone[2]:
            raise RuntimeError("one without the other")
        return x + self.up_a(a) + self.up_b(b) + self.up_c(c)


def test_what_numbers_steer_is_no_other_kind():
    kinds = [trying._kind(module) for module in (Steered(1), Steered(2), Steered(1), Steered(16), Steered(32))]
    assert kinds[0] == kinds[2] != kinds[1] != kinds[3] == kinds[4]


@pytest.mark.parametrize(
    "name", [n for n in branches.NETWORKS if n in ("idle", "gated", "sums", "windowed", "queries")]
)
def test_every_branch_that_may_go_runs_alone(name):
    model, x = branches.made(name)
    space = trace(model, x)
    run = trying.WithoutBranches(model, (x,), {})
    assert [run(space, [branch]) for branch in space.branches if len(branch.causes[0]) == 1] == [
        "" for branch in space.branches if len(branch.causes[0]) == 1
    ]


def test_branches_of_one_module_are_not_tried_together():
    model, x = branches.Classifier(Siblings(), Siblings()), torch.randn(branches.IMAGES)
    may = {g.name for g in trace(model.eval(), x).groups if g.may_vanish}
    assert may == {"blocks.0.b", "blocks.1.b"}


def test_memory_that_others_get_later_was_not_written_for_them():
    """Storages are known by their address; a tensor that gets that of a dead one read an operation of another layer."""
    graph, memory = Graph({}, lambda tensor: None), np.ones(100, np.float32)
    tensor = torch.from_numpy(memory)
    graph.add(torch.ops.aten.relu_.default, (tensor,), {}, tensor.relu_())
    graph.add(torch.ops.aten.view.default, (tensor.detach(),), {}, torch.empty(1))
    assert graph.nodes[-1].reads == (0,), "through a view of the same memory"
    del tensor
    later = torch.from_numpy(memory)
    graph.add(torch.ops.aten.view.default, (later,), {}, later.view(10, 10))
    assert graph.nodes[-1].reads == ()


def test_a_trace_is_the_same_each_time():
    torch.manual_seed(0)
    conv = lambda: nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=4), nn.BatchNorm2d(16), nn.ReLU(inplace=True))  # noqa: E731
    blocks = (branches.Residual(nn.Sequential(nn.Conv2d(16, 16, 1), *conv(), nn.Conv2d(16, 16, 1))) for _ in range(6))
    model, x = branches.Classifier(*blocks).eval(), torch.randn(branches.IMAGES)
    first, *others = [trace(model, x).branches for _ in range(4)]
    assert all(
        [(b.name, b.groups, b.causes) for b in o] == [(b.name, b.groups, b.causes) for b in first] for o in others
    )


class Doubled(nn.Module):
    """A branch whose answer is added to itself, again and again."""

    def __init__(self, bias, last):
        super().__init__()
        self.entry, self.inner = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1, bias=bias)
        self.outer, self.head, self.last = nn.Conv2d(6, 8, 1, bias=bias), nn.Linear(8, 4), last

    def forward(self, x):
        x = self.entry(x)
        y = self.outer(self.inner(x).relu())
        for _ in range(60):
            y = y + y.sigmoid()
        return self.head((x + self.last(y)).mean((2, 3)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("last", [nn.Identity(), nn.Conv2d(8, 8, 1)], ids=["given on", "read"])
def test_what_is_read_many_times_is_looked_at_once(law, bias, last):
    """Else it would be as often as there are ways through it: 2 ** 60."""
    space = law(Doubled(bias, last), torch.randn(1, 3, 4, 4), seeds=(0,))
    assert next(g for g in space.groups if g.name == "inner").may_vanish


class Parts(nn.Module):
    """Takes apart what a module of torch's own answers; of nothing there is no second part."""

    def __init__(self):
        super().__init__()
        self.conv1, self.relu, self.conv2, self.width = nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 1), 4

    def forward(self, x):
        parts = torch.split(self.relu(self.conv1(x)), self.width, 1)
        return x + self.conv2(torch.cat([parts[1], parts[0]], 1))


def test_code_that_fails_on_what_a_module_answers_is_that_of_the_block(monkeypatch):
    blocks = [Parts() for _ in range(6)]
    space, runs = traced_with_runs(monkeypatch, branches.Classifier(*blocks), torch.randn(branches.IMAGES))
    stays = [g.stays_because for g in space.groups if g.name.endswith("conv1")]
    assert len(stays) == 6
    assert all("does not run without them" in why for why in stays)
    assert runs == 3
