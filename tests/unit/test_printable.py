"""Texts from outside reach no terminal as commands."""

import pytest
import torch

from autoprune.data import ImageData, Split
from autoprune.printable import decimals, printable
from autoprune.problem import Trial, TrialState
from autoprune.report.trials import write_csv
from search_spaces import trace

RED, TITLE, LINK = "\x1b[31;1mred\x1b[0m", "\x1b]0;title\x07bell", "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é, 漢字, ±", "plain, é, 漢字, ±"),
        (RED, "red"),
        (TITLE, "bell"),
        (LINK, "link"),
        ("\x9b31mred", "red"),
        ("a\x1bcb", "a\\x1bcb"),  # would reset the terminal
        ("a\x1b7b", "a\\x1b7b"),
        ("two\nlines\tand\r\nmore", "two lines and more"),
        ("nul\0 bell\x07 back\x08 delete\x7f", "nul\\x00 bell\\x07 back\\x08 delete\\x7f"),
        ("right\u202eleft \ud800", "right\\u202eleft \\ud800"),
        ("cut off \x1b[", "cut off \\x1b["),
        ("", ""),
    ],
)
def test_commands_go_and_what_nobody_sees_is_shown(text, shown):
    assert printable(text) == shown
    assert printable(printable(text)) == shown


def test_a_failure_is_harmless_wherever_it_is_shown(tmp_path):
    trial = Trial(0, (3,), TrialState.FAIL, error=f"ValueError: {RED}\n{TITLE}", worker=f"me{RED}")
    assert trial.error == "ValueError: red bell"
    write_csv(tmp_path / "trials.csv", [trial], {0: {"macs": 1.0}}, ["a"])
    assert "\x1b" not in (tmp_path / "trials.csv").read_text()


def test_class_names_are_harmless():
    part = Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4) % 2)
    data = ImageData(part, part, part, (0.5,), (0.5,), (RED, "dog\n"))
    assert data.classes == ("red", "dog")


def test_a_module_with_a_name_that_nobody_can_see_is_refused(toy):
    model = toy(lambda s, x: x)
    model.add_module(RED, torch.nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match=r"the module named '\\x1b\[31;1mred\\x1b\[0m' has characters that nobody can"):
        trace(model, torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (2.31834, "2.3183"),
        (0.1, "0.1000"),
        (0.0, "0.0000"),
        (0.05, "0.0500"),
        (1e-7, "1e-07"),
        (0.00061642, "0.0006164"),
        (0.0012346, "0.001235"),
        (-0.25, "-0.2500"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_small_losses_keep_four_digits(value, shown):
    assert decimals(value) == shown
