"""What a worker process is made of, on its way there: the model and the data go once, and nobody keeps the bytes."""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from multiprocessing import reduction
from typing import IO, Any

from torch import Tensor, nn

CURE = "give the model (and a metric of your own) as 'package.module:function', or evaluate here with workers=0"


class PickleFile:
    """A pickled object in a file without a name, which child processes inherit open.

    As an argument of a process, bytes would be kept by the parent, by the child, and by what starts the child. The file
    vanishes with the last process that has it open, whatever that dies of.

    Args:
        content: What goes to the children.

    Raises:
        ValueError: If it cannot be sent, or the folder for temporary files is full.
    """

    def __init__(self, content: Any) -> None:
        data = pickled(content)
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile()
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise ValueError(
                f"workers: {len(data) / 2**20:.0f} MiB of model and data cannot be written to {tempfile.gettempdir()} "
                f"({error.strerror}); free some space, or set TMPDIR to a folder that has some"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self._file.fileno()),)

    def open(self) -> Any:
        """What was sent; the file is read, not kept."""
        with self._file, mmap.mmap(self._file.fileno(), 0, prot=mmap.PROT_READ) as data:  # no offset to share
            try:
                return pickle.load(data)  # type: ignore[arg-type]
            except (AttributeError, ImportError) as error:
                raise ValueError(
                    f"what was sent cannot be found here ({error}); define a model of your own in a module that can be "
                    "imported, not in a notebook or on the command line"
                ) from error

    def close(self) -> None:
        """No more children will be born."""
        self._file.close()


def _received(descriptor: Any) -> PickleFile:
    """The file as it is in the child."""
    pickle_file = PickleFile.__new__(PickleFile)
    pickle_file._file = os.fdopen(descriptor.detach(), "rb")
    return pickle_file


def pickled(make_evaluator: Any) -> bytes:
    """What is sent to the children.

    Raises:
        ValueError: If it cannot be sent to another process; names the part that cannot.
    """
    try:
        return pickle.dumps(make_evaluator)
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
