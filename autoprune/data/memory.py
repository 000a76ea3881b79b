"""How much memory there is, how much of it is free, and whether images fit into it, asked before they are read."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

# Where Linux says what a container may take: version 2, then version 1.
CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")  # roots of the two
USED = {"memory.max": "memory.current", "memory.limit_in_bytes": "memory.usage_in_bytes"}  # beside each of them
CACHED = ("inactive_file", "total_inactive_file")  # of memory.stat: what is used, but given back when it is wanted
UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}  # powers of two; with "B", as in "MB", of ten
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT]?)(I?)(B?)|(%))", re.IGNORECASE)
USUAL = "25%"  # of what is free


def memory() -> int | None:
    """Bytes that this process may ever have: of the machine, or of its container; None where nobody says."""
    limits = []
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in _cgroups():
        with suppress(OSError, ValueError):  # no such file; "max"
            limits.append(int(path.read_text(encoding="ascii")))
    return min((limit for limit in limits if limit > 0), default=None)


def free() -> int | None:
    """Bytes that this process can still get: of the machine, its container and its own limits; None: nobody says."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        about = Path("/proc/meminfo").read_text(encoding="ascii")
        found.append(1024 * int(about.partition("MemAvailable:")[2].split()[0]))
    for path in _cgroups():
        with suppress(OSError, ValueError):
            limit, used = (int(p.read_text(encoding="ascii")) for p in (path, path.with_name(USED[path.name])))
            found.append(limit - used + _cached(path.with_name("memory.stat")))
    with suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        total, _, _, _, _, data, _ = Path("/proc/self/statm").read_text(encoding="ascii").split()
        for kind, pages in ((resource.RLIMIT_AS, total), (resource.RLIMIT_DATA, data)):
            if (limit := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY:
                found.append(limit - int(pages) * resource.getpagesize())
    return max(0, min(found)) if found else memory()


def _cgroups() -> list[Path]:
    """Where the limits of this process may stand: of its container, and of all groups that it is in."""
    found = list(CGROUPS)
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root, name = (V1, "memory.limit_in_bytes") if controllers else (V2, "memory.max")
            parts = Path(path).parts[1:]
            found += [root.joinpath(*parts[:depth], name) for depth in range(1, len(parts) + 1)]
    return found


def _cached(stat: Path) -> int:
    lines = (line.split() for line in stat.read_text(encoding="ascii").splitlines())
    return max((int(number) for name, number in lines if name in CACHED), default=0)


def parse_size(text: str) -> tuple[float, bool]:
    """What "2GiB", "500MB" or "25%" says.

    Returns:
        A number, and whether it is a fraction of what is free instead of bytes.

    Raises:
        ValueError: If it says no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found or (found[5] and float(found[1]) > 100) or (found[3] and not found[2]):
        raise ValueError(f"data_memory '{text}': expected bytes with a unit, e.g. 2GiB, 500MB or 0 (stream whatever "
                         "can be streamed), or a percentage of what is free, e.g. 25%")  # fmt: skip
    if found[5]:
        return float(found[1]) / 100, True
    power = UNITS[found[2].upper()]
    return float(found[1]) * (10.0 ** (power * 3 // 10) if found[4] and not found[3] else 2.0**power), False


def size_text(size: float) -> str:
    """Bytes as `parse_size` reads them, rounded down to whole MiB: "1536MiB"."""
    return f"{int(size) >> 20}MiB"


def settled(text: str) -> str:
    """The size that a setting means on this machine now: a percentage is of what is free.

    A run keeps it, so that it streams in every process, and after every resume, what it streamed in the beginning.
    """
    share, is_fraction = parse_size(text or USUAL)
    if not is_fraction:
        return text
    available = free()
    return size_text(share * available) if available is not None else "4GiB"


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
