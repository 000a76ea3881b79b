"""When to prune: the formulas by hand, and units that go in the middle of a training."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from tiny_training import PER_EPOCH, equal, network, pruning, trained

from autoprune.training.methods import METHODS, EarlyBird, Epi, Gap, Gates, GReg1, Imp, Sandwich
from autoprune.training.methods.finding import FindingUnits
from autoprune.training.methods.sooner import Sooner
from autoprune.training.methods.waiting import WaitingUnits, alike, stability
from autoprune.training.units import kept_of
from search_spaces import prune


def test_alike_by_hand():
    # |8 - 8| / 16 = 0, |6 - 2| / 8 = 1/2: 1 - (0 + 1/2) / 2
    assert alike(torch.tensor([8, 6]), torch.tensor([8, 2])) == pytest.approx(0.75)
    assert alike(torch.tensor([3, 3]), torch.tensor([3, 3])) == 1


def test_stability_by_hand():
    widths = [torch.tensor([8, 6]), torch.tensor([8, 2]), torch.tensor([8, 2]), torch.tensor([8, 2])]
    # epoch 2: 0.75 of epoch 1; epoch 3: 1 and 0.75; epoch 4, of the last two: 1 and 1
    assert stability(widths, 2) == pytest.approx([0.75, 0.875, 1.0])


def scripted(method, choices):
    """A method that is told what it would choose after each epoch."""
    told = iter(choices)
    method.choose = lambda: next(told)
    return method


def masks(base, *counts):
    """So many units of the first group would go, in an epoch each."""
    sizes = [g.size for g in base.space.groups]
    return [tuple(torch.arange(s) < (count if i == 0 else 0) for i, s in enumerate(sizes)) for count in counts]


def test_epi_goes_at_the_first_epoch_that_is_alike_and_no_worse_than_those_before():
    base = pruning(network())  # a choice at the begin, then one after each epoch
    method = scripted(Epi(base, tau=0.983, last=2), masks(base, 0, 3, 1, 1, 1, 2))
    after = trained(method, network(), steps=6 * PER_EPOCH)
    small, images = prune(after, base.space, kept_of(method.pruned)), torch.randn(4, 3, 6, 6)
    torch.testing.assert_close(small(images), after(images), rtol=1e-4, atol=1e-5)
    # widths 3, 5, 5, 5 of 6 in one of three or more groups: the third epoch still sees the first, the fourth does not
    assert method.settled_after == 4
    assert int(method.pruned[0].sum()) == 1


def test_early_bird_goes_when_at_most_a_tenth_of_the_units_differ():
    base = pruning(network())
    units = sum(g.size for g in base.space.groups)
    assert 2 / units > 0.1 > 1 / units
    method = scripted(EarlyBird(base, last=2), masks(base, 0, 5, 3, 2, 2, 2))
    trained(method, network(), steps=6 * PER_EPOCH)
    assert method.settled_after == 4  # 3, 2, 2: at most one of all units differs


def test_it_goes_at_the_last_step_if_it_never_settles():
    base = pruning(network())
    method = scripted(EarlyBird(base, distance=0.0), masks(base, *[0, 1, 2, 3], 2))
    trained(method, network(), steps=4 * PER_EPOCH)
    assert method.settled_after == 0
    assert int(method.pruned[0].sum()) == 2


@pytest.mark.parametrize("cls", [Epi, EarlyBird])
@pytest.mark.parametrize(("epochs", "settled"), [(3, 2), (4, 3), (5, 4), (12, 0)])
def test_a_short_training_compares_as_many_epochs_as_it_has(cls, epochs, settled):
    """What never changes settles before the last epoch; of a long one after as many epochs as are published."""
    base = pruning(network())
    method = scripted(cls(base), masks(base, *[1] * (epochs + 1)))
    trained(method, network(), steps=epochs * PER_EPOCH)
    assert method.settled_after == (settled or method.last + 1)


FINDING = [c for c in METHODS.values() if issubclass(c, FindingUnits) and not issubclass(c, WaitingUnits)]
FAST = (Gates, Gap)  # one has hooks, the other does not hold the budgets on its way


@pytest.mark.parametrize("method", [c if c in FAST else pytest.param(c, marks=pytest.mark.slow) for c in FINDING])
def test_any_method_that_finds_units_can_choose_early(method, tmp_path):
    def made():
        base = pruning(network())
        return Sooner(method(base), Epi(base, tau=0.0, last=1))

    def die(_, done):
        if done == 2 * PER_EPOCH - 1:
            raise InterruptedError

    sooner, path = made(), tmp_path / "state.pt"
    after = trained(sooner, network(), steps=4 * PER_EPOCH)
    assert sooner.settled_after == 2  # the first epoch with one before it
    assert sooner.pruning.problem.feasibility.violation([len(k) for k in sooner.kept()]) == 0
    small, images = prune(after, sooner.pruning.space, sooner.kept()), torch.randn(4, 3, 6, 6)
    torch.testing.assert_close(small(images), after(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(InterruptedError):
        trained(made(), network(), steps=4 * PER_EPOCH, checkpoint=path, listener=die)
    done = []
    again = trained(made(), network(), steps=4 * PER_EPOCH, checkpoint=path, listener=lambda _, step: done.append(step))
    assert equal(again, after)
    assert torch.equal(again(images), after(images))
    assert done[-1] == 2 * PER_EPOCH  # of four epochs: it is over
    assert equal(trained(made(), network(), steps=4 * PER_EPOCH, checkpoint=path), after)  # and stays so


def test_the_learning_rate_goes_through_its_schedule_as_often_as_without_it():
    base = pruning(network())
    assert Sooner(Imp(base, phases=4), Epi(base)).cycles() == 4


def test_what_has_no_moment_is_refused():
    base = pruning(network())
    for method in (Sandwich(base), Epi(base), GReg1(base)):
        with pytest.raises(ValueError, match=f"method '{method.name}' has no such moment; leave prune_when out"):
            Sooner(method, Epi(base))


def test_bad_input():
    with pytest.raises(ValueError, match="method 'epi': last must be a whole number of at least 1"):
        trained(Epi(pruning(network()), last=0), network())
    with pytest.raises(ValueError, match="method 'early-bird': its schedule needs at least 17 steps"):
        trained(EarlyBird(pruning(network())), network(), steps=PER_EPOCH)
