"""A latency command is somebody else's program: it may print anything, fail, hang or not be there."""

import sys

import pytest

from objectives.latency import command
from objectives.latency.command import ask


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(command, "PAUSE_S", 0.0)


@pytest.fixture
def program(tmp_path):
    """A command that runs this Python code, the file's path in `path`."""

    def make(code: str) -> str:
        script = tmp_path / "bench.py"
        script.write_text(f"import sys, os, time, pathlib\npath = pathlib.Path(sys.argv[1])\n{code}\n")
        return f"{sys.executable} {script} {{onnx}}"

    return make


@pytest.mark.parametrize(
    ("printed", "ms"),
    [("3.52", 3.52), ("3.5 ms", 3.5), ("3.5ms", 3.5), ("model.onnx: 7 runs, median 1.25e1 ms\n", 12.5), ("4\n2\n", 2)],
)
def test_the_last_number_counts(program, tmp_path, printed, ms):
    assert ask(program(f"print({printed!r})"), tmp_path / "model.onnx", retries=0) == ms


def test_it_gets_the_file(program, tmp_path):
    file = tmp_path / "a model.onnx"
    file.write_bytes(b"x" * 42)
    assert ask(program("print(path.stat().st_size)"), file, retries=0) == 42


def test_it_is_asked_again(program, tmp_path):
    code = "seen = path.with_name('seen')\nif not seen.exists():\n    seen.touch()\n    sys.exit(1)\nprint(2.5)"
    assert ask(program(code), tmp_path / "model.onnx") == 2.5
    (tmp_path / "seen").unlink()
    with pytest.raises(ValueError, match="exit code 1"):
        ask(program(code), tmp_path / "model.onnx", retries=0)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("", "printed nothing"),
        ("print('Segmentation fault')", "printed 'Segmentation fault'"),
        ("print('v8a nan inf')", "printed 'v8a nan inf'"),
        ("print(0)", "printed '0'"),
        ("sys.stderr.write('no such model'); sys.exit(3)", r"exit code 3 \(no such model\)"),
        ("time.sleep(600)", "took more than 0.5 s"),
    ],
)
def test_nothing_or_garbage_is_one_sentence(program, tmp_path, code, why):
    line = program(code)
    with pytest.raises(
        ValueError, match=rf"--latency-command .*{why}, expected milliseconds as the last number"
    ) as error:
        ask(line, tmp_path / "model.onnx", timeout_s=0.5 if "sleep" in code else 600, retries=0)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_program_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="cannot be started"):
        ask("no-such-program-here {onnx}", tmp_path / "model.onnx")
