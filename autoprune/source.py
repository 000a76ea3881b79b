"""Which code this is: two checkouts of the same version may compute different things."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

PACKAGES = ("autoprune", "search_spaces", "objectives")


def code() -> str:
    """The version and what is behind it: "0.1.0 (code 1a2b3c4d)"."""
    import autoprune

    return f"{autoprune.__version__} (code {digest()})"


@cache
def digest() -> str:
    """A short hash of the names and bytes of all source files, as this process first found them."""
    found = (importlib.util.find_spec(package) for package in PACKAGES)
    return _digest(*(Path(place) for spec in found if spec for place in spec.submodule_search_locations or ()))


def _digest(*roots: Path) -> str:
    both = hashlib.sha256()
    for root in roots:
        files = {f"{root.name}/{file.relative_to(root).as_posix()}": file for file in root.rglob("*.py")}
        for name in sorted(files):
            both.update(f"{name}\n{hashlib.sha256(files[name].read_bytes()).hexdigest()}\n".encode())
    return both.hexdigest()[:8]
