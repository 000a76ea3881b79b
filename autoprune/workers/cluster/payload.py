"""What goes to another process of the cluster: pickled here, with the places where its modules are found."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.source import code
from autoprune.workers.cluster.pages import own_pages
from autoprune.workers.pickle_file import Outside, refusal

CURE = "make it without that, or evaluate on this machine with cluster='' and workers=0"


@dataclass(frozen=True, eq=False)
class Payload:
    """An object on its way; in Ray's object store it reaches each node once, however many workers unpack it there.

    Attributes:
        data: [bytes] the object, pickled without its numbers.
        numbers: [bytes] each, of its arrays and tensors. The workers of a node look at the same memory (of `bytes`, Ray
            would give each worker its own, for its whole life).
        versions: Of what computes: autoprune and torch.
        path: Of the driver's modules: the user's own are found on every node that has the same folders.
        folder: Where the driver works: so are files that are named from there. Ray puts its workers elsewhere.
    """

    data: NDArray[np.uint8]
    numbers: tuple[NDArray[np.uint8], ...]
    versions: dict[str, str]
    path: tuple[str, ...]
    folder: str

    @classmethod
    def pack(cls, what: Any) -> Payload:
        """Pickle it, functions of a script by value.

        Raises:
            ValueError: If it cannot be sent to another process; names the part that cannot.
        """
        from ray import cloudpickle

        class Pickler(Outside, cloudpickle.Pickler):  # type: ignore[misc]
            """Sends functions by value."""

        inside, outside = io.BytesIO(), list[pickle.PickleBuffer]()
        try:
            Pickler(inside, outside).dump(what)
            data, *numbers = (np.frombuffer(b, np.uint8) for b in (inside.getbuffer(), *(b.raw() for b in outside)))
        except Exception as error:  # each type has its own way to refuse
            raise refusal(what, error, _dry_run, "cluster", CURE) from error
        return cls(data, tuple(numbers), versions(), tuple(sys.path), os.getcwd())

    def unpack(self) -> Any:
        """The object, made anew; its numbers lie in pages of the store until they are written.

        Raises:
            ValueError: If other versions are installed here.
        """
        here = versions()
        if wrong := [f"{name} {here[name]} instead of {v}" for name, v in self.versions.items() if here[name] != v]:
            raise ValueError(
                f"this machine has {' and '.join(wrong)}; install the same as where the search was started"
            )
        with contextlib.suppress(OSError):  # not on this node
            os.chdir(self.folder)
        sys.path.extend(place for place in self.path if place not in sys.path)
        data, *numbers = own_pages((self.data, *self.numbers), os.getppid())
        return pickle.loads(data.data, buffers=numbers)


def versions() -> dict[str, str]:
    """What a result may depend on."""
    return {"autoprune": code(), "torch": torch.__version__}


def check_sendable(what: Any) -> None:
    """Check what `Payload.pack` would refuse, without a copy of its tensors and arrays.

    Raises:
        ValueError: If it cannot be sent to another process; names the part that cannot.
    """
    try:
        _dry_run(what)
    except ImportError:  # no Ray: `connect` says so
        return
    except Exception as error:
        raise refusal(what, error, _dry_run, "cluster", CURE) from error


def _dry_run(what: Any) -> None:
    """Pickle all but the numbers."""
    from ray import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        """Leaves out what can always be sent, and may be large."""

        def persistent_id(self, part: Any) -> str | None:
            tensor = type(part) in (Tensor, nn.Parameter) and not vars(part)
            return "numbers" if tensor or (type(part) is np.ndarray and not part.dtype.hasobject) else None

    Pickler(io.BytesIO()).dump(what)
