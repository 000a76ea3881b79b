"""What a newcomer sees first ends in the next thing to type: no arguments, something missing, `doctor`, completion."""

import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from autoprune import doctor
from autoprune.cli import main, parser
from autoprune.cli.completion import script
from autoprune.cli.suggestions import latest_run
from autoprune.report import Sheet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def said(words, capsys):
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr()


def next_command(text):
    """The words after "next: autoprune" at the very end."""
    return re.search(r"next: autoprune (.*)\Z", text.strip())[1].split()


def test_without_arguments_it_says_what_to_type(here, capsys):
    code, found = said([], capsys)
    assert (code, found.out) == (2, "")
    assert next_command(found.err) == ["demo"]
    for name in ("first", "second"):
        (here / "results" / name).mkdir(parents=True)
        (here / "results" / name / "config.toml").write_text("")
    code, found = said([], capsys)
    assert next_command(found.err) == ["status", str(latest_run())]


@pytest.mark.parametrize(
    ("words", "added"),
    [
        (["search"], ["--model", "mine:network", "--weights", "mine.safetensors", "--data", "mine:data"]),
        (["search", "--data", "digits"], ["--model", "mine:network", "--weights", "mine.safetensors"]),
        (["profile", "--model", "a:b"], ["--data", "mine:data"]),
        (["train", "--model", "a:b", "--data", "digits"], ["--method", "slimming"]),
    ],
)
def test_what_is_missing_is_said_at_once_and_the_command_is_completed(words, added, here, capsys):
    code, found = said(words, capsys)
    assert code == 2
    assert next_command(found.err) == [*words, *added]
    assert {f"--{name}: missing;" in found.err for name in ("model", "data", "method") if f"--{name}" in added} == {
        True
    }
    parser().parse_args(next_command(found.err))  # and it is one


def test_a_run_that_is_missing_is_the_latest_one(here, capsys):
    (here / "results/first").mkdir(parents=True)
    (here / "results/first/config.toml").write_text("")
    assert next_command(said(["resume", "--trials", "9"], capsys)[1].err) == [
        "resume",
        "--trials",
        "9",
        "results/first",
    ]
    code, found = said(["status", "first"], capsys)
    assert code == 2
    assert "did you mean results/first?" in found.err


def test_doctor_says_what_is_there_and_ends_in_what_to_type(here, capsys):
    code, found = said(["doctor", "--json"], capsys)
    told = json.loads(found.out)
    assert (code, told["is_sound"], told["next"]) == (0, True, "autoprune demo")
    parts = {one["part"]: one for one in told["findings"]}
    assert f"torch {metadata.version('torch')}" in parts["packages"]["found"]
    assert {"cores", "memory", "device cpu", "runs: results/"} <= parts.keys()
    assert list(here.iterdir()) == []


def test_doctor_knows_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {*doctor.EXTRAS, *doctor.OTHERS} == set(extras)


def test_an_extra_that_is_missing_is_said_with_its_use_and_the_line_to_type(monkeypatch):
    wanted = ["torch>=2.7", 'onnx>=999; extra == "onnx"', 'no-such-package; extra == "ray"']
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: wanted)
    parts = {one.part: one for one in doctor.Checkup().findings}
    assert (parts["[onnx]"].state, parts["[onnx]"].cure) == ("missing", "pip install 'autoprune[onnx]'")
    assert "is not >=999: for --onnx" in parts["[onnx]"].found
    assert parts["[ray]"].found == "no-such-package is not installed: for --cluster: workers on Ray"
    assert "[ray]" in repr(doctor.Checkup())  # no markup of rich


def test_something_essential_that_is_broken_ends_with_1_and_what_to_type(here, monkeypatch, capsys):
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["torch>=999"])
    code, found = said(["doctor"], capsys)
    assert code == 1
    assert found.out.strip().endswith("broken: torch; next: pip install 'torch>=999'")
    monkeypatch.undo()
    (here / "file").write_text("")
    code, found = said(["doctor", "--name", str(here / "file/run")], capsys)
    assert code == 1
    assert "Not a directory" in found.out


def test_servers_and_data_that_are_named_are_looked_for(here, capsys):
    pytest.importorskip("psycopg2")
    wrong = f"postgresql:///db?host={here}&user=me"
    code, found = said(["doctor", "--json", "--ledger", wrong, "--data", "imagefolder:photos"], capsys)
    parts = {one["part"]: one for one in json.loads(found.out)["findings"]}
    assert code == 0
    assert "no connection" in parts["ledger"]["found"]
    assert parts["data: imagefolder:photos"] == {
        "part": "data: imagefolder:photos", "state": "missing", "found": "no photos to read", "cure": "",
    }  # fmt: skip
    (there,) = (one for one in doctor.Checkup(ledger=f"sqlite:///{here}/book.db").findings if one.part == "ledger")
    assert there.state == "ok"
    assert list(here.iterdir()) == []  # and nothing was made


def test_in_a_notebook_tables_are_shown_once(monkeypatch):
    displayed = []
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("rich.jupyter.display", lambda *parts: displayed.append(parts))
    sheet = Sheet()
    sheet.print("what is [in] it", markup=False)
    assert repr(sheet) == "what is [in] it"
    assert sheet._repr_html_() == "<pre>what is [in] it</pre>"
    assert displayed == []  # what is shown is what these give, not what is printed while they are made


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_knows_every_verb_and_flag(shell, tmp_path):
    text = script(parser(), shell)
    assert all(word in text for word in ("lr-milestones", "completion", "allow-version-change"))
    if found := shutil.which(shell):
        (tmp_path / "script").write_text(text)
        subprocess.run([found, "-n", tmp_path / "script"], check=True)


def test_bash_completes_verbs_flags_and_files(tmp_path):
    (tmp_path / "net.safetensors").write_text("")
    (tmp_path / "script").write_text(script(parser(), "bash"))
    ask = """source ./script; COMP_WORDS=({}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); _shtab_autoprune
          echo "${{COMPREPLY[@]}}" """
    for words, answer in (
        ("autoprune doct", "doctor"),
        ("autoprune search --lr-mi", "--lr-milestones"),
        ("autoprune search --weights ne", "net.safetensors"),
    ):
        done = subprocess.run(["bash", "-c", ask.format(words)], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.strip() == answer
