"""Ask and tell: a search whose candidates somebody else evaluates."""

import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

import autoprune
from autoprune import cli
from autoprune.errors import LedgerMismatch, RunIsLive, SearchStopped
from autoprune.problem import TrialState
from objectives.costs import Macs

EXAMPLE = torch.zeros(1, 3, 8, 8)


def network():
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)]
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 12, 3), nn.ReLU(), *head)


def study(name="mine", **settings):
    return autoprune.Study(network(), EXAMPLE, name=name, **{"trials": 12, "strategy": "evolution"} | settings)


def worth(candidate):
    return abs(candidate.widths[0] - 7) + candidate.costs["params"] / 1000


def run(found, most=10**6):
    for number, candidate in enumerate(found):
        found.tell(candidate, worth(candidate))
        if number + 1 == most:
            break
    return found


def test_a_candidate_is_a_smaller_network_within_the_budget(here):
    dense = network()
    with study(budget=["macs<=50%", "params<=80%"]) as found:
        candidate = found.ask()
        assert isinstance(candidate, nn.Module)
        assert candidate(torch.randn(2, 3, 8, 8)).shape == (2, 4)
        assert [candidate.model[0].out_channels, candidate.model[3].out_channels] == [*candidate.widths]
        space = autoprune.Study(dense, EXAMPLE, name="other")._problem.space
        assert candidate.costs["macs"] == Macs(space)(candidate.widths) <= 0.5 * Macs(space)(space.full)
        assert candidate.costs["params"] == sum(p.numel() for p in candidate.parameters())
        assert candidate.loss is None


def test_five_lines_search(here):
    with study() as found:
        for candidate in found:
            found.tell(candidate, worth(candidate))
        assert found.best.loss == min(t.loss for t in found.trials)
        assert worth(found.best) == pytest.approx(found.best.loss)
        assert found.ask() is None


def test_stopped_and_gone_on_equals_never_stopped(here):
    with run(study("whole")) as whole, run(study("parts"), 5):
        pass
    with study("parts") as again:
        assert len(again.trials) == 5
        run(again)
        assert [t.widths for t in again.trials] == [t.widths for t in whole.trials]
        assert again.best.widths == whole.best.widths


def test_what_was_asked_and_never_told_is_asked_again(here):
    with study() as found:
        first = found.ask()
    with study() as found:
        again = found.ask()
        assert (again.number, again.widths) == (first.number, first.widths)


def test_a_killed_process_leaves_all_that_was_told(here):
    code = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import test_study as t; f = t.study()\n"
    code += "f.tell(f.ask(), 1.0); f.ask(); import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    with study() as found:
        assert [t.state for t in found.trials] == [TrialState.COMPLETE, TrialState.RUNNING]
        assert found.ask().number == 1


def test_several_are_out_at_once(here):
    with study() as found:
        one, two = found.ask(), found.ask()
        assert one.number != two.number
        found.tell(two, 2.0)
        found.tell(one, torch.tensor(1.0))
        assert (found.best.number, one.loss) == (one.number, 1.0)
        found.tell(one, 5.0)
        assert found.best.loss == 1.0  # the first answer counts
        assert len({t.worker for t in found.trials}) == 2


def test_a_failure_is_told(here):
    with study(trials=3) as found:
        assert found.tell(found.ask(), None).state is TrialState.FAIL
        assert found.tell(found.ask(), float("nan")).state is TrialState.FAIL
        assert found.best is None
        found.tell(found.ask(), {"loss": 1, "top1": 0.5})
        assert found.best.loss == 1.0


def test_too_many_failures_stop_it(here):
    with study(trials=50) as found:
        for _ in range(10):
            found.tell(found.ask(), None)
        with pytest.raises(SearchStopped, match="10 candidates all failed"):
            found.ask()


def test_a_strategy_that_waits_says_so(here):
    with study(strategy="netadapt", warm_starts="none", trials=50) as found, pytest.raises(SearchStopped, match="told"):
        list(found)


def test_criteria_that_look_at_data_get_batches(here):
    batches = [(torch.randn(8, 3, 8, 8), torch.arange(8) % 4)]
    with study("with", criterion="taylor", batches=batches) as found:
        assert found.ask() is not None
    with study("with", criterion="taylor") as found:  # its scores are kept
        assert found.ask() is not None
    with pytest.raises(ValueError, match="criterion 'taylor': needs batches"):
        study("without", criterion="taylor")


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"seed": 1}, LedgerMismatch, "seed"),
        ({"budget": "macs<=40%"}, LedgerMismatch, "budgets"),
    ],
)
def test_another_problem_of_the_same_name_is_refused(here, settings, error, said):
    study().close()
    with pytest.raises(error, match=said):
        study(**settings)


def test_two_processes_do_not_write_one(here):
    with study(), pytest.raises(RunIsLive):
        study()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 3}, "takes no epochs"),
        ({"trails": 3}, "did you mean 'trials'"),
        ({"budget": "macs<=1%"}, "unreachable"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(here, settings, said):
    with pytest.raises(ValueError, match=said):
        study(**settings)
    assert not list(here.iterdir())


def test_a_loss_that_is_no_number_is_refused(here):
    with study() as found:
        candidate = found.ask()
        for wrong in ("good", {"top1": 1.0}, torch.zeros(3)):
            with pytest.raises(ValueError, match="must be one number"):
                found.tell(candidate, wrong)
        with pytest.raises(ValueError, match="never asked"):
            found.tell(99, 1.0)
        found.tell(candidate, 1.0)


def test_its_directory_is_that_of_a_run(here):
    run(study()).close()
    assert autoprune.status("results/mine").best.loss == min(t.loss for t in study().trials)
    autoprune.report("results/mine")
    assert (here / "results/mine/report.html").is_file()


class Pair(nn.Module):
    """Two inputs by name; with its targets it says its own loss, as Hugging Face's networks do."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, left, right, labels=None):
        said = {"logits": self.head(torch.relu(self.left(left) + self.right(right)))}
        return said if labels is None else {**said, "loss": nn.functional.cross_entropy(said["logits"], labels)}


class Ordered(Pair):
    def forward(self, left, right):
        return super().forward(left, right)["logits"]


class Listed(nn.Module):
    """Images of different sizes in a list."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

    def forward(self, images):
        return torch.stack([self.head(torch.relu(self.conv(image[None])).mean((2, 3)))[0] for image in images])


LEFT, RIGHT = torch.randn(8, 4), torch.randn(8, 6)
CLASSES = torch.arange(8) % 3
IMAGES = [torch.randn(3, 8, 8), torch.randn(3, 10, 6)]


@pytest.mark.parametrize("criterion", ["taylor", "group_fisher", "apoz"])
@pytest.mark.parametrize(
    ("net", "example", "batch", "loss"),
    [
        (Pair, {"left": LEFT[:1], "right": RIGHT[:1]}, {"left": LEFT, "right": RIGHT, "labels": CLASSES}, None),
        (Ordered, (LEFT[:1], RIGHT[:1]), ((LEFT, RIGHT), CLASSES), None),
        (Ordered, (LEFT[:1], RIGHT[:1]), ((LEFT, RIGHT), torch.randn(8, 3)), nn.functional.mse_loss),
        (Listed, (IMAGES,), (IMAGES, torch.randn(2, 2)), nn.functional.mse_loss),
    ],
    ids=["names", "several", "regression", "list"],
)  # fmt: skip
def test_batches_of_any_kind_score_its_channels(here, net, example, batch, loss, criterion):
    with autoprune.Study(net(), example, "params<=60%", criterion=criterion, batches=[batch], loss=loss) as found:
        candidate = found.ask()
        assert candidate.costs["params"] < 0.61 * sum(p.numel() for p in net().parameters())


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([], "study: batches.*: is empty"),
        (iter([(LEFT, 0)]), "study: batches.*: can be iterated once only"),
        (3, "study: batches.*: must give batches each time"),
        ([((LEFT, RIGHT), torch.randn(8, 3))], "study: batches.*the network says none when it is given the targets"),
    ],
)
def test_batches_that_say_nothing_are_refused_before_anything_is_written(here, batches, said):
    with pytest.raises(ValueError, match=said):
        autoprune.Study(Ordered(), (LEFT[:1], RIGHT[:1]), "params<=60%", criterion="taylor", batches=batches)
    assert not list(here.iterdir())


def test_the_verbs_of_a_run_say_what_to_type(here, capsys):
    run(study(strategy="random", seed=4)).close()
    call = "autoprune.Study(model, example_inputs, budget=['macs<=50%'], seed=4, strategy='random', trials=12, "
    for verb in (autoprune.resume, autoprune.finetune, autoprune.export):
        with pytest.raises(ValueError, match=re.escape(call)) as found:
            verb("results/mine")
        assert "\n" not in str(found.value)
    assert cli.main(["status", "results/mine"]) == 0
    assert "a study, in Python" in capsys.readouterr().out
    told = re.search(r"autoprune\.Study\(.*\)", str(found.value))[0]
    with eval(told, {"autoprune": autoprune, "model": network(), "example_inputs": EXAMPLE}) as again:
        assert again.ask() is None  # the very same one, and it is over
