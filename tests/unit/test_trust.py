"""A directory or a configuration from a stranger: nothing that it names is imported, run or connected to unasked."""

import importlib
import json
import shutil
import sys

import pytest
import torch

import autoprune
from autoprune.builders import misfit, why_not
from autoprune.cli import main
from autoprune.config import RunConfig
from autoprune.errors import NotTrusted
from autoprune.runs import calls_of, finetune
from autoprune.trust import Call, remember, unknown
from search_spaces.models import DigitsCNN, digits_cnn

EVIL = """
from pathlib import Path
import search_spaces.models
Path({marker!r}).write_text("imported")

def call(*args, **kwargs):
    Path({marker!r}).write_text("called")
    return search_spaces.models.digits_cnn()
"""
SHELL = {"factory": "os:system", "args": {"command": "touch {marker}"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory, digits_weights):
    """A small run of a network of the user's own, made here: the module `homely` is theirs."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "homely.py").write_text(
        "from search_spaces.models import digits_cnn\n\n"
        "def net(num_classes=10):\n    return digits_cnn(num_classes)\n\n"
        "def doubt(logits, labels):\n    return 1 - logits.softmax(1)[range(len(labels)), labels]\n"
    )
    settings = {"trials": 1, "finalists": 0, "epochs": 0, "bn_samples": 64, "score_samples": 64, "val_samples": 64}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        told = {"weights": str(digits_weights), "criterion": "l1", "warm_starts": "none", "strategy": "random"}
        told |= {"fidelity": "raw", "metric": "homely:doubt", "name": "run", **settings}
        autoprune.search("homely:net", "digits", **told)
    return folder / "results" / "run"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Another user, or another machine: nothing is remembered there."""
    monkeypatch.setenv("AUTOPRUNE_CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr("autoprune.trust._here", set())
    monkeypatch.setattr("objectives.guard._places", [])
    monkeypatch.setattr(sys, "path", sys.path[:])


@pytest.fixture
def marker(tmp_path, monkeypatch, elsewhere):
    """A file that must not appear; the working directory holds a module `evil` that writes it when it is imported."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "marker"
    (tmp_path / "evil.py").write_text(EVIL.format(marker=str(path)))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield path
    sys.modules.pop("evil", None)


def edited(run, target, **settings):
    """A copy of a run in which a stranger has edited the settings."""
    shutil.copytree(run, target)
    before = RunConfig.read(target / "config.toml")
    (target / "config.toml").write_text(RunConfig.make(**{**before, **settings}).to_toml())
    return target


def plain(**settings):
    """Settings that name nothing from outside, but for these."""
    return {"model": "search_spaces.models:digits_cnn", "metric": "loss", **settings}


def exported(run, target, **model):
    """A copy of an export that names another model."""
    shutil.copytree(run / "best", target)
    path = target / "architecture.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": model}))
    return target


NAMED = {
    "model": {"model": "evil:call"},
    "model_args": {"model": "os:system", "model_args": {"command": "touch marker"}},
    "loads": {"model": "torchvision.models:resnet18", "model_args": {"weights": "DEFAULT"}},
    "data": {"data": "evil:call"},
    "metric": {"metric": "evil:call"},
    "criterion": {"criterion": "evil:call"},
    "strategy": {"strategy": "evil:call"},
    "cost": {"budget": ("macs<=50%", "evil:call<=50%")},
    "front": {"front": ("evil:call",), "strategy": "nsga2"},
    "backend": {"budget": ("latency<=50%@evil:call",)},
    "command": {"latency_command": "touch marker {onnx}"},
    "ledger": {"ledger": "sqlite:///marker"},
    "cluster": {"cluster": "ray://stranger.example:10001"},
}


@pytest.mark.parametrize("named", NAMED.values(), ids=NAMED)
def test_a_strangers_run_calls_nothing_unasked(made, marker, tmp_path, named, capsys):
    run = edited(made, tmp_path / "run", **plain(**named))
    acts = (["resume"], ["finetune"], ["export", "--trial=0"], ["export", "--budget=macs<=40%"])
    for verb, *more in acts:
        assert main([verb, str(run), *more]) == 2
        said = capsys.readouterr().err
        assert not marker.exists()
        assert "evil" not in sys.modules
        assert len(said.splitlines()) == 1
        assert said.startswith(f"autoprune: run '{run}': would ")
        assert "--trust" in said


READ = {
    "many": {"model": "evil:call", "data": "evil:call", "metric": "evil:call", "criterion": "evil:call",
             "strategy": "evil:call", **NAMED["command"], **NAMED["cluster"]},
    "costs": {"budget": ("evil:call<=50%", "latency<=50%@evil:call")}, "front": NAMED["front"],
}  # fmt: skip


@pytest.mark.parametrize("named", READ.values(), ids=READ)
def test_reading_a_strangers_run_works_and_calls_nothing(made, marker, tmp_path, named, capsys):
    run, other = edited(made, tmp_path / "run", **plain(**named)), edited(made, tmp_path / "other", **plain())
    if "front" in named:  # as the ledger of such a run has it
        ledger = run / "ledger.log"
        ledger.write_text(
            ledger.read_text().replace('"fingerprint":{', '"fingerprint":{"front":[["evil:call"],2.3],', 1)
        )
    assert main(["status", str(run)]) == 0
    assert "resume would" in capsys.readouterr().out
    page = "--html" if {"budget", "front"} & named.keys() else "--no-html"
    assert main(["report", str(run), page]) == 0
    assert "not called here" in capsys.readouterr().out
    assert main(["compare", str(run), str(other), page]) == 0
    assert main(["export", str(run), "--to", str(tmp_path / "copy")]) == 0
    assert not marker.exists()
    assert "evil" not in sys.modules
    assert (tmp_path / "copy" / "weights.safetensors").read_bytes() == (
        made / "best" / "weights.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("verb", ["status", "report", "resume"])
def test_no_database_is_connected_to_unasked(made, marker, tmp_path, verb, capsys):
    run = edited(made, tmp_path / "run", **plain(**NAMED["ledger"]))
    assert main([verb, str(run)]) == 2
    assert "would connect to the database 'sqlite:///marker'" in capsys.readouterr().err
    assert not marker.exists()


def test_what_one_has_called_here_is_called_again_and_what_is_changed_by_hand_is_not(made, tmp_path, monkeypatch):
    monkeypatch.chdir(made.parents[1])
    monkeypatch.syspath_prepend(made.parents[1])
    assert autoprune.resume(made).run_dir == made
    harmless = edited(made, tmp_path / "renamed", trials=2, workers=0, batch_size=64, seed=0)
    assert unknown(calls_of(autoprune.runs.RunDirectory.open(harmless).config)) == []
    assert isinstance(autoprune.load(made / "best"), DigitsCNN)
    for settings in ({"metric": "homely:net"}, {"model_args": {"num_classes": 11}}, {"data": "homely:doubt"}):
        run = edited(made, tmp_path / next(iter(settings)), **settings)
        with pytest.raises(NotTrusted, match="would call"):
            autoprune.resume(run)


def test_another_user_is_asked_once(made, elsewhere, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(made.parents[1])
    monkeypatch.delitem(sys.modules, "homely", raising=False)
    run = tmp_path / "run"
    shutil.copytree(made, run)
    assert main(["resume", str(run)]) == 2
    assert "would call model 'homely:net' and call metric 'homely:doubt'" in capsys.readouterr().err
    assert "homely" not in sys.modules
    assert main(["resume", str(run), "--trust"]) == 0
    assert (tmp_path / "config" / "trusted").stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr("autoprune.trust._here", set())  # another process
    assert main(["resume", str(run)]) == 0
    sys.modules.pop("homely")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(made.parents[1])])
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["resume", str(run)]) == 2
    assert "No module named 'homely'" in capsys.readouterr().err  # nothing to be asked about
    (tmp_path / "homely.py").write_text("raise SystemExit('another file of that name')")
    for words in (["resume", str(run)], ["export", str(run), "--trial=0"]):  # another `homely`
        assert main(words) == 2
        assert "would call model 'homely:net'" in capsys.readouterr().err


@pytest.mark.parametrize("mode", [0o666, 0o620])
def test_what_others_could_have_written_is_not_believed(elsewhere, tmp_path, mode, monkeypatch):
    call = Call("metric", "math:floor")
    remember([call])
    assert unknown([call]) == []
    monkeypatch.setattr("autoprune.trust._here", set())
    assert unknown([call]) == []
    (tmp_path / "config" / "trusted").chmod(mode)
    assert unknown([call]) == [call]


def test_where_nothing_can_be_remembered_trust_still_works(elsewhere, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOPRUNE_CONFIG", str(tmp_path / "file" / "below"))
    remember([Call("metric", "math:floor")])
    assert unknown([Call("metric", "math:floor")]) == []


@pytest.mark.parametrize("named", NAMED.values(), ids=NAMED)
def test_a_configuration_from_a_stranger_calls_nothing_unasked(marker, tmp_path, named, capsys):
    config = RunConfig.make(**{"data": "digits", **plain(**named)})
    (tmp_path / "run.toml").write_text(config.to_toml())
    for verb in (["search"], ["profile"], ["train"]):
        assert main([*verb, "--config=run.toml"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("autoprune: configuration 'run.toml': would ")
    assert not marker.exists()
    assert "evil" not in sys.modules


def test_flags_are_the_users_own_word_and_win(marker, tmp_path, capsys):
    (tmp_path / "run.toml").write_text('model = "evil:call"\ndata = "digits"\n')
    assert main(["profile", "--config=run.toml", "--model=search_spaces.models:digits_cnn", "--criterion=l1"]) == 0
    assert not marker.exists()
    (tmp_path / "run.toml").write_text('model = "evil:other"\ndata = "digits"\n[model_args]\nnum_classes = 10\n')
    assert main(["profile", "--config=run.toml", "--model=evil:call", "--criterion=l1"]) == 2  # the arguments are not
    assert not marker.exists()
    assert main(["profile", "--config=run.toml", "--model=evil:call", "--criterion=l1", "--trust"]) == 0
    assert marker.read_text() == "called"


@pytest.mark.parametrize("package", ["jinja2", "timm", "yaml"])
def test_what_lies_in_the_working_directory_takes_no_packages_place(made, marker, tmp_path, package, monkeypatch):
    """From there only code is imported that somebody has named and that may be called."""
    (tmp_path / f"{package}.py").write_text((tmp_path / "evil.py").read_text())
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    run = edited(made, tmp_path / "run", **plain())
    assert main(["report", str(run), *["--html"] * (package == "jinja2")]) == 0
    with pytest.raises(NotTrusted):
        autoprune.load(exported(made, tmp_path / "export", factory=f"{package}:call"))
    assert not marker.exists()


def test_in_python_objects_and_keywords_win_over_a_strangers_file(marker, tmp_path):
    (tmp_path / "run.toml").write_text('model = "evil:call"\ndata = "evil:call"\ncriterion = "l1"\n')
    profile = autoprune.profile(digits_cnn(), "digits", config="run.toml", progress=False)
    assert profile is not None
    assert not marker.exists()
    with pytest.raises(NotTrusted, match="would call data 'evil:call'"):
        autoprune.profile(digits_cnn(), config="run.toml", progress=False)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["ledger.log", "finetune", "trials.csv"])
def test_nothing_is_written_through_a_strangers_link(made, marker, tmp_path, name, capsys):
    run = edited(made, tmp_path / "run", **plain())
    mine = tmp_path / "mine"
    mine.write_bytes((made / name).read_bytes()) if (made / name).is_file() else mine.mkdir()
    before = mine.read_bytes() if mine.is_file() else b""
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(mine)
    assert main(["resume", str(run), "--trials=3"]) == 2
    assert f"would write through the link '{name} -> {mine}'" in capsys.readouterr().err
    assert main(["status", str(run)]) == 0
    assert main(["report", str(run), "--no-html"]) == 0
    assert (mine.read_bytes() if mine.is_file() else b"") == before
    assert mine.is_file() or not any(mine.iterdir())
    (run / name).unlink()
    shutil.copy(made / name, run / name) if (made / name).is_file() else None
    (run / "data").symlink_to(run / "best")  # inside the run
    assert main(["finetune", str(run), "--epochs=0"]) == 2
    assert "was begun with another problem" in capsys.readouterr().err


ODD = {
    "metrics": ("metrics", []), "loss": ("loss", "low"), "seconds": ("seconds", {}),
    "owner": ("owner", 3), "fingerprint": ("fingerprint", []), "groups": ("groups", 7), "code": ("op_code", "x"),
}  # fmt: skip


@pytest.mark.parametrize(("key", "value"), ODD.values(), ids=ODD)
def test_a_ledger_that_makes_no_sense_is_one_sentence(made, elsewhere, tmp_path, key, value, capsys):
    run = edited(made, tmp_path / "run", **plain())

    def odd(data):
        if isinstance(data, dict):
            return {k: value if k == key else odd(v) for k, v in data.items()}
        return [odd(x) for x in data] if isinstance(data, list) else data

    lines = (run / "ledger.log").read_text().splitlines()
    (run / "ledger.log").write_text("".join(json.dumps(odd(json.loads(line))) + "\n" for line in lines))
    for verb in ("status", "report"):
        assert main([verb, str(run)]) == 2
        said = capsys.readouterr().err
        assert said.startswith("autoprune: ")
        assert len(said.splitlines()) == 1


STRANGE = {
    "shell": ("os:system", {"command": "touch marker"}),
    "subprocess": ("subprocess:run", {"args": ["touch", "marker"]}),
    "own module": ("evil:call", {}),
    "no factory": ("evil", {}),
    "below ours": ("search_spaces.models.small:nn", {}),
    "ours but no model": ("autoprune.demo:main", {}),
    "chain": ("torchvision.models:os.system", {"command": "touch marker"}),
    "private": ("torchvision.models._utils:warnings", {}),
    "imported there": ("torchvision.models.resnet:partial", {"func": "touch"}),
    "data sets": ("torchvision.datasets:MNIST", {"root": ".", "download": True}),
    "by name": ("torchvision.models:get_model", {"name": "fcn_resnet50"}),
    "hub": ("torch.hub:load", {"repo_or_dir": "evil/repo", "model": "m"}),
    "downloads": ("torchvision.models:resnet18", {"weights": "DEFAULT"}),
    "old word": ("torchvision.models:resnet18", {"pretrained": True}),
    "by default": ("torchvision.models.segmentation:fcn_resnet50", {}),
    "timm": ("timm:create_model", {"model_name": "resnet18", "checkpoint_path": "marker"}),
    "case": ("Torchvision.models:resnet18", {}),
    "newline": ("torchvision.models:resnet18\n", {}),
    "escapes": ("os:\x1b[2Jsystem", {"command": "\x1b]0;owned\x07"}),
    "long": ("os:system", {"command": "x" * 10_000}),
}


@pytest.mark.parametrize(("factory", "args"), STRANGE.values(), ids=STRANGE)
def test_a_strangers_export_calls_nothing_unasked(made, marker, tmp_path, factory, args):
    directory = exported(made, tmp_path / "export", factory=factory, args=args)
    with pytest.raises(NotTrusted) as refused:
        autoprune.load(directory)
    said = str(refused.value)
    assert said.startswith(f"'{directory}': would call model '{factory[:3]}")
    assert said.isprintable()
    assert len(said) < 800
    assert "trust=True" in said
    assert not marker.exists()
    assert "evil" not in sys.modules
    assert isinstance(autoprune.load(directory, digits_cnn()), DigitsCNN)  # the way out
    assert not marker.exists()


def test_a_trusted_export_is_loaded(made, marker, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    directory = exported(made, tmp_path / "export", factory="evil:call", args={})
    assert isinstance(autoprune.load(directory, trust=True), DigitsCNN)
    assert marker.read_text() == "called"
    assert isinstance(autoprune.load(directory), DigitsCNN)  # it is remembered
    assert isinstance(
        autoprune.load(exported(made, tmp_path / "ours", factory="search_spaces.models:digits_cnn")), DigitsCNN
    )


@pytest.mark.parametrize("model", [{"factory": ["os:system"]}, {"factory": "a:b", "args": [1]}, {"factory": 3}, []])
def test_a_reference_that_is_none_is_refused(made, tmp_path, model):
    directory = exported(made, tmp_path / "export")
    path = directory / "architecture.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": model}))
    with pytest.raises(ValueError, match=r"architecture\.json'.*model"):
        autoprune.load(directory)


BUILDERS = [
    ("search_spaces.models:digits_cnn", {"num_classes": 3}),
    ("search_spaces.models:DigitsCNN", {}),
    ("search_spaces.models.resnet_cifar:resnet20", {}),
    ("torchvision.models:resnet18", {"num_classes": 10, "weights": None}),
    ("torchvision.models.resnet:ResNet", {}),
    ("torchvision.models.segmentation:fcn_resnet50", {"weights_backbone": None}),
]


@pytest.mark.parametrize(("name", "args"), BUILDERS)
def test_builders_of_known_packages_need_no_trust(name, args, elsewhere):
    assert why_not(name, args) == ""
    assert unknown([Call("model", name, args)]) == []


def test_every_classifier_of_torchvision_needs_no_trust():
    from torchvision import models

    makers = [models.get_model_builder(name) for name in models.list_models(models)]
    assert len(makers) > 60
    assert [m.__name__ for m in makers if why_not(f"{m.__module__}:{m.__name__}", {})] == []


def test_arguments_are_checked_against_the_signature():
    def build(width, depth=3, *, bias=True):
        raise AssertionError("not called")

    assert misfit(build, {"width": 1, "bias": False}) == ""
    assert misfit(build, {"width": 1, "hight": 2, "d": 1}) == "takes no argument hight, d; it takes width, depth, bias"
    assert misfit(build, {"depth": 1}) == "needs the argument width, which is not given"
    assert misfit(lambda **more: None, {"anything": 1}) == ""
    assert misfit(torch.nn.Linear, {"in_features": 3}) == "needs the argument out_features, which is not given"
    assert misfit(max, {"key": 1}) == ""


def test_given_objects_are_a_way_out_and_are_not_remembered_as_the_strangers_names(made, marker, tmp_path):
    run = edited(made, tmp_path / "run", **plain(model="evil:call"))
    with pytest.raises(NotTrusted):
        finetune(run, epochs=0)
    from autoprune.reference import ModelReference

    model = ModelReference(
        "search_spaces.models:digits_cnn", {}, RunConfig.read(run / "config.toml")["weights"]
    ).build()
    with pytest.raises(autoprune.errors.LedgerMismatch, match="metric is"):  # as far as that: another problem
        finetune(run, model, epochs=0)
    assert not marker.exists()
    assert unknown([Call("model", "evil:call")]) != []


def test_who_joins_again_need_not_be_asked_for_what_is_named_now(tmp_path, monkeypatch):
    engine, asked = importlib.import_module("autoprune.search"), Call("model", "mine:net", {"depth": 3})
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.toml").write_text("")
    monkeypatch.setattr(engine, "joined_scores", lambda *_: ())
    monkeypatch.setattr(engine, "resume", lambda *_, **__: unknown([asked]))
    told = {"model_args": {"depth": 3}, "name": str(tmp_path / "run"), "ledger": "postgresql://me@host/db"}
    assert unknown([asked]) == [asked]
    assert engine.search("mine:net", "digits", join=True, **told) == []
