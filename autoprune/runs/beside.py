"""Networks that were trained elsewhere are never lost: what would replace one keeps it beside itself first."""

from __future__ import annotations

import filecmp
import itertools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autoprune.exporting import read_architecture
from autoprune.files import whole_directory


def attached(directory: Path) -> Mapping[str, Any] | None:
    """What an export says of a network in it that was trained elsewhere (see `trained`); None if it holds no such one.

    Returns:
        "from", "when", "weights", "replaced".
    """
    try:
        found = read_architecture(directory).get("provenance", {}).get("attached")
    except ValueError:  # nothing is there, or nothing that can be read
        return None
    return found if isinstance(found, Mapping) else None


def keep_attached(directory: Path, say: Callable[[str], None]) -> None:
    """Before an export is replaced: keep it if its network was trained elsewhere, and say where."""
    if said := attached(directory):
        say(f"'{directory}': the network attached from {said['from']} is kept in {keep_beside(directory)}")


def keep_beside(directory: Path) -> Path:
    """Copy an export to the first free place beside it, best-replaced-1, best-replaced-2 ...

    What was copied there last is not copied again: a process that died after the copy may be repeated.

    Raises:
        DiskError: If it cannot be written.
    """
    last = None
    for number in itertools.count(1):
        place = directory.with_name(f"{directory.name}-replaced-{number}")
        if not place.exists():
            break
        last = place
    if last is not None and _same(directory, last):
        return last
    with whole_directory(place, replace=False) as scratch:
        shutil.copytree(directory, scratch, dirs_exist_ok=True)
    return place


def _same(one: Path, other: Path) -> bool:
    names = {p.name for p in one.iterdir()}
    return names == {p.name for p in other.iterdir()} and not any(
        filecmp.cmpfiles(one, other, sorted(names), shallow=False)[1:]
    )
