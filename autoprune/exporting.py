"""What leaves a run: `architecture.json` + `weights.safetensors` (no pickle), ONNX and torch.export; and `load`.

`architecture.json` holds the model reference, the widths, the kept units and the search space, so a loaded network is
rebuilt by the same surgery that made it, without tracing and without any file of the run.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from autoprune.architecture import FORMAT as FORMAT
from autoprune.architecture import (
    allowance,
    check_adapters,
    check_fits,
    check_state,
    kept_of,
    own_adapters,
    read_state,
    space_of,
)
from autoprune.architecture import read_architecture as read_architecture
from autoprune.builders import is_named_like_one
from autoprune.ceiling import Ceiling
from autoprune.files import as_path, check_writable, sweep, whole_directory, write_text
from autoprune.formats import ONNX_BATCH, ONNX_DIFFERENCE, to_onnx, to_torch_export, why_not
from autoprune.reference import ModelReference, broken_weight, load_weights, save_weights
from autoprune.trust import Call, require
from objectives.plugins import running
from objectives.target import Target, is_latency
from search_spaces import Kept, NestedNetwork, SearchSpace, Widths, prune
from search_spaces.inputs import described_inputs

FORMATS = ("model.onnx", "model.pt2")
OF_ONNX = (ONNX_DIFFERENCE, ONNX_BATCH)  # what architecture.json says of model.onnx
FILES = frozenset({"architecture.json", "weights.safetensors", *FORMATS})


def export(
    directory: str | Path,
    model: nn.Module,
    *,
    space: SearchSpace,
    kept: Kept,
    reference: ModelReference | None = None,
    costs: Mapping[str, Mapping[str, float]] | None = None,
    metrics: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None,
    example_inputs: Any = None,
    onnx: bool = False,
    pt2: bool = False,
    nested: NestedNetwork | None = None,
    levels: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write a pruned network so that `load` rebuilds it anywhere; the directory appears whole or not at all.

    Args:
        directory: Where; an older export there is replaced, but its ONNX and torch.export files stay if the weights are
            the same.
        model: The pruned network, as `search_spaces.prune` made it (weights may be fine-tuned).
        space: The search space it was pruned in.
        kept: The kept units per group.
        reference: How the dense network is built; None for an nn.Module object of unknown origin.
        costs: Per cost name, its "dense" and "pruned" value.
        metrics: What was measured.
        provenance: Where it comes from: versions, seed, budgets, data, strategy.
        inputs: What the network is to be fed with (`autoprune.data.input_of`): image shape, mean, std, their formula.
        outputs: What it answers (`autoprune.data.output_of`): meaning, number and names of the classes.
        example_inputs: One batch, needed for ONNX and torch.export.
        onnx: Also write model.onnx (checked against torch).
        pt2: Also write model.pt2 (torch.export).
        nested: Several networks in one, of which `model` is the largest: then their weights are written, in one file.
        levels: What is told of each of them: name, widths, costs, metrics.

    Returns:
        The directory.

    Raises:
        ValueError: If something else is there, something cannot be written, or the ONNX or torch.export file cannot be
            made: then the rest is there all the same. If a weight is NaN or infinite, nothing is written.
    """
    directory = Path(directory)
    check_target(directory)
    if broken := broken_weight(nested or model):
        raise ValueError(f"'{directory}': not exported, since {broken}; train with a smaller learning rate")
    widths: Widths = tuple(len(k) for k in kept)
    architecture: dict[str, Any] = {
        "format": FORMAT,
        "model": (reference or ModelReference()).to_json(),
        "groups": [g.name for g in space.groups],
        "widths": list(widths),
        "kept": [np.asarray(k).tolist() for k in kept],
        "costs": {k: dict(v) for k, v in (costs or {}).items()},
        "metrics": dict(metrics or {}),
        "provenance": dict(provenance or {}),
        "input": described_inputs(model, dict(inputs or {})),
        "output": dict(outputs or {}),
        "adapters": own_adapters(model),
        "space": space.to_json(),
    }
    if nested is not None:
        order = [np.asarray(o).tolist() for o in nested.order]
        architecture |= {"levels": list(levels), "order": order, "own_scales": nested.scales}
    failures = []
    with whole_directory(directory) as scratch:
        save_weights(nested or model, scratch / "weights.safetensors")
        for name, asked, write in (("model.onnx", onnx, to_onnx), ("model.pt2", pt2, to_torch_export)):
            try:
                if asked:
                    told = {"input": architecture["input"], "output": architecture["output"]}
                    architecture |= write(model, example_inputs, scratch / name, told, _measured_batch(costs or {}))
                elif (directory / name).is_file() and _same_weights(directory, scratch):
                    shutil.copy2(directory / name, scratch / name)
                    architecture = {**read_architecture(directory), **architecture}
            except Exception as error:  # torch.onnx and torch.export raise whatever they like
                (scratch / name).unlink(missing_ok=True)
                failures.append(f"{name} ({why_not(error)})")
        write_text(scratch / "architecture.json", _compact_json(architecture))
    if failures:
        raise ValueError(
            f"'{directory}': could not write {' and '.join(failures)}; the rest of the export is there: use "
            "autoprune.load, or other example inputs"
        )
    return directory


def _measured_batch(costs: Iterable[str]) -> int | None:
    """The batch that the latencies among these costs are of; None: there are none, or of several."""
    batches = {Target.parse(name).batch for name in costs if is_latency(name)}
    return batches.pop() if len(batches) == 1 else None


def check_target(directory: Path) -> None:
    """Check that an export may go there: nothing is there, an empty directory, or an older export and nothing else.

    What exports left there that were killed is swept.

    Raises:
        ValueError: If something would be lost, or nothing can be written there.
    """
    check_writable(directory)
    sweep(directory)
    if not os.path.lexists(directory):
        return
    try:
        found = {path.name for path in directory.iterdir()}
        foreign = sorted(found - FILES)
        what = f"'{foreign[0]}'" if foreign else ""
        if found and not foreign:
            read_architecture(directory)
    except NotADirectoryError:
        what = "a file"
    except OSError as error:
        what = f"something that cannot be read ({error.strerror})"
    except ValueError as error:
        what = f"no export that can be read: {str(error).rpartition(';')[0]}"
    if what:
        raise ValueError(
            f"'{directory}': expected a new or empty directory or an older export, but found {what}, which would be "
            "lost; remove it, or choose another place"
        )


def load(
    directory: str | Path, model: nn.Module | Callable[[], nn.Module] | str | None = None, *, trust: bool = False
) -> nn.Module:
    """Rebuild an exported network, in eval mode, on the CPU. Needs the code of the dense model, no data.

    It wants images normalised as in its training: "input" in architecture.json says how (shape, mean, std, formula);
    the ONNX and torch.export files want the same. Where a run has trained several networks in one (`--method nested`),
    it is a `search_spaces.NestedNetwork`: `net.switch("macs<=15%")`.

    Args:
        directory: What `export` wrote, e.g. "results/<run>/best".
        model: The dense network, a function that builds it, or "package.module:factory" (called with the arguments that
            the export says); needed where the export does not name a factory.
        trust: The factory that the export names may be imported and called, whatever it is. Without it, only one that
            builds a network of `search_spaces.models`, `torchvision.models` or `timm`, or that you called here before.

    Raises:
        NotTrusted: If the export names another factory; nothing has been imported then.
        ValueError: If a file is missing or damaged, the model cannot be built, or the weights do not fit it.
    """
    directory = as_path("directory", directory)
    architecture = read_architecture(directory)
    space, where = space_of(architecture, directory), f"'{directory}'"
    state = read_state(directory / "weights.safetensors")
    if model is None or isinstance(model, str):
        reference = ModelReference.from_json(architecture["model"])
        if model:
            reference = ModelReference(model, reference.args)
        if reference.factory and (model is None or reference.args):  # a name that the caller gives may be called
            require([Call("model", reference.factory, reference.args)], where, trust)
        known = is_named_like_one(reference.factory)  # others have been allowed whatever they do
        with Ceiling(allowance(space, where), "what its arguments ask for") if known else nullcontext():
            dense = reference.build()
    else:
        dense = model if isinstance(model, nn.Module) else _made(model)
    make = rebuild_nested if "levels" in architecture else rebuild
    pruned = make(architecture, dense, str(directory))
    check_state(pruned, state, str(directory / "weights.safetensors"))
    load_weights(pruned, state, str(directory / "weights.safetensors"))
    return pruned.eval()


def _made(function: Callable[[], nn.Module]) -> nn.Module:
    """What a caller's function builds."""
    if not callable(function):
        raise ValueError(f"model: expected an nn.Module, a function that makes one, or its name, got {function!r:.40}")
    with running("model: the function"):
        model = function()
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: expected a function that returns an nn.Module, got {type(model).__name__}")
    return model


def rebuild(architecture: Mapping[str, Any], dense: nn.Module, where: str) -> nn.Module:
    """The pruned network of an export, in eval mode, with weights cut out of the dense one.

    Raises:
        ValueError: If the dense network is another one.
    """
    space = space_of(architecture, where)
    check_fits(dense, space, where)
    check_adapters(dense, architecture, where)
    try:
        return prune(dense, space, kept_of(architecture)).eval()
    except (ValueError, IndexError, RuntimeError, ZeroDivisionError) as error:  # positions that a tensor does not have
        why = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(f"'{where}': its space does not fit the network ({why}); export again") from error


def rebuild_nested(architecture: Mapping[str, Any], dense: nn.Module, where: str) -> NestedNetwork:
    """The network of several levels of an export, in eval mode, with weights cut out of the dense one.

    Raises:
        ValueError: If the dense network is another one, or the levels are damaged.
    """
    space = space_of(architecture, where)
    check_fits(dense, space, where)
    check_adapters(dense, architecture, where)
    levels = {level["name"]: tuple(level["widths"]) for level in architecture["levels"]}
    order = [np.array(o, dtype=np.int64) for o in architecture["order"]]
    try:
        return NestedNetwork(dense, space.standing, order, levels, bool(architecture.get("own_scales"))).eval()
    except (ValueError, IndexError, RuntimeError, ZeroDivisionError) as error:
        why = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(f"'{where}': its levels do not fit the network ({why}); export again") from error


def copy_export(
    source: Path,
    target: Path,
    model: nn.Module | None = None,
    example_inputs: Any = None,
    *,
    reference: ModelReference | None = None,
    onnx: bool,
    pt2: bool,
    trust: bool = False,
) -> Path:
    """Export an exported network once more, with other formats beside it; without any its files are copied.

    Args:
        source: Where it is.
        target: Where it goes.
        model: The dense network, where the export does not say how it is built.
        example_inputs: See `export`.
        reference: How the dense network is built, where the export is to say so.
        onnx: Also write model.onnx.
        pt2: Also write model.pt2.
        trust: See `load`.

    Raises:
        ValueError: As `load` and `export`.
    """
    architecture = read_architecture(source)
    if not (onnx or pt2 or reference):
        return _copy(source, target, architecture)
    network = load(source, model or (reference.build if reference else None), trust=trust)
    if reference:
        architecture = {**architecture, "model": reference.to_json()}
    nested = network if isinstance(network, NestedNetwork) else None
    if nested is not None:
        network, _ = nested.alone(nested.names[0])
    return export_again(target, network, architecture, example_inputs, onnx=onnx, pt2=pt2, nested=nested)


def export_again(
    target: Path,
    network: nn.Module,
    architecture: Mapping[str, Any],
    example_inputs: Any,
    *,
    onnx: bool,
    pt2: bool,
    nested: NestedNetwork | None = None,
) -> Path:
    """Export a network whose architecture was exported before; all but the weights is taken from there.

    Raises:
        ValueError: As `export`.
    """
    return export(
        target,
        network,
        space=space_of(architecture, target),
        kept=kept_of(architecture),
        reference=ModelReference.from_json(architecture["model"]),
        **{name: architecture.get(name) for name in ("costs", "metrics", "provenance")},
        inputs=architecture.get("input"),
        outputs=architecture.get("output"),
        example_inputs=example_inputs,
        onnx=onnx,
        pt2=pt2,
        nested=nested,
        levels=architecture.get("levels", ()),
    )


def fixed_batch(directory: Path) -> str:
    """The sentence for an ONNX file that takes one batch size only; "" for others."""
    number = read_architecture(directory).get(ONNX_BATCH) if (directory / "model.onnx").is_file() else None
    return (
        f"model.onnx takes batches of {number} only: the network's own code fixes it (len(x) does, x.shape[0] does not)"
        if number
        else ""
    )


def _copy(source: Path, target: Path, architecture: dict[str, Any]) -> Path:
    """An export as it is; formats that are at the target already stay if the weights are the same."""
    check_target(target)
    read_state(source / "weights.safetensors")  # what is damaged must not spread
    with whole_directory(target) as scratch:
        shutil.copyfile(source / "weights.safetensors", scratch / "weights.safetensors")
        formats = [name for name in FORMATS if (target / name).is_file() and _same_weights(target, scratch)]
        for name in formats:
            shutil.copyfile(target / name, scratch / name)
        if "model.onnx" in formats:
            architecture = {**architecture, **_of_onnx(read_architecture(target))}
        elif _of_onnx(architecture):
            architecture = {k: v for k, v in architecture.items() if k not in OF_ONNX}
        write_text(scratch / "architecture.json", _compact_json(architecture))
    return target


def _of_onnx(architecture: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in architecture.items() if k in OF_ONNX}


def _same_weights(one: Path, other: Path) -> bool:
    one, other = one / "weights.safetensors", other / "weights.safetensors"
    return one.is_file() and filecmp.cmp(one, other, shallow=False)


def _compact_json(data: Mapping[str, Any]) -> str:
    """Indented JSON with lists of numbers on one line, so that people can read and diff it."""
    lines = [f" {json.dumps(key)}: {_value(key, value)}" for key, value in data.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _value(key: str, value: Any) -> str:
    if key in ("kept", "groups", "order", "levels") and value:
        return "[\n" + ",\n".join(f"  {json.dumps(v, default=_plain)}" for v in value) + "\n ]"
    if isinstance(value, Mapping) and key != "space":
        return _indented(value)
    return json.dumps(value, default=_plain)


def _indented(value: Any, depth: int = 1) -> str:
    """JSON with a line for each entry of a dictionary; everything else, lists too, on one line."""
    if not (isinstance(value, Mapping) and value):
        return json.dumps(value, default=_plain)
    lines = (f"\n{' ' * (depth + 1)}{json.dumps(key)}: {_indented(v, depth + 1)}" for key, v in value.items())
    return "{" + ",".join(lines) + "\n" + " " * depth + "}"


def _plain(value: Any) -> Any:
    """Numpy and torch numbers as Python's."""
    if isinstance(value, Sequence):
        return list(value)
    return value.item() if hasattr(value, "item") else str(value)
