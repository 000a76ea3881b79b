"""architecture.json + weights.safetensors: what goes out comes back, and what is damaged is named."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import autoprune
from autoprune.exporting import copy_export, export
from autoprune.reference import ModelReference, fingerprint, load_weights, read_weights
from search_spaces import prune, trace
from search_spaces.models import digits_cnn

REFERENCE = ModelReference("search_spaces.models:digits_cnn", {"num_classes": 7})
INPUT = {"shape": [1, 8, 8], "mean": [0.305], "std": [0.376], "normalisation": "x = ..."}


@pytest.fixture(scope="module")
def dense():
    torch.manual_seed(0)
    model = digits_cnn(num_classes=7)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def exported(dense, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "best"
    space = trace(dense, torch.zeros(1, 1, 8, 8))
    rng = np.random.default_rng(0)
    kept = space.kept(space.sample(rng), [rng.random(g.size) for g in space.groups])
    small = prune(dense, space, kept)
    with torch.no_grad():
        small.linear.bias += 1.0  # as if fine-tuned: the weights are the export's own
    example = torch.zeros(1, 1, 8, 8)
    export(
        directory,
        small,
        space=space,
        kept=kept,
        reference=REFERENCE,
        metrics={"top1": 0.5},
        costs={"macs": {"dense": 2.0, "pruned": 1.0}},
        provenance={"seed": 0},
        inputs=INPUT,
        example_inputs=example,
        onnx=True,
        pt2=True,
    )
    return directory, small.eval()


@pytest.fixture
def copy(exported, tmp_path):
    shutil.copytree(exported[0], tmp_path / "best")
    return tmp_path / "best"


def test_a_loaded_network_computes_the_same(exported):
    directory, small = exported
    x = torch.randn(5, 1, 8, 8)
    loaded = autoprune.load(directory)
    assert not loaded.training
    assert torch.equal(loaded(x), small(x))
    assert sum(p.numel() for p in loaded.parameters()) < sum(p.numel() for p in digits_cnn(num_classes=7).parameters())


def test_a_fresh_process_elsewhere_loads_it(exported, tmp_path):
    code = f"import autoprune, torch; print(autoprune.load({str(exported[0])!r})(torch.zeros(2, 1, 8, 8)).shape)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "torch.Size([2, 7])", done.stderr


def test_no_file_is_a_pickle(exported):
    for path in exported[0].iterdir():
        with pytest.raises(
            (pickle.UnpicklingError, ValueError, EOFError, KeyError, IndexError, TypeError, AttributeError)
        ):
            pickle.loads(path.read_bytes())


def test_the_architecture_says_what_it_is(exported):
    data = json.loads((exported[0] / "architecture.json").read_text())
    assert data["model"] == {"factory": "search_spaces.models:digits_cnn", "args": {"num_classes": 7}}
    assert [len(k) for k in data["kept"]] == data["widths"]
    assert data["costs"] == {"macs": {"dense": 2.0, "pruned": 1.0}}
    assert data["input"] == INPUT
    assert data["onnx_max_difference"] < 1e-4


def test_a_copy_says_what_it_is_fed_with_too(copy, tmp_path):
    copy_export(copy, tmp_path / "copy", onnx=False, pt2=False)
    assert json.loads((tmp_path / "copy" / "architecture.json").read_text())["input"] == INPUT
    edit(copy, lambda a: a.pop("input"))  # of an older version
    copy_export(copy, tmp_path / "older", onnx=False, pt2=False)
    assert "input" not in json.loads((tmp_path / "older" / "architecture.json").read_text())


def test_onnx_and_torch_export_take_any_batch_size(exported):
    import onnxruntime

    directory, small = exported
    x = torch.randn(3, 1, 8, 8)
    session = onnxruntime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = small(x).detach()
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)
    program = torch.export.load(str(directory / "model.pt2")).module()
    torch.testing.assert_close(program(x), expected, atol=1e-5, rtol=1e-5)


def test_a_network_of_unknown_origin_needs_the_model(dense, copy):
    data = json.loads((copy / "architecture.json").read_text())
    data["model"] = {"factory": "", "args": {}}
    (copy / "architecture.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"load\(directory, model=\.\.\.\)"):
        autoprune.load(copy)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(autoprune.load(copy, model=dense)(x), autoprune.load(copy, model=lambda: digits_cnn(7))(x))


def test_another_dense_network_is_refused(copy):
    with pytest.raises(
        ValueError, match=r"dense network is another one: 'linear\.weight' has 480 elements, expected 336"
    ):
        autoprune.load(copy, model=digits_cnn())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "architecture.json").unlink(), r"architecture\.json': cannot be read \(No such file"),
        (lambda d: (d / "architecture.json").write_text("{"), r"architecture\.json': damaged"),
        (
            lambda d: (d / "architecture.json").write_text("[]"),
            r"expected format 'autoprune architecture 1', found 'list'",
        ),
        (lambda d: (d / "weights.safetensors").unlink(), r"weights\.safetensors': not a readable safetensors file"),
        (lambda d: (d / "weights.safetensors").write_bytes(b"junk"), r"not a readable safetensors file"),
        (
            lambda d: change(d, lambda s: s.pop("linear.bias")),
            r"1 key does not fit the model: 'linear\.bias' is missing",
        ),
        (lambda d: change(d, lambda s: s.update(extra=torch.zeros(1))), r"'extra' is not in the model"),
        (
            lambda d: change(d, lambda s: s.update({"linear.bias": torch.zeros(3)})),
            r"'linear\.bias' is \[3\], the model has \[7\]",
        ),
        (lambda d: edit(d, lambda a: a.pop("kept")), r"lacks kept"),
        (lambda d: edit(d, lambda a: a["model"].update(factory="no.such:thing")), r"model 'no\.such:thing'"),
    ],
)
def test_damage_is_named(copy, damage, message):
    damage(copy)
    with pytest.raises(ValueError, match=message):
        autoprune.load(copy)


def change(directory, how):
    state = load_file(directory / "weights.safetensors")
    how(state)
    save_file(state, directory / "weights.safetensors")


def edit(directory, how):
    data = json.loads((directory / "architecture.json").read_text())
    how(data)
    (directory / "architecture.json").write_text(json.dumps(data))


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_are_read_from_both_kinds_of_file(dense, tmp_path, suffix):
    path = tmp_path / f"w.{suffix}"
    save_file(dense.state_dict(), path) if suffix == "safetensors" else torch.save(
        {"state_dict": dense.state_dict()}, path
    )
    reference = ModelReference("search_spaces.models:digits_cnn", {"num_classes": 7}, str(path))
    assert fingerprint(reference.build()) == fingerprint(dense)


def test_a_pickled_module_is_never_executed(dense, tmp_path):
    torch.save(dense, tmp_path / "module.pt")
    with pytest.raises(
        ValueError, match=r"not a safetensors file or a plain torch state dict .*; save model\.state_dict\(\)"
    ):
        read_weights(tmp_path / "module.pt")


def test_the_first_three_differing_keys_are_named(dense):
    state = {f"net.{k}": v for k, v in dense.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"'stem\.0\.weight' is missing; 'net\.stem\.0\.weight' is not in the model; 'stem"
    ):
        load_weights(dense, state, "x.pt")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (ModelReference("resnet18"), r"expected package\.module:factory"),
        (ModelReference("no_such_package:f"), "No module named 'no_such_package'"),
        (ModelReference("search_spaces.models:resnet99"), "has no attribute 'resnet99'"),
        (
            ModelReference("search_spaces.models:digits_cnn", {"colour": 1}),
            "takes no argument colour; it takes num_classes",
        ),
        (ModelReference("math:floor", {}), "the factory failed with TypeError"),
        (ModelReference("builtins:dict"), "expected a factory that returns an nn.Module, got dict"),
        (ModelReference("search_spaces.models:digits_cnn", {}, "nowhere.pt"), r"weights 'nowhere\.pt': no such file"),
    ],
)
def test_a_model_that_cannot_be_built_is_named(reference, message):
    with pytest.raises(ValueError, match=message):
        reference.build()


@pytest.mark.parametrize(
    "fill",
    [
        lambda d: (d.mkdir(), (d / "thesis.tex").write_text("mine")),
        lambda d: d.write_text("mine"),
        lambda d: (d.mkdir(), (d / "architecture.json").write_text('{"format": "mine"}')),
        lambda d: (d.mkdir(), (d / "model.onnx").write_text("mine")),
        lambda d: d.symlink_to(d.parent),
    ],
    ids=["directory", "file", "another architecture.json", "another model.onnx", "link to a directory"],
)
def test_what_is_no_export_is_not_replaced(exported, dense, tmp_path, fill):
    (tmp_path / "beside").touch()
    fill(tmp_path / "to")
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    with pytest.raises(ValueError, match=r"to': expected a new or empty directory or an older export.*would be lost"):
        copy_export(exported[0], tmp_path / "to", onnx=False, pt2=False)
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


def test_an_export_with_something_of_the_users_in_it_is_not_replaced(exported, copy):
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="would be lost"):
        copy_export(exported[0], copy, onnx=False, pt2=False)
    assert (copy / "notes.txt").read_text() == "mine"


def test_an_empty_directory_is_taken(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "to").mkdir()
    copy_export(exported[0], Path("to"), onnx=False, pt2=False)
    assert sorted(p.name for p in (tmp_path / "to").iterdir()) == ["architecture.json", "weights.safetensors"]


def test_other_formats_stay_as_long_as_the_weights_are_the_same(exported, copy):
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    copy_export(copy, copy, onnx=False, pt2=False)
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == before  # onnx_max_difference too
    change(copy, lambda s: s["linear.bias"].add_(1))
    copy_export(exported[0], copy, onnx=False, pt2=False)
    assert sorted(p.name for p in copy.iterdir()) == ["architecture.json", "weights.safetensors"]


def test_a_format_that_cannot_be_made_does_not_cost_the_rest(exported, copy, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such operator\nand a page of trace")

    monkeypatch.setattr(torch.onnx, "export", broken)
    example = torch.zeros(1, 1, 8, 8)
    with pytest.raises(
        ValueError, match=r"could not write model\.onnx \(RuntimeError: no such operator\); the rest of"
    ):
        copy_export(copy, tmp_path / "to", None, example, onnx=True, pt2=True)
    assert {p.name for p in (tmp_path / "to").iterdir()} == {"architecture.json", "weights.safetensors", "model.pt2"}
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(autoprune.load(tmp_path / "to")(x), exported[1](x))


def test_the_old_directory_comes_back_if_the_new_one_cannot_take_its_place(copy, monkeypatch):
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    rename = Path.rename

    def refuse(self, target):
        if self.suffix == ".partial":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr("autoprune.files._swap", lambda *_: False)  # a system that cannot
    with pytest.raises(ValueError, match=r"best': cannot be written \(Input/output error\)"):
        copy_export(copy, copy, onnx=False, pt2=False)
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == before
    assert [p.name for p in copy.parent.iterdir()] == ["best"]


def test_an_export_that_fails_leaves_the_old_one(dense, copy, monkeypatch):
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    space = trace(dense, torch.zeros(1, 1, 8, 8))
    kept = tuple(np.arange(g.size) for g in space.groups)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("autoprune.reference.save_file", full)
    with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\); free some space"):
        export(copy, dense, space=space, kept=kept)
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == before
    assert [p.name for p in copy.parent.iterdir()] == ["best"]
