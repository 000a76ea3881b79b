"""Files by the hundred thousand: their names in little memory, and whether they are still what they were."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autoprune.data.items import REPAIR, Damaged, Items, some
from objectives.plugins import described


class Names(Sequence[str]):
    """Many names in one piece of memory, which forked processes share and which is small when it is pickled.

    Args:
        names: In order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: Any) -> Any:
        start, end = int(self._ends[number]), int(self._ends[number + 1])
        return os.fsdecode(self._bytes[start:end].tobytes())


class Files:
    """Files as they were when they were listed: what vanishes or changes after that is told.

    Args:
        where: What errors begin with.
        root: The folder.
        names: Of the files, relative to it.

        skip: Whether those that cannot be read may stay in the list: `check` refuses them, one by one.

    Raises:
        Damaged: If one is empty, or no file at all.
    """

    def __init__(self, where: str, root: str, names: Sequence[str], skip: bool = False) -> None:
        self.where, self.root, self.names = where, root, Names(names)
        self._sizes, self._times = (np.zeros(len(names), np.int64) for _ in range(2))  # of the last change, in ns
        for number in range(len(names)):
            try:
                self._sizes[number], self._times[number] = self._stat(self.path(number))
            except Damaged:
                if not skip:
                    raise

    def __len__(self) -> int:
        return len(self.names)

    def path(self, number: int) -> str:
        """Where a file is."""
        return os.path.join(self.root, self.names[number])

    def _stat(self, path: str) -> tuple[int, int]:
        try:
            about = os.stat(path)
        except OSError as error:
            raise Damaged(f"{self.where}: '{path}' was listed and cannot be read ({error.strerror}); put it back, or "
                          "begin a new run without it") from error  # fmt: skip
        if not stat.S_ISREG(about.st_mode):
            text = (
                f"{self.where}: '{path}' is no file of bytes (a folder, a pipe, a device or a broken link); remove it"
            )
            raise Damaged(text)
        if not about.st_size:
            raise Damaged(f"{self.where}: '{path}' is no readable image (it is empty); {REPAIR}")
        return about.st_size, about.st_mtime_ns

    def check(self, number: int) -> str:
        """The path of a file that is as it was.

        Raises:
            ValueError: If it is not.
        """
        path = self.path(number)
        size, time = self._stat(path)
        if size != self._sizes[number] or time != self._times[number]:
            was = f"{self._sizes[number]:,} bytes then, {size:,} now" if size != self._sizes[number] else "written anew"
            raise ValueError(f"{self.where}: '{path}' has changed since the files were listed ({was}); training data "
                             "must stay as they are while they are used: resume, or begin a new run")  # fmt: skip
        return path

    def decoded(self, number: int, mode: str = "") -> NDArray[Any]:
        """The pixels of an image that is as it was: [H, W, channels], or [H, W].

        Args:
            number: Of the file.
            mode: PIL's, e.g. "RGB"; default as in the file.

        Raises:
            Damaged: If it cannot be read.
            ValueError: If it has changed.
        """
        from PIL import Image

        path = self.check(number)
        try:
            with Image.open(path) as file:
                return np.asarray(file.convert(mode) if mode else file)
        except Exception as error:  # damaged files make PIL raise whatever it likes
            text = f"{self.where}: '{path}' is no readable image ({described(error)}); {REPAIR}"
            raise Damaged(text) from error

    def described(self, numbers: Tensor) -> Iterator[bytes]:
        """Names and sizes of all, and the bytes of some."""
        for number in numbers.tolist():
            yield os.fsencode(self.names[number]) + b"\0"
        yield self._sizes[numbers.numpy()].tobytes()
        for number in some(numbers):
            try:
                with open(self.path(number), "rb") as file:
                    yield hashlib.sha256(file.read()).digest()
            except OSError:
                yield b"unreadable"


class FileItems(Items):
    """Samples of which each is a file, and perhaps others beside it."""

    _files: Files

    def __len__(self) -> int:
        return len(self._files)

    def name(self, number: int) -> str:
        """The file's path."""
        return self._files.path(number)
