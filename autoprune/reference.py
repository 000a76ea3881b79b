"""Where the dense network comes from: a factory, its arguments and a weights file. Never a pickle."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autoprune.builders import misfit
from autoprune.files import save_tensors
from autoprune.printable import printable
from objectives import find
from objectives.plugins import running

Say = Callable[[str], None]
# Where training scripts keep a state dict: the first of these that is there is taken.
KEPT_UNDER = ("", "state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "ema")
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod)\.")  # of DataParallel and of torch.compile


def quiet(_: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class ModelReference:
    """How to build a dense network: picklable, printable, and all that another process needs.

    Attributes:
        factory: "package.module:function" (or a class) that returns an nn.Module; "" where nobody knows.
        args: Keyword arguments of the factory.
        weights: A .safetensors file or a torch state dict; "" for what the factory returns.
    """

    factory: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""

    def to_json(self) -> dict[str, Any]:
        """Without the weights: an export brings its own."""
        return {"factory": self.factory, "args": dict(self.args)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelReference:
        """The inverse of `to_json`.

        Raises:
            ValueError: If that is no reference.
        """
        factory, args = (data.get("factory", ""), data.get("args", {})) if isinstance(data, Mapping) else (None, None)
        if not isinstance(factory, str) or not isinstance(args, dict):
            raise ValueError(f"model: expected the name of a factory and its arguments, found {str(data)[:80]!r}")
        return cls(factory, args)

    def build(self, say: Say = quiet) -> nn.Module:
        """The dense network, with its weights loaded, in eval mode.

        Args:
            say: Told what was not taken as it is in the weights file.

        Raises:
            ValueError: If it names no factory, or the factory is missing, fails, or returns no nn.Module.
        """
        name = self.factory
        if not name:
            raise ValueError(
                "this network was exported from an nn.Module object, so nothing says how to build it; "
                "give the dense network: load(directory, model=...)"
            )
        if ":" not in name:
            raise ValueError(f"model '{name}': expected package.module:factory, e.g. torchvision.models:resnet18")
        factory = find("model", name, {})
        if isinstance(factory, nn.Module):
            raise ValueError(
                f"model '{name}': expected a factory, found an nn.Module object, which several users "
                "would share; name the function or class that makes it"
            )
        if not callable(factory):
            raise ValueError(f"model '{name}': expected a factory, a function or a class, found {factory!r:.60}")
        if fault := misfit(factory, self.args):
            raise ValueError(f"model '{name}': {fault}; see --model-args")
        with running(f"model '{name}': the factory"):
            model = factory(**self.args)
        if not isinstance(model, nn.Module):
            found = type(model).__name__
            raise ValueError(f"model '{name}': expected a factory that returns an nn.Module, got {found}")
        if self.weights:
            state = read_weights(self.weights, say)
            load_weights(model, state, self.weights, say)
        model.eval()
        return model


def read_weights(path: str | Path, say: Say = quiet) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or a torch file (weights only, never unpickled).

    A training checkpoint that keeps it beside other things is understood (see `KEPT_UNDER`).

    Args:
        path: The file.
        say: Told which state dict was taken, where there are several.

    Raises:
        ValueError: If the file is missing or holds no state dict.
    """
    path = Path(path)
    if not os.path.isfile(path):
        place = "" if path.is_absolute() else f" in '{Path.cwd()}', where autoprune was started"
        raise ValueError(f"weights '{path}': no such file{place}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript and old protocols: what matters is said below
            data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        why = (  # torch would advise to unpickle it
            "it holds other Python objects (a whole model, TorchScript?), which are never unpickled since that can run "
            "any code, or is damaged"
        )
        if isinstance(error, (OSError, MemoryError, SafetensorError)):
            why = printable((str(error).splitlines() or [type(error).__name__])[0])
        raise ValueError(
            f"weights '{path}': not a safetensors file or a plain torch state dict ({why}); save model.state_dict()"
        ) from error
    found = state_dicts(data)
    if not found:
        keys = ", ".join(map(str, list(data)[:8])) if isinstance(data, Mapping) else ""
        held = f"a dictionary of {keys or 'nothing'}" if isinstance(data, Mapping) else type(data).__name__
        raise ValueError(f"weights '{path}': expected a state dict (name -> tensor), found {held}; save "
                         "model.state_dict()")  # fmt: skip
    order = {key: rank for rank, key in enumerate(KEPT_UNDER)}
    chosen = min(found, key=lambda path: order.get(path.partition(".")[0], len(order)))
    if len(found) > 1:
        say(f"weights '{path}': holds {', '.join(found)}; taken: {chosen}")
    return {str(k): v for k, v in found[chosen].items()}


def state_dicts(data: Any) -> dict[str, Mapping[str, Tensor]]:
    """Every state dict in what a checkpoint holds, by where it is kept: "" for the thing itself, "ema.module"."""
    if not isinstance(data, Mapping):
        return {}
    if data and all(isinstance(value, Tensor) for value in data.values()):
        return {"": data}
    inner = {key: state_dicts(value) for key, value in data.items() if isinstance(key, str)}  # an optimiser counts
    return {".".join(filter(None, (key, path))): state for key, found in inner.items() for path, state in found.items()}


def save_weights(model: nn.Module, path: Path) -> None:
    """Write what `read_weights` reads; tied tensors are stored once each, as safetensors has no aliases.

    Raises:
        DiskError: If it cannot be written.
    """
    state = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in model.state_dict().items()}
    save_tensors(save_file, state, path)


def broken_weight(model: nn.Module) -> str:
    """Which weights are no finite numbers, in words; "" if all are. A buffer may hold infinity (attention masks do)."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            wrong = ~value.isfinite() if name in parameters else value.isnan()
            if wrong.any():
                return f"'{name}' holds {int(wrong.sum())} numbers that are NaN or infinite"
    return ""


def load_weights(model: nn.Module, state: Mapping[str, Tensor], where: str, say: Say = quiet) -> None:
    """Put a state dict into a model, strictly; names that DataParallel or torch.compile gave are understood.

    Args:
        model: The network.
        state: Name -> tensor.
        where: The file, for the error.
        say: Told if names were changed.

    Raises:
        ValueError: Naming the first three keys or shapes that differ.
    """
    own = model.state_dict()
    state = {key: tensor for key, tensor in state.items() if key != "n_averaged" or key in own}  # of AveragedModel
    bare = {_WRAPPERS.sub("", key): key for key in state}
    if len(bare) == len(state) and len(own.keys() & bare) > len(own.keys() & state):
        short, long = next((a, b) for a, b in bare.items() if a != b)
        say(f"weights '{where}': names of a wrapped network, so '{long}' is taken as '{short}', and so on")
        state = {short: state[long] for short, long in bare.items()}
    missing = [f"'{k}' is missing" for k in own if k not in state]
    extra = [f"'{k}' is not in the model" for k in state if k not in own]
    shapes = [
        f"'{k}' is {list(state[k].shape)}, the model has {list(v.shape)}"
        for k, v in own.items()
        if k in state and state[k].shape != v.shape
    ]
    # One of each kind first: three missing keys in a row hide that the file has the same ones under another prefix.
    kinds = [missing, extra, shapes]
    ordered = [kind[i] for i in range(3) for kind in kinds if i < len(kind)]
    if ordered:
        count = sum(map(len, kinds))
        shown = "; ".join(ordered[:3])
        raise ValueError(
            f"weights '{where}': {count} {'key does' if count == 1 else 'keys do'} not fit the model: "
            f"{shown}; give the checkpoint of this very model (and its --model-args)"
        )
    model.load_state_dict(state, strict=True)


def fingerprint(model: nn.Module) -> str:
    """A short hash of every parameter and buffer: two models with the same one compute the same."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def size_of(model: nn.Module) -> int:
    """Bytes of a network's parameters and buffers on disk."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
