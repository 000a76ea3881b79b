"""Which factories may be called though only a file names them: builders of networks that read and fetch nothing.

They are the registered builders and the `nn.Module` classes of `torchvision.models` and of `timm`, and what
`search_spaces.models` defines. What else can be reached through the names of these packages (modules they import,
loaders of checkpoints, downloads) is not among them, nor is a builder that would load weights, as told or by default.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import typing
from collections.abc import Callable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from torch import nn

PACKAGES = ("search_spaces.models", "torchvision.models", "timm")
_NAME = re.compile(
    r"((?P<package>search_spaces\.models|torchvision\.models|timm(?=\.models\b|:))(\.[a-z]\w*)*):[A-Za-z]\w*", re.ASCII
)
_LOADS = re.compile(r"pretrained|checkpoint|state_dict|cache_dir|^weights")  # arguments that read or fetch weights
_PLACE = re.compile(r"[/\\:]")  # in a text: a file or an address


def is_named_like_one(name: str) -> bool:
    """Whether a name lies in one of the packages; nothing is imported."""
    return bool(_NAME.fullmatch(name))


def why_not(name: str, args: Mapping[str, Any]) -> str:
    """Why a factory may not be called with these arguments unless somebody says so; empty if it may.

    Of what is named only one of the three packages is imported, and only if it is the installed one.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return f"not a builder of {', '.join(PACKAGES[:-1])} or {PACKAGES[-1]}"
    package, (module, _, attribute) = match["package"], name.partition(":")
    if not _is_installed(package.partition(".")[0]):
        return f"{package.partition('.')[0]} is not installed"
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return "there is none of that name"
    if not _is_builder(package, found):
        return f"it is no builder of networks that {package} defines"
    return _loads(found, args)


def misfit(factory: Callable[..., Any], args: Mapping[str, Any]) -> str:
    """What is wrong with the arguments of a call, in words; empty for nothing that its signature tells."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some builtins have none to show
        return ""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [p for p in signature.parameters.values() if p.kind in kinds]
    is_open = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    known = [p.name for p in named]
    if not is_open and (unknown := [str(key) for key in args if key not in known]):
        return f"takes no argument {', '.join(unknown)}; it takes {', '.join(known) or 'none'}"
    if missing := [p.name for p in named if p.default is p.empty and p.name not in args]:
        return f"needs the argument {', '.join(missing)}, which is not given"
    return ""


def _is_installed(top: str) -> bool:
    """Whether a package is there, and is not a file that lies where one happens to stand."""
    if top in sys.modules:
        return True
    spec = PathFinder.find_spec(top)
    return (
        spec is not None and bool(spec.origin) and Path(spec.origin or "").resolve().parents[1] != Path.cwd().resolve()
    )


def _is_builder(package: str, found: Any) -> bool:
    """Whether it is defined in the package, and a network or a function that is known to build one."""
    if not f"{getattr(found, '__module__', '')}.".startswith(f"{package}."):
        return False
    if inspect.isclass(found):
        return issubclass(found, nn.Module)
    if not inspect.isfunction(found):
        return False
    if package == "torchvision.models":
        from torchvision.models._api import BUILTIN_MODELS

        return any(found is known for known in BUILTIN_MODELS.values())
    if package == "timm":
        registry = importlib.import_module("timm.models._registry")
        return found is importlib.import_module("timm").create_model or any(
            found is known for known in registry._model_entrypoints.values()
        )
    made = typing.get_type_hints(found).get("return")
    return inspect.isclass(made) and issubclass(made, nn.Module)


def _loads(factory: Callable[..., Any], args: Mapping[str, Any]) -> str:
    """Which of the arguments, given or by default, would have it read a file or download; empty for none."""
    parameters = inspect.signature(factory).parameters.values()
    values = {p.name: p.default for p in parameters if p.default is not p.empty} | dict(args)
    for name, value in values.items():
        if _LOADS.search(name) and value not in (None, False, ""):
            how = "" if name in args else " by default"
            return f"with {name}={value!s:.40}{how} it would load weights"
        if name in args and isinstance(value, str) and _PLACE.search(value):
            return f"{name}={value!r} names a file or an address"
    return ""
