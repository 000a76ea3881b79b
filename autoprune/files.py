"""Files that are there whole or not at all: everything is written beside its place and then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


class DiskError(OSError, ValueError):
    """Something could not be written: the disk is full, read-only or forbidden."""


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn any OSError of the block into one sentence about `path`.

    Raises:
        DiskError: If the block raises an OSError.
    """
    try:
        yield
    except OSError as error:
        cause = error.__cause__ if isinstance(error, DiskError) and isinstance(error.__cause__, OSError) else error
        why = cause.strerror or str(cause)
        raise DiskError(f"'{path}': cannot be written ({why}); free some space or choose another place") from cause


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        DiskError: If it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with disk(path):
        try:
            with partial.open("w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def save_tensors(save: Callable[[Any, Path], None], tensors: Mapping[str, Any], path: Path) -> None:
    """Write a safetensors file.

    Args:
        save: safetensors' `save_file` for torch or for numpy.
        tensors: What it takes.
        path: The file.

    Raises:
        DiskError: If it cannot be written.
    """
    with disk(path):
        try:
            save(dict(tensors), path)
        except SafetensorError as error:  # its word for the OSError of a full disk
            raise OSError(str(error)) from error
        umask = os.umask(0)
        os.umask(umask)
        path.chmod(0o666 & ~umask)  # safetensors makes it readable by the owner only


@contextmanager
def whole_directory(path: Path, replace: bool = True) -> Iterator[Path]:
    """A scratch directory that takes the place of `path` when the block ends well, and vanishes when it does not.

    The older one is moved aside, put back if the new one cannot take its place, and removed only at the very end.

    Args:
        path: The directory that appears.
        replace: Whether it may take the place of an older one.

    Raises:
        DiskError: If something in the block could not be written, or `path` is there and may not be replaced.
    """
    place = path.resolve()  # "." has no name, and a symbolic link is not what is replaced
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    old = place.with_name(f".{place.name}.{os.getpid()}.old")
    with disk(path):
        try:
            partial.mkdir(parents=True)
            yield partial
            if replace and place.exists():
                place.rename(old)
            partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            if old.exists() and not place.exists():
                old.rename(place)
            shutil.rmtree(old, ignore_errors=True)
