"""Branches from the settings to the report: the setting, what branches are worth, reconstruction, messages."""

import re
import sys
from dataclasses import replace

import branches
import numpy as np
import pytest
import torch
from torch import nn

import autoprune
from autoprune import criteria
from autoprune.compute import Compute
from autoprune.exporting import export
from autoprune.recovery.reconstruction import Reconstruction
from autoprune.report.tables import branches_table, removed
from autoprune.runs.posing import make_problem
from objectives import Feasibility, InfeasibleBudget, parse
from objectives.latency import Comparison, fit, needed
from objectives.latency.sampling import sample
from objectives.latency.sites import sites_of
from search_spaces import VerificationError, prune, trace, verified, verify
from search_spaces.branches import holding
from search_spaces.branches.emptied import Network


def network(name="inverted"):
    torch.manual_seed(0)
    model, _ = branches.made(name)
    x = torch.randn(16, 3, 8, 8)
    return model, x, trace(model, x[:2]).with_limits(depth=True)


def whole(widths):
    return [np.arange(w) for w in widths]


@pytest.mark.parametrize(
    ("depth", "budget", "deep"),
    [("auto", "macs<=50%", False), ("auto", "latency<=50%@torch", True), ("off", "latency<=50%@torch", False),
     ("on", "macs<=50%", True)],
)  # fmt: skip
def test_depth_is_on_under_a_latency_budget(depth, budget, deep):
    config = autoprune.RunConfig(model="m:f", data="digits", budget=(budget,), depth=depth)
    assert config.deep is deep


def test_depth_is_one_of_three():
    with pytest.raises(ValueError, match="depth: must be auto, on or off, got 'deep'"):
        autoprune.RunConfig(model="m:f", data="digits", budget=("macs<=50%",), depth="deep")


def test_a_branch_is_worth_the_loss_without_it():
    model, x, space = network()
    labels = torch.randint(0, 5, (16,))
    found = criteria.branch_losses(model, space, [(x, labels)])
    dense = nn.functional.cross_entropy(model(x), labels).item()
    for branch, rise in zip(space.branches, found, strict=True):
        without = prune(model, space, whole(space.without(space.full, branch)))
        assert dense + rise == pytest.approx(nn.functional.cross_entropy(without(x), labels).item(), abs=1e-5)


def test_scores_add_up_to_what_branches_are_worth_and_keep_their_order(monkeypatch):
    model, x, space = network()
    scores = [np.random.default_rng(0).random(g.size) for g in space.groups]
    monkeypatch.setattr("autoprune.criteria.branches.branch_losses", lambda *_: (0.3, 0.1))
    found = criteria.with_branch_losses(scores, model, space, [(x, x)])
    sums = [sum(found[g].sum() for g in b.groups) for b in space.branches]
    assert sums[0] == pytest.approx(3 * sums[1])
    assert sum(sums) == pytest.approx(sum(scores[g].sum() for b in space.branches for g in b.groups))
    assert all((np.argsort(f) == np.argsort(s)).all() for f, s in zip(found, scores, strict=True))
    stream = next(n for n, g in enumerate(space.groups) if not g.may_vanish)
    assert (found[stream] == scores[stream]).all()


def test_reconstruction_bridges_a_missing_block():
    """The layers behind it lose no input, and are fitted to the dense outputs all the same."""
    model, x, space = network()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    kept = whole(space.without(space.full, space.branches[0]))
    compute = Compute(torch.device("cpu"), amp=False, channels_last=False)
    fit = Reconstruction(model, space, lambda net: net(x), compute)
    with torch.no_grad():
        expected = model(x)
    gap = {}
    for fitted in (False, True):
        net = prune(model, space, kept).eval()
        if fitted:
            layers = fit(net, kept)
            assert "blocks.1.conv.0" in layers
            assert not any(name.startswith("blocks.0.") for name in layers)
        with torch.no_grad():
            gap[fitted] = float((net(x) - expected).square().mean())
    assert gap[True] < 0.5 * gap[False]


def test_a_branch_that_breaks_the_law_has_to_stay(monkeypatch):
    model, x, space = network()
    wrong = replace(space.branches[0].stand_ins[0], steps=space.branches[0].stand_ins[0].steps[:1])
    broken = replace(space, branches=(replace(space.branches[0], stand_ins=(wrong,)), *space.branches[1:]))
    found = verified(model, broken, x[:2])
    (first, second) = (found.groups[b.groups[0]] for b in space.branches)
    assert (first.floor, first.may_vanish) == (1, False)
    assert "'blocks.0'" in first.stays_because
    assert second.floor == 0
    assert verified(model, space, x[:2]) is space


def test_of_branches_that_only_fail_together_one_has_to_stay(monkeypatch):
    torch.manual_seed(0)
    model, x = branches.made("u-net")
    # As if no stand-in knew that its neighbours may be gone, too.
    monkeypatch.setattr(Network, "follow", lambda self, constant: set())
    space = trace(model, x).with_limits(depth=True)
    with pytest.raises(VerificationError, match="no single group"):
        verify(model, space, x)
    found = verified(model, space, x)
    assert verify(model, found, x) < 1e-6
    pairs = zip(found.groups, space.groups, strict=True)
    held = [g for g, before in pairs if g.floor and not before.floor]
    assert held
    assert not any(g.may_vanish for g in held)
    assert re.search("answers otherwise without '.*' than .* where '.*' is gone, too", held[0].stays_because), held
    assert found.vanishing is not None
    for branch in found.branches:
        widths = found.without(found.full, branch)
        assert found.check(widths) == widths


def test_a_branch_that_is_wrong_in_a_later_draw_has_to_stay(monkeypatch):
    """`verify` draws the network anew for each seed; the first may hide what the others show."""
    model, x, space = network()
    gone, real, made = space.branches[0].groups[0], holding.Subject.difference, holding.subject_of

    def difference(self, space, kept):
        return 1.0 if self.seed and not len(kept[gone]) else real(self, space, kept)

    def subject_of(model, example_inputs, seed, tolerance):
        subject = made(model, example_inputs, seed, tolerance)
        subject.seed = seed
        return subject

    monkeypatch.setattr(holding.Subject, "difference", difference)
    for module in (holding, sys.modules[verify.__module__]):
        monkeypatch.setattr(module, "subject_of", subject_of)
    found = verified(model, space, x[:2])
    assert found.groups[gone].floor == 1
    assert found.vanishing is not None


def test_what_is_wrong_with_all_branches_there_is_told(monkeypatch):
    model, x, space = network()
    first, real = next(n for n, g in enumerate(space.groups) if g.floor == 0), holding.Subject.difference

    def difference(self, space, kept):
        return float("nan") if len(kept[first]) < space.groups[first].size else real(self, space, kept)

    monkeypatch.setattr(holding.Subject, "difference", difference)
    with pytest.raises(VerificationError, match="NaN or infinity"):
        verified(model, space, x[:2])


def test_a_budget_that_only_depth_reaches_says_so():
    space = network()[2].with_limits(min_keep=0.5).standing
    with pytest.raises(InfeasibleBudget, match=r"--depth on reaches \d"):
        Feasibility(space, [parse("macs<=5%")])


def test_a_latency_budget_that_only_depth_reaches_says_what_was_measured_with_it(monkeypatch):
    model, x, space = network()
    measured = []

    def study(backend, name, model, space, example, **_):
        sites = sites_of(model, space, example)
        widths = np.array([sample(space, n) for n in range(48)])
        return fit(name, sites, widths, 1 + 0.01 * widths.sum(1), 1 + 0.01 * sum(space.full), {"device": "made up"})

    def compare(backend, build, dense, widths):
        measured.append(widths)
        build(widths)()  # it can be made, and runs
        return Comparison(1.0, 0.01, 0.31, 0.01, 0.31, 0.001, 5)

    monkeypatch.setattr(needed, "study", study)
    monkeypatch.setattr(needed, "compare", compare)
    config = autoprune.RunConfig(model="m:f", data="digits", budget=("latency<=40%@torch",), depth="off")
    with pytest.raises(InfeasibleBudget, match=r"--depth on reaches 31.0 % of latency@torch.*, measured"):
        make_problem(config, model, space.standing, x[:1], lambda: None)
    assert measured == [space.deep.floor]
    config = replace(config, budget=("latency<=100%@torch", "macs<=0.1%"))
    with pytest.raises(InfeasibleBudget, match=r"'macs<=0.1%': unreachable"):
        make_problem(config, model, space.standing, x[:1], lambda: None)
    assert len(measured) == 1  # of a budget that can hold nothing is measured
    assert {space.deep.floor[g] for b in space.branches for g in b.groups} == {0}
    assert needed.reached_with_depth([parse("latency<=40%@torch")], model, space, x[:1]) == {}


def test_what_was_removed_is_said():
    space = network()[2]
    one = space.without(space.full, space.branches[0])
    assert removed(space, space.full) == ""
    assert removed(space, one) == "block blocks.0"
    assert removed(space, space.floor) == "block blocks.0, block blocks.1 (every block of blocks)"
    stays, x = branches.made("pre-activation")  # a convolution between the blocks
    stays.blocks.insert(1, nn.Conv2d(16, 16, 1))
    space = trace(stays, x).with_limits(depth=True)
    assert removed(space, space.floor) == "block blocks.0, block blocks.2"
    gated = trace(*branches.made("squeezed")).with_limits(depth=True)
    said = [removed(gated, gated.without(gated.full, branch)) for branch in gated.branches]
    assert said == ["branch blocks.0.gate", "branch blocks.1.gate", "block blocks.0", "block blocks.1"]


def test_the_profile_names_what_may_go_and_why_not(capsys):
    from rich.console import Console

    Console(width=200).print(branches_table(network("border")[2]))
    said = capsys.readouterr().out
    assert "yes, with blocks.1.conv1" in said
    assert "the padded convolution 'blocks.0.depthwise'" in said
    assert "1 branch" in said


def test_an_export_rebuilds_what_is_left(tmp_path):
    model, x, space = network("y += x")
    kept = whole(space.floor)
    pruned = prune(model, space, kept)
    export(tmp_path / "out", pruned, space=space, kept=tuple(kept))
    again = autoprune.load(tmp_path / "out", lambda: network("y += x")[0])
    with torch.no_grad():
        torch.testing.assert_close(again(x), pruned.eval()(x), rtol=0, atol=0)
