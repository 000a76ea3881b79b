"""Where the dense network comes from: a factory, its arguments and a weights file. Never a pickle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autoprune.files import save_tensors
from objectives import find


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
        """The inverse of `to_json`."""
        return cls(data.get("factory", ""), data.get("args", {}))

    def build(self) -> nn.Module:
        """The dense network, with its weights loaded, in eval mode.

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
        try:
            model = factory(**self.args)
        except Exception as error:
            raise ValueError(f"model '{name}': the factory failed with {type(error).__name__}: {error}") from error
        if not isinstance(model, nn.Module):
            found = type(model).__name__
            raise ValueError(f"model '{name}': expected a factory that returns an nn.Module, got {found}")
        if self.weights:
            load_weights(model, read_weights(self.weights), self.weights)
        return model.eval()


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or a torch file (weights only, never unpickled).

    A checkpoint that keeps it under "state_dict" or "model" is understood.

    Raises:
        ValueError: If the file is missing or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"weights '{path}': no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"weights '{path}': not a safetensors file or a plain torch state dict ({reason}); save model.state_dict()"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    if not isinstance(data, Mapping) or not all(isinstance(v, Tensor) for v in data.values()):
        raise ValueError(f"weights '{path}': expected a state dict (name -> tensor); save model.state_dict()")
    return {str(k): v for k, v in data.items()}


def save_weights(model: nn.Module, path: Path) -> None:
    """Write what `read_weights` reads; tied tensors are stored once each, as safetensors has no aliases.

    Raises:
        DiskError: If it cannot be written.
    """
    state = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in model.state_dict().items()}
    save_tensors(save_file, state, path)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Put a state dict into a model, strictly.

    Raises:
        ValueError: Naming the first three keys or shapes that differ.
    """
    own = model.state_dict()
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
