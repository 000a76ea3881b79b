"""Prints the oldest versions that pyproject.toml allows, as constraints for pip; `make test-oldest` installs them."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def requirements(project: dict[str, Any], extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """What the project needs itself, then what each of the `extras` adds."""
    for text in project["dependencies"]:
        yield Requirement(text)
    for extra in extras:
        for text in project["optional-dependencies"][extra]:
            yield Requirement(text)


def oldest(requirement: Requirement) -> str:
    """`name==version` with the lowest version that is allowed."""
    bounds = [s.version for s in requirement.specifier if s.operator in (">=", "==", "~=")]
    if len(bounds) != 1:
        raise ValueError(f"pyproject.toml: '{requirement}' needs one lower bound, such as {requirement.name}>=1.0")
    return f"{requirement.name}=={bounds[0]}" + (f"; {requirement.marker}" if requirement.marker else "")


if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    print("\n".join(sorted({oldest(r) for r in requirements(project, sys.argv[1].split(","))})))
