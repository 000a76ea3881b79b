"""Files that are there whole or not at all: everything is written beside its place and then renamed.

What is being written lies under a name that no other process has, and its writer holds a lock on it, which its death
sets free: what dead writers left is swept by the next one. (A process number would not do: in a container the next
process often has the same one.)
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import json
import math
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

PARTIAL, OLD = ".partial", ".old"  # what is being written, and what it is about to replace
_CURES = {
    errno.ENOTDIR: "choose another place",
    errno.EROFS: "make it writable or choose another place",
    errno.EACCES: "make it writable or choose another place",
    errno.EPERM: "make it writable or choose another place",
    errno.ENOENT: "was its directory removed? choose another place",
    errno.ESTALE: "is the file server there? mount it again or choose another place",
    errno.EFBIG: "allow larger files (ulimit -f) or choose another place",
}
MOST_TEXT = 2**28  # bytes of a JSON or TOML file that is read at all


class DiskError(OSError, ValueError):
    """Something could not be written: the disk is full, read-only or forbidden."""


def as_path(what: str, given: object) -> Path:
    """A path that a caller gave.

    Raises:
        ValueError: If it is something else, or no path of any file.
    """
    if not isinstance(given, (str, os.PathLike)):
        raise ValueError(f"{what}: expected the path of a file or a directory, got {given!r:.40}")
    path = Path(given)
    if "\0" in str(path) or not str(given):
        raise ValueError(f"{what}: expected the path of a file or a directory, got {str(given)!r}")
    return path


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
        cure = _CURES.get(cause.errno or 0, "free some space or choose another place")
        raise DiskError(f"'{path}': cannot be written ({cause.strerror or cause}); {cure}") from cause


def read_text(path: Path) -> str:
    """The text of a file that somebody else may have written: a plain one, of a size that can be meant.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is a pipe or a device, larger than `MOST_TEXT`, or no text.
    """
    check_plain(path)
    if (size := path.stat().st_size) > MOST_TEXT:
        raise ValueError(f"{size / 2**20:.0f} MiB, more than {MOST_TEXT >> 20} MiB")
    return path.read_text(encoding="utf-8")


def read_json(path: Path) -> Any:
    """What is in such a file, which is JSON.

    Raises:
        OSError: If it cannot be read.
        ValueError: As `read_text`, or if it is no JSON, or nested too deep.
    """
    try:
        return json.loads(read_text(path))
    except RecursionError:
        raise ValueError("nested too deep") from None


def check_plain(path: Path) -> None:
    """Check that a file is no pipe, device or directory: to read one might never end.

    Raises:
        OSError: If it is not there.
        ValueError: If it is.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("not a file, but a pipe, a device or a directory")


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file for the block to write, which takes the place of `path` when the block ends well.

    Raises:
        DiskError: If it cannot be written.
    """
    with disk(path), _scratch(path, lambda partial: partial.touch(exist_ok=False)) as partial:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        DiskError: If it cannot be written.
    """
    with whole_file(path) as file:
        file.write(text.encode())


def save_tensors(save: Callable[[Any, Path], None], tensors: Mapping[str, Any], path: Path) -> None:
    """Write a safetensors file whole or not at all.

    Args:
        save: safetensors' `save_file` for torch or for numpy.
        tensors: What it takes.
        path: The file.

    Raises:
        DiskError: If it cannot be written.
    """
    with disk(path), _scratch(path, Path.mkdir) as folder:
        partial = folder / path.name
        try:
            save(dict(tensors), partial)
        except SafetensorError as error:  # its word for the OSError of a full disk
            raise OSError(str(error)) from error
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # safetensors makes it readable by the owner only
        partial.replace(path)


@contextmanager
def whole_directory(path: Path, replace: bool = True) -> Iterator[Path]:
    """A scratch directory that takes the place of `path` when the block ends well, and vanishes when it does not.

    The older one changes places with it; where the system cannot do that, it is moved aside, put back if the new one
    cannot take its place, and removed only at the very end.

    Args:
        path: The directory that appears.
        replace: Whether it may take the place of an older one.

    Raises:
        DiskError: If something in the block could not be written, or `path` is there and may not be replaced.
    """
    place = path.resolve()  # "." has no name, and a symbolic link is not what is replaced
    with disk(path):
        place.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(place, Path.mkdir) as partial:
            old = partial.with_suffix(OLD)
            try:
                yield partial
                if not (replace and place.exists() and _swap(partial, place)):
                    if replace and place.exists():
                        place.rename(old)
                    partial.rename(place)
            finally:
                _put_back(old, place)


def check_writable(path: Path) -> None:
    """Check that something could be written at `path`, as far as that can be known without writing.

    Raises:
        DiskError: If it could not.
    """
    folder = path.resolve().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    with disk(path):
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(folder, os.W_OK | os.X_OK):
            number = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(number, os.strerror(number))


def check_room(path: Path, needed: int) -> None:
    """Check that so many bytes are free where `path` is, or will be.

    Raises:
        DiskError: If they are not.
    """
    folder = path.resolve()
    while not folder.is_dir():
        folder = folder.parent
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < needed:  # what has no size, such as /proc, cannot be written anyway
        most, free = math.ceil(needed / 1e5) / 10, disk.free // 1e5 / 10
        found = f"at least {most:,} MB are needed for networks, {free:,} MB are free"
        raise DiskError(f"'{path}': {found}; free some space or choose another place")


def sweep(path: Path) -> None:
    """Remove what writers of `path` left that died in the middle; what they had moved aside comes back."""
    here = path.resolve()

    def left(suffix: str) -> list[Path]:
        return [Path(found) for found in glob.glob(f"{glob.escape(str(here.parent / f'.{here.name}.'))}*{suffix}")]

    for old in left(OLD):
        if not _is_alive(old.with_suffix(PARTIAL)):
            _put_back(old, here)
    for partial in left(PARTIAL):
        if not _is_alive(partial):
            _remove(partial)


@contextmanager
def _scratch(place: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A file or directory beside `place` that is this process's own, for the time of the block."""
    sweep(place)
    while True:
        partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}{PARTIAL}")
        try:
            make(partial)
        except FileExistsError:
            continue
        lock = os.open(partial, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks: nobody else can lock it either, so nobody sweeps it
            fcntl.flock(lock, fcntl.LOCK_SH)
        if partial.exists():  # else a sweeper was here before the lock
            break
        os.close(lock)
    try:
        yield partial
    finally:
        os.close(lock)
        _remove(partial)


def _swap(one: Path, other: Path) -> bool:
    """Let two paths change places at once, so that a kill leaves one or the other; False where the system cannot."""
    libc, (a, b) = ctypes.CDLL(None), (os.fsencode(one), os.fsencode(other))
    try:
        if sys.platform == "darwin":
            return bool(libc.renamex_np(a, b, 2) == 0)  # RENAME_SWAP
        return bool(libc.renameat2(-100, a, -100, b, 2) == 0)  # AT_FDCWD, RENAME_EXCHANGE
    except AttributeError:  # an older libc
        return False


def _is_alive(partial: Path) -> bool:
    """Whether the process that writes it lives, or that cannot be known."""
    try:
        file = os.open(partial, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def _put_back(old: Path, place: Path) -> None:
    """Let what was moved aside take its place again if nothing else has; else it is no longer needed."""
    if old.exists() and not place.exists():
        old.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
