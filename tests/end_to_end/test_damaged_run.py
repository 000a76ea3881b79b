"""Damaged files of a run, over all verbs: what does not need them works, the others name the file in a sentence."""

import json
import shutil

import pytest

from autoprune.cli import main

VERBS = {
    "status": ["status", "results/run"],
    "report": ["report", "results/run", "--no-html"],
    "compare": ["compare", "results/run", "results/other", "--no-html"],
    "export": ["export", "results/run", "--to=elsewhere"],
    "trial": ["export", "results/run", "--trial=1", "--to=elsewhere"],
    "budget": ["export", "results/run", "--budget=macs<=70%", "--to=elsewhere"],
    "finetune": ["finetune", "results/run", "--epochs=0", "--to=elsewhere"],
    "resume": ["resume", "results/run"],
}
GONE, FOLDER = "gone", "folder"


def torn(whole):
    """Bytes in the place of a file's."""
    third = len(whole) // 3
    return b"", whole[: len(whole) // 2], bytes(range(128, 256)), whole[:third] + b"\xff\0" + whole[third + 2 :]


def other_json(whole):
    """JSON of another shape."""
    said = json.loads(whole)
    for text in ("null", "[]", "3", "{}", "[" * 100_000):
        yield text.encode()
    for key in said:
        for value in (None, 3, [], {}):
            if value != said[key]:
                yield json.dumps({**said, key: value}).encode()


@pytest.fixture
def damaged(finished, here):
    """Puts bytes in the place of a file, and gives what a verb says then."""

    def put(name, data):
        shutil.rmtree(here / "results", ignore_errors=True)
        shutil.rmtree(here / "elsewhere", ignore_errors=True)
        shutil.copytree(finished, here, dirs_exist_ok=True)
        shutil.copytree(here / "results/run", here / "results/other")
        path = here / "results/run" / name
        path.unlink()
        if data == FOLDER:
            path.mkdir()
        elif data != GONE:
            path.write_bytes(data)

    return put


def check(arguments, name, capsys, what):
    """A verb works, or names the file in one sentence."""
    code, said = main(arguments), capsys.readouterr().err
    if code:
        assert code == 2, (what, said)
        assert said.startswith("autoprune: "), (what, said)
        assert said.count("\n") == 1, (what, said)
        assert name.rpartition("/")[2] in said, (what, said)
    return code


FILES = {  # file -> the verbs that cannot do without it
    "config.toml": {*VERBS},
    "space.json": {*VERBS} - {"status", "export"},
    "scores.safetensors": {*VERBS} - {"status", "export"},
    "example.safetensors": {"export", "trial", "budget", "finetune", "resume"},
    "trials.csv": set(),
    "best/weights.safetensors": {"export"},
}


LOOKS = ("status", "report", "export")  # and what needs no file takes no time


@pytest.mark.parametrize(("verb", "name"), [(v, n) for n in FILES for v in VERBS if v in FILES[n] or v in LOOKS])
def test_a_torn_file_is_named_or_not_needed(name, verb, damaged, finished, capsys):
    for data in (b"", torn((finished / "results/run" / name).read_bytes())[2], GONE):
        damaged(name, data)
        code = check(VERBS[verb], name if data != GONE or name != "best/weights.safetensors" else "", capsys, data)
        assert code == (2 if verb in FILES[name] else 0), data


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FILES, "best/architecture.json", "ledger.log"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_damaged_file_is_one_sentence(name, verb, damaged, finished, capsys):
    whole = (finished / "results/run" / name).read_bytes()
    shapes = other_json(whole) if name.endswith(".json") and verb in LOOKS else ()
    for data in [*torn(whole), *shapes, GONE, FOLDER]:
        damaged(name, data)
        is_named = name != "ledger.log" and data not in (GONE, FOLDER)  # else the run is
        check(VERBS[verb], name if is_named else "run", capsys, data[:60])


@pytest.mark.parametrize("verb", ["report", "export"])
def test_an_architecture_of_another_shape_is_one_sentence(verb, damaged, finished, capsys):
    name = "best/architecture.json"
    for data in other_json((finished / "results/run" / name).read_bytes()):
        damaged(name, data)
        check(VERBS[verb], name, capsys, data[:60])
