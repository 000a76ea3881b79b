"""Relative paths of a run mean where its search was started, wherever one stands."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

import autoprune
from autoprune.cli import main
from autoprune.config import RunConfig
from autoprune.runs.origin import FILE, kept, located, write_origin


@pytest.fixture
def copied(finished, here):
    shutil.copytree(finished, here / "start")
    return here / "start"


def test_a_run_goes_on_from_elsewhere_and_moves_with_its_files(copied, here, monkeypatch, capsys):
    run = copied / "results/run"
    assert main(["resume", "start/results/run", "--trials=6"]) == 0
    assert 'weights = "w.safetensors"' in (run / "config.toml").read_text()
    copied.rename(here / "moved")
    (here / "other").mkdir()
    monkeypatch.chdir(here / "other")
    assert main(["finetune", "../moved/results/run", "--epochs=0", "--to=tuned"]) == 0
    assert "Traceback" not in capsys.readouterr().err
    for export in (here / "moved/results/run/best", here / "other/tuned"):
        assert str(here) not in (export / "architecture.json").read_text()
        autoprune.load(export)


def test_weights_that_are_given_elsewhere_are_found_later(copied, here, monkeypatch):
    shutil.move(copied / "w.safetensors", here / "moved.safetensors")
    with pytest.raises(ValueError, match=r"weights 'w.safetensors': no such file in"):
        autoprune.resume("start/results/run", progress=False)
    autoprune.resume("start/results/run", weights="moved.safetensors", trials=6, progress=False)
    assert 'weights = "../moved.safetensors"' in (copied / "results/run/config.toml").read_text()
    monkeypatch.chdir(copied)
    autoprune.resume("results/run", trials=7, progress=False)


def test_a_file_of_the_same_name_here_is_not_taken(copied, here):
    other = {name: tensor + 1 for name, tensor in load_file(copied / "w.safetensors").items()}
    save_file(other, here / "w.safetensors")
    autoprune.resume("start/results/run", trials=6, progress=False)  # else its weights would be other ones


@pytest.mark.parametrize(
    ("setting", "text", "shown"),
    [
        ("weights", "w.pt", "../start/w.pt"),
        ("data", "imagefolder:photos", "imagefolder:../start/photos"),
        ("ledger", "sqlite:///books.db", "sqlite:///../start/books.db"),
        ("weights", "nowhere.pt", "nowhere.pt"),
        ("data", "digits", "digits"),
        ("data", "mine:function", "mine:function"),
        ("ledger", "postgresql://host/books.db", "postgresql://host/books.db"),
    ],
)
def test_what_a_path_is(setting, text, shown, here, monkeypatch):
    for name in ("start/run", "start/photos", "other"):
        (here / name).mkdir(parents=True)
    for name in ("w.pt", "books.db", "mine", "digits"):
        (here / "start" / name).touch()
    monkeypatch.chdir(here / "start")
    run, config = here / "start/run", RunConfig(**{setting: text})
    write_origin(run, run)
    assert located(config, run) == config
    monkeypatch.chdir(here / "other")
    seen = located(config, run)
    assert getattr(seen, setting) == shown
    assert kept(config, run, {setting: getattr(seen, setting)}) == config
    absolute = RunConfig(weights=str(here / "start/w.pt"))
    assert located(absolute, run) == absolute


@pytest.mark.parametrize("text", ["", "[]", "3", json.dumps({"directory": 3})])
def test_a_damaged_file_is_named(text, copied):
    (copied / "results/run" / FILE).write_text(text)
    with pytest.raises(ValueError, match=rf"{FILE}': damaged \(.*remove it"):
        autoprune.status(copied / "results/run")
