"""Where weights come from: checkpoints as training scripts leave them."""

import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from autoprune.reference import ModelReference, load_weights, read_weights
from search_spaces.models import digits_cnn


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(1)
    return digits_cnn().state_dict()


def wrapped(*prefixes):
    return lambda state: {"".join(prefixes) + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        wrapped("module."),
        wrapped("_orig_mod."),
        wrapped("module.", "_orig_mod."),
        wrapped("_orig_mod.", "module.", "module."),
        lambda state: {name.replace(".", "._orig_mod.", 1): tensor for name, tensor in state.items()},
        lambda state: {"n_averaged": torch.tensor(3), **wrapped("module.")(state)},
    ],
)
def test_the_names_of_a_wrapped_network_are_understood_and_said(wrap, state, tmp_path):
    torch.save(wrap(state), tmp_path / "w.pt")
    said = []
    model = ModelReference("search_spaces.models:digits_cnn", {}, str(tmp_path / "w.pt")).build(said.append)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state.items())
    assert len(said) == 1
    assert "names of a wrapped network, so '" in said[0]


def test_torchs_own_wrappers_are_understood():
    model, target = digits_cnn(), digits_cnn()
    for wrapper in (nn.DataParallel(model), AveragedModel(model), torch.compile(model)):
        load_weights(target, wrapper.state_dict(), "x")
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), target.parameters(), strict=True))
        target = digits_cnn()


def test_a_network_with_a_part_called_module_stays_as_it_is():
    model = nn.ModuleDict({"module": nn.Linear(2, 2)})
    said = []
    load_weights(model, model.state_dict(), "x", said.append)
    assert said == []


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "ema", "generator"])
def test_a_state_dict_is_found_in_a_training_checkpoint(key, state, tmp_path):
    optimizer = torch.optim.SGD(digits_cnn().parameters(), lr=0.1, momentum=0.9)
    torch.save({"epoch": 3, "optimizer": optimizer.state_dict(), key: state}, tmp_path / "w.pt")
    said = []
    found = read_weights(tmp_path / "w.pt", said.append)
    assert found.keys() == state.keys()
    assert said == []


def test_of_several_state_dicts_the_one_taken_is_said(state, tmp_path):
    averaged = {"n_averaged": torch.tensor(3), **wrapped("module.")({k: v + 1 for k, v in state.items()})}
    torch.save({"ema": {"module": averaged}, "model": state}, tmp_path / "w.pt")
    said = []
    found = read_weights(tmp_path / "w.pt", said.append)
    assert all(torch.equal(tensor, found[name]) for name, tensor in state.items())
    assert said == [f"weights '{tmp_path / 'w.pt'}': holds ema.module, model; taken: model"]


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"epoch": 3, "optimizer": {}}, r"found a dictionary of epoch, optimizer; save model.state_dict"),
        ({}, "found a dictionary of nothing"),
        ([1, 2], "found list"),
        (torch.zeros(3), "found Tensor"),
    ],
)
def test_a_checkpoint_without_a_state_dict_is_refused(held, message, tmp_path):
    torch.save(held, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "w.pt")


def test_a_relative_path_says_relative_to_what(here):
    with pytest.raises(ValueError, match=rf"weights 'w.pt': no such file in '{here}', where autoprune was started"):
        read_weights("w.pt")
    with pytest.raises(ValueError, match=r"weights '/nowhere/w.pt': no such file$"):
        read_weights("/nowhere/w.pt")


@pytest.mark.parametrize("kind", ["whole model", "older format", "TorchScript", "pickle", "colours", "nothing", "torn"])
def test_what_is_no_state_dict_is_refused_in_our_own_words(tmp_path, kind, recwarn):
    model, path = nn.Sequential(nn.Linear(2, 2)), tmp_path / "w.pt"
    if kind in ("whole model", "torn"):
        torch.save(model, path)
    if kind == "torn":
        path.write_bytes(path.read_bytes()[:900])
    if kind == "older format":
        torch.save({"state_dict": model.state_dict(), "hook": print}, path, _use_new_zipfile_serialization=False)
    if kind == "TorchScript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(model, torch.zeros(1, 2)), str(path))
    if kind in ("colours", "nothing"):
        path.write_bytes(b"\x1b[31mhello\n" * (kind == "colours"))
    if kind == "pickle":
        path.write_bytes(pickle.dumps(model))
    with pytest.raises(ValueError, match=r"holds other Python objects .* never unpickled .*; save model") as no:
        read_weights(path)
    assert not [word for word in ("weights_only", "\x1b", "torch.load", "trust", "miniz") if word in str(no.value)]
    assert not recwarn.list
