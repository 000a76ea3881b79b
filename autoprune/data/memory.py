"""Whether images fit into memory, asked before they are read."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

# Where Linux says what a container may take: version 2, then version 1.
CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory() -> int | None:
    """Bytes that this process may ever have: of the machine, or of its container; None where nobody says."""
    limits = []
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in CGROUPS:
        with suppress(OSError, ValueError):  # no such file; "max"
            limits.append(int(path.read_text(encoding="ascii")))
    return min((limit for limit in limits if limit > 0), default=None)


def check_memory(where: str, count: int, size: int, way: str, parts: int = 1) -> None:
    """Refuse what would not leave half of the memory free.

    Args:
        where: What is read, for the error.
        count: Images.
        size: Bytes of one.
        way: The way out; {most} in it is how many images of each part fit.
        parts: Of the data set.

    Raises:
        ValueError: If they need more.
    """
    found = memory()
    if found is not None and count * size > found // 2:
        raise ValueError(
            f"{where}: {count} images need {count * size / 1e9:.1f} GB of memory, and half of what this machine gives "
            f"is {found / 2e9:.1f} GB; {way.format(most=found // 2 // size // parts)}"
        )
