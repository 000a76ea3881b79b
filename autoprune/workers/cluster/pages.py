"""Bytes of Ray's object store as memory that may be written: its pages, and a process's own where it writes."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


class _Pages(mmap.mmap):
    """A mapping that keeps what it maps in the store."""

    source: Sequence[Bytes]


def own_pages(parts: Sequence[Bytes], owner: int) -> list[Bytes]:
    """The same bytes, to be written at will.

    What Ray gives to a worker is mapped for all workers of a node together. Arrays of it are read-only; a tensor knows
    no such thing, and a write through one would reach every other worker. So the file behind it is mapped once more,
    copy on write: what nobody writes is in memory once, however many workers there are.

    Args:
        parts: As Ray gives them, of one object; each [bytes].
        owner: A process that has the store's file open, which has no name: a worker's parent, the raylet.

    Returns:
        Pages of that file on Linux; copies elsewhere, where the parts do not lie in the store (small ones do not), and
        where the file cannot be found or mapped: nothing but memory depends on it.
    """
    with suppress(OSError, ValueError):
        return _mapped(parts, owner)
    return [part.copy() for part in parts]


def _mapped(parts: Sequence[Bytes], owner: int) -> list[Bytes]:
    places = [part.ctypes.data for part in parts]
    spans = [(place, place + part.nbytes) for place, part in zip(places, parts, strict=True) if part.nbytes]
    first, size = min(spans)[0], max(end for _, end in spans) - min(spans)[0]  # an empty part may lie anywhere
    path, at = _file_behind(first, size)
    before = at % mmap.ALLOCATIONGRANULARITY
    with open(_descriptor(owner, path), "rb") as file:
        pages = _Pages(file.fileno(), before + size, access=mmap.ACCESS_COPY, offset=at - before)
    pages.source = parts
    whole = np.frombuffer(pages, np.uint8)[before:]
    found = [whole[place - first : place - first + part.nbytes] for place, part in zip(places, parts, strict=True)]
    if not np.array_equal(found[0], parts[0]):
        raise ValueError(f"{path} of process {owner} is another file")
    return found


def _file_behind(first: int, size: int) -> tuple[str, int]:
    """The file that is mapped at these addresses for all to see, by its name there, and where in it they begin.

    Raises:
        ValueError: If there is none.
    """
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, mode, offset, _, _, *path = line.rstrip("\n").split(maxsplit=5)
            start, end = (int(number, 16) for number in span.split("-"))
            if path and mode.endswith("s") and start <= first and first + size <= end:
                return path[0], int(offset, 16) + first - start
    raise ValueError("no file is mapped there")


def _descriptor(owner: int, path: str) -> Path:
    """Where a process has a file open.

    Raises:
        ValueError: If it has not.
    """
    for found in Path(f"/proc/{owner}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if os.readlink(found) == path:
                return found
    raise ValueError(f"process {owner} has no {path}")
