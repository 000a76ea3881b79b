"""What `architecture.json` and the weights beside it say, checked before anything is made of it.

Both may come from a stranger: whatever is wrong with them is one sentence, and nothing of a size that they name is
allocated before it is plausible.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from autoprune.data.memory import memory
from autoprune.files import check_plain, read_json
from autoprune.reference import ModelReference
from search_spaces import Kept, SearchSpace
from search_spaces.adapters import KINDS, adapted
from search_spaces.plan import check_kept

FORMAT = "autoprune architecture 1"
_TABLES = ("_val", "_test")  # metrics of a network on a split


def read_architecture(directory: Path) -> dict[str, Any]:
    """The parsed architecture.json.

    Raises:
        ValueError: If it is missing, damaged, or of another format.
    """
    path = directory / "architecture.json"
    try:
        data = read_json(path)
    except OSError as error:
        raise ValueError(f"'{path}': cannot be read ({error.strerror}); expected the directory of an export") from error
    except ValueError as error:
        raise ValueError(f"'{path}': damaged ({error}); export again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"'{path}': expected format '{FORMAT}', found {found!r}; export again with this version")
    if missing := {"model", "widths", "kept", "space"} - data.keys():
        raise ValueError(f"'{path}': lacks {', '.join(sorted(missing))}; export again")
    try:
        ModelReference.from_json(data["model"])
        _check_parts(data)
    except ValueError as error:
        raise ValueError(f"'{path}': damaged ({error}); export again") from error
    return data


def _check_parts(data: Mapping[str, Any]) -> None:
    """Check that the parts of an architecture are of the kinds that their readers expect."""
    for key in {"costs", "metrics", "provenance", "input", "adapters"} & data.keys():
        if not isinstance(data[key], dict):
            raise ValueError(f"{key}: expected a table, found {str(data[key])[:40]!r}")
    tables = [*data.get("costs", {}).items(), *(m for m in data.get("metrics", {}).items() if m[0].endswith(_TABLES))]
    if odd := [name for name, value in tables if not isinstance(value, dict)]:
        raise ValueError(f"'{odd[0]}': expected a table of numbers")
    for name, table in tables:
        numbers = [table.get(key) for key in ("dense", "pruned")] if name in data.get("costs", {}) else []
        numbers += list(table.values()) if name.endswith(_TABLES) else []
        if not all(isinstance(number, (int, float)) for number in numbers):
            raise ValueError(f"'{name}': expected numbers, found {str(table)[:60]}")
    if not _are_counts(data["widths"]) or not isinstance(data["kept"], list):
        raise ValueError("widths and kept: expected lists of whole numbers")
    if "levels" in data:
        _check_levels(data)
    names = data.get("groups", data["widths"])
    if not (isinstance(names, list) and len(names) == len(data["widths"]) == len(data["kept"])):
        raise ValueError("groups, widths and kept: expected as many of each")
    for name, cost in data.get("costs", {}).items():
        if not all(isinstance(cost.get(which), (int, float)) for which in ("dense", "pruned")):
            raise ValueError(f"costs: expected numbers of '{name}', dense and pruned")


def _check_levels(data: Mapping[str, Any]) -> None:
    """Check that several networks in one are told as their reader expects."""
    levels, order = data["levels"], data.get("order")
    if not (isinstance(levels, list) and levels and all(isinstance(level, dict) for level in levels)):
        raise ValueError("levels: expected a list of tables")
    for level in levels:
        if not isinstance(level.get("name"), str) or not _are_counts(level.get("widths")):
            raise ValueError("levels: expected a name and widths of each")
        if not all(isinstance(level.get(part), dict) for part in ("costs", "metrics")):
            raise ValueError(f"level '{level['name']}': expected tables of costs and metrics")
    if len({level["name"] for level in levels}) < len(levels) or levels[0]["widths"] != data["widths"]:
        raise ValueError("levels: expected names that differ, and the widths of the first to be those of the export")
    if not (isinstance(order, list) and len(order) == len(data["widths"]) and all(map(_are_counts, order))):
        raise ValueError("order: expected a list of units for each group")


def _are_counts(row: Any) -> bool:
    return isinstance(row, list) and all(type(x) is int and 0 <= x < 2**31 for x in row)


def space_of(architecture: Mapping[str, Any], where: str | Path) -> SearchSpace:
    """The space of an export.

    Raises:
        ValueError: If it is damaged, or its kept units are none of it.
    """
    try:
        if not all(map(_are_counts, architecture["kept"])):
            raise ValueError("kept: expected lists of indices")
        if architecture["widths"] != [len(row) for row in architecture["kept"]]:
            raise ValueError("widths: expected the numbers of the kept units, group by group")
        space = SearchSpace.from_json(architecture["space"])
        check_kept(space, kept_of(architecture))
    except ValueError as error:
        raise ValueError(f"'{where}': architecture.json is damaged ({error}); export again") from error
    return space


def kept_of(architecture: Mapping[str, Any]) -> Kept:
    """The kept units of an export."""
    return tuple(np.array(k, dtype=np.int64) for k in architecture["kept"])


def check_fits(model: nn.Module, space: SearchSpace, where: str) -> None:
    """Check that a dense network is the one a space was traced from.

    Raises:
        ValueError: If a tensor of the space is missing or has another shape.
    """
    own = dict(model.named_parameters(remove_duplicate=False))
    for tensor in space.tensors:
        expected = math.prod(axis.size for axis in tensor.axes)
        found = own[tensor.name].numel() if tensor.name in own else 0
        if found != expected:
            raise ValueError(
                f"'{where}': the dense network is another one: '{tensor.name}' has {found} elements, expected "
                f"{expected}; give the model and the arguments that were exported"
            )


def own_adapters(model: nn.Module) -> dict[str, str]:
    """Name of each module that an adapter from outside answers for -> "module:Class" of that adapter."""
    kinds = {name: type(adapter) for name, adapter in adapted(model).items()}
    return {n: f"{k.__module__}:{k.__qualname__}" for n, k in kinds.items() if k not in KINDS}


def check_adapters(model: nn.Module, architecture: Mapping[str, Any], where: str) -> None:
    """Check that the adapters from outside that a network was pruned with are known; nothing is imported.

    Raises:
        ValueError: Naming the first that is not.
    """
    known = adapted(model)
    for name, adapter in architecture.get("adapters", {}).items():
        if name not in known:
            raise ValueError(
                f"'{where}': its '{name}' was pruned with the adapter '{adapter}', which is not registered here; "
                "import the file that registers it first, or give a model whose module imports it"
            )


def allowance(space: SearchSpace, where: str) -> int:
    """Bytes that a builder of the dense network may allocate, counts of the space being true.

    Raises:
        ValueError: If this machine does not have as many.
    """
    need = 8 * sum(math.prod(axis.size for axis in tensor.axes) for tensor in space.tensors)
    if need > (found := memory() or 2**40):
        raise ValueError(
            f"{where}: the dense network would take {need / 2**31:,.0f} GiB, more than this machine's "
            f"{found / 2**30:,.0f}"
        )
    return 4 * need + 2**28


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights of an export.

    Raises:
        ValueError: If they cannot be read.
    """
    try:
        check_plain(path)
        return load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"'{path}': not a readable safetensors file ({error}); export again") from error


def check_state(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Check what `load_weights` would take in silence: numbers of another kind, and none.

    Raises:
        ValueError: If a tensor has another dtype, or holds NaN (a parameter infinity, too).
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, own in model.state_dict().items():
        if (found := state.get(name)) is None:
            continue
        if found.dtype != own.dtype:
            raise ValueError(f"'{where}': '{name}' is {found.dtype}, the network has {own.dtype}; export again".replace(
                "torch.", ""))  # fmt: skip
        if not (found.isfinite() if name in parameters else ~found.isnan()).all():
            raise ValueError(f"'{where}': '{name}' holds NaN or infinity; export again")
