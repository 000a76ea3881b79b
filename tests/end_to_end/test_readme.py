"""What the README says works when it is typed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import autoprune
from autoprune.cli import parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line[2:] for block in re.findall(r"```console\n(.*?)```", README, re.S) for line in block.splitlines()]
PYTHON = [block for block in re.findall(r"```python\n(.*?)```", README, re.S)]
OWN_PARTS = next(block for block in PYTHON if "def data" in block)  # what `mine:` means in the commands


def test_it_opens_with_the_two_commands_and_three_lines():
    assert [c.split("#")[0].strip() for c in COMMANDS[:2]] == ["make demo", "make test"]
    assert README.index("make demo") < README.index("autoprune.search(") < README.index("## ")
    assert len(PYTHON[0].splitlines()) == 3


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("autoprune")])
def test_every_command_is_one_that_exists(command):
    parser().parse_args(shlex.split(command, comments=True)[1:])


def test_every_verb_is_shown():
    shown = {c.split()[1] for c in COMMANDS if c.startswith("autoprune")}
    verbs = "profile adapt search train resume status export finetune attach report compare"
    assert shown == set(verbs.split())


def test_every_own_part_is_used():
    used = set(re.findall(r"mine:(\w+)", next(c for c in COMMANDS if "mine:" in c)))
    assert used == set(re.findall(r"^(?:def|class) (\w+)", OWN_PARTS, re.M))


def test_the_python_blocks_compile():
    for block in PYTHON:
        compile(block, "README.md", "exec")


@pytest.mark.parametrize(
    "path", re.findall(r"^(?:  )?([a-z_]+(?:/|\.py))", README.split("```\nsearch_spaces/")[1].split("```")[0], re.M)
)
def test_the_house_is_as_drawn(path):
    assert any((place / path).exists() for place in (ROOT, ROOT / "autoprune"))


@pytest.mark.slow
def test_every_command_works_as_it_stands(tmp_path, digits_weights):
    (tmp_path / "results").mkdir()
    (tmp_path / "mine.py").write_text(OWN_PARTS, encoding="utf-8")
    (tmp_path / "results/digits_cnn.safetensors").write_bytes(digits_weights.read_bytes())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(autoprune.__file__).parents[1])}
    for command in [c for c in COMMANDS if c.startswith("autoprune")]:
        arguments = [sys.executable, "-m", "autoprune", *shlex.split(command, comments=True)[1:]]
        done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    done = subprocess.run(
        [sys.executable, "-c", PYTHON[1]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
