"""Checked when `autoprune` is imported: that the two packages it is built on are its own, and no file of the user's."""

from __future__ import annotations

import importlib.util
from pathlib import Path

MARKS = {"search_spaces": "space.py", "objectives": "budget.py"}  # package -> a file that only ours has


def check() -> None:
    """Check without importing them.

    Raises:
        ImportError: Naming the file that takes the place of one of them.
    """
    for name, mark in MARKS.items():
        try:
            spec = importlib.util.find_spec(name)
        except ValueError:  # imported, and made by hand
            continue
        places = list(spec.submodule_search_locations or ()) if spec else []
        if spec and not any((Path(place) / mark).is_file() for place in places):
            found = spec.origin or (places[0] if places else name)
            raise ImportError(
                f"'{found}' takes the place of the package '{name}' that autoprune is built on, as it comes first on "
                "the path (a script's own folder does); rename it: autoprune, objectives and search_spaces are taken",
                name=name,
                path=found,
            )


check()
