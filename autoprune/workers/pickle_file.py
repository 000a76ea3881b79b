"""What a worker process is made of, on its way there: the model and the data go once, and their numbers are shared."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from multiprocessing import reduction
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

CURE = "give the model (and a metric of your own) as 'package.module:function', or evaluate here with workers=0"

ALIGNED = 64  # bytes: where numbers begin in the file


class PickleFile:
    """A pickled object in a file without a name, which child processes inherit open.

    As an argument of a process, bytes would be kept by the parent, by the child, and by what starts the child. Tensors
    and arrays are pages of the file in every child, its own only where it writes: a data set that was given as an
    object is there once, however many children there are. The file vanishes with the last process that has it open,
    whatever that dies of.

    Args:
        content: What goes to the children.

    Raises:
        ValueError: If it cannot be sent, or the folder for temporary files is full.
    """

    def __init__(self, content: Any) -> None:
        parts = pickled(content)
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile()
            self._spans = [_write(self._file, part) for part in parts]
            self._file.flush()
        except OSError as error:
            size = sum(part.nbytes for part in parts) / 2**20
            raise ValueError(
                f"workers: {size:.0f} MiB of model and data cannot be written to {tempfile.gettempdir()} "
                f"({error.strerror}); free some space, or set TMPDIR to a folder that has some"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self._file.fileno()), self._spans)

    def open(self) -> Any:
        """What was sent; it lives in the file's pages."""
        with self._file:
            whole = memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY))
            data, *numbers = (whole[start:end] for start, end in self._spans)
            try:
                return pickle.loads(data, buffers=numbers)
            except (AttributeError, ImportError) as error:
                raise ValueError(
                    f"what was sent cannot be found here ({error}); define a model of your own in a module that can be "
                    "imported, not in a notebook or on the command line"
                ) from error

    def close(self) -> None:
        """No more children will be born."""
        self._file.close()


def _received(descriptor: Any, spans: list[tuple[int, int]]) -> PickleFile:
    """The file as it is in the child."""
    pickle_file = PickleFile.__new__(PickleFile)
    pickle_file._file, pickle_file._spans = os.fdopen(descriptor.detach(), "rb"), spans
    return pickle_file


def _write(file: IO[bytes], part: memoryview) -> tuple[int, int]:
    """Where it is now."""
    file.write(b"\0" * (-file.tell() % ALIGNED))
    start = file.tell()
    file.write(part)
    return start, file.tell()


class Outside(pickle.Pickler):
    """Leaves the numbers of arrays, and of tensors on the CPU, outside; those of views of one tensor once.

    Args:
        file: Gets the pickle.
        outside: Gets the numbers.
    """

    def __init__(self, file: IO[bytes], outside: list[pickle.PickleBuffer]) -> None:
        super().__init__(file, 5, buffer_callback=outside.append)
        self._known: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def reducer_override(self, part: Any) -> Any:
        """Of storages; arrays do so themselves, and a pickler that this is mixed into has its own ways with others."""
        storage = part._untyped_storage if type(part) is torch.storage.TypedStorage else None
        if storage is None or storage.device.type != "cpu":
            others = getattr(super(), "reducer_override", None)
            return others(part) if others else NotImplemented
        raw = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        return _storage, (self._known.setdefault((storage.data_ptr(), raw.nbytes), raw), part.dtype)


def _storage(raw: NDArray[np.uint8], dtype: torch.dtype) -> Any:
    storage = torch.from_numpy(raw).untyped_storage()
    return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def pickled(make_evaluator: Any) -> list[memoryview]:
    """What is sent to the children: the pickle, and the numbers beside it.

    Raises:
        ValueError: If it cannot be sent to another process; names the part that cannot.
    """
    try:
        inside, outside = io.BytesIO(), list[pickle.PickleBuffer]()
        Outside(inside, outside).dump(make_evaluator)
        return [inside.getbuffer(), *(buffer.raw() for buffer in outside)]
    except Exception as error:  # each type has its own way to refuse
        raise refusal(make_evaluator, error) from error


def refusal(
    what: Any, error: Exception, dump: Callable[[Any], Any] = pickle.dumps, who: str = "workers", cure: str = CURE
) -> ValueError:
    """What to tell the user.

    Args:
        what: Cannot be sent.
        error: Says why.
        dump: Refuses the parts that cannot.
        who: Wanted it.
        cure: The way out.
    """
    part = _culprit(what, dump) or "the evaluator"
    return ValueError(f"{who}: {part} cannot be sent to another process ({error}); {cure}")


def _culprit(what: Any, dump: Callable[[Any], Any], limit: int = 12) -> str:
    """The path to the innermost part that cannot be pickled: "model.layer1.0.act"."""
    for name, part in _parts(what) if limit else ():
        try:
            dump(part)
        except Exception:
            return ".".join(filter(None, (name, _culprit(part, dump, limit - 1))))
    return ""


def _parts(what: Any) -> Iterator[tuple[str, Any]]:
    if is_dataclass(what):
        yield from ((field.name, getattr(what, field.name)) for field in fields(what))
    elif isinstance(what, nn.Module):
        yield from what.named_children()
        yield from ((name, part) for name, part in vars(what).items() if name != "_modules")
    elif isinstance(what, Mapping):
        yield from ((str(name), part) for name, part in what.items())
    elif isinstance(what, (list, tuple)):
        yield from ((str(index), part) for index, part in enumerate(what))
    elif not isinstance(what, (Tensor, type)) and not callable(what):
        with contextlib.suppress(TypeError):
            yield from vars(what).items()
