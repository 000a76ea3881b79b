"""What goes to another process of the cluster: pickled here, with the places where its modules are found."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Luggage:
    """An object on its way; in Ray's object store it reaches each node once, however many workers unpack it there.

    Attributes:
        data: The object, pickled.
        versions: Of what computes: autoprune and torch.
        path: Of the driver's modules: the user's own are found on every node that has the same folders.
    """

    data: bytes
    versions: dict[str, str]
    path: tuple[str, ...]

    @classmethod
    def pack(cls, what: Any) -> Luggage:
        """Pickle it, functions of a script by value.

        Raises:
            ValueError: If it cannot be sent to another process; names the part that cannot.
        """
        from ray import cloudpickle

        try:
            data = cloudpickle.dumps(what)
        except Exception:
            from autoprune.workers import pickled  # says in words what is wrong

            pickled(what)
            raise
        return cls(data, versions(), tuple(sys.path))

    def unpack(self) -> Any:
        """The object, made anew.

        Raises:
            ValueError: If other versions are installed here.
        """
        from ray import cloudpickle

        here = versions()
        if wrong := [f"{name} {here[name]} instead of {v}" for name, v in self.versions.items() if here[name] != v]:
            raise ValueError(
                f"this machine has {' and '.join(wrong)}; install the same as where the search was started"
            )
        sys.path.extend(place for place in self.path if place not in sys.path)
        return cloudpickle.loads(self.data)


def versions() -> dict[str, str]:
    """What a result may depend on."""
    import torch

    import autoprune

    return {"autoprune": autoprune.__version__, "torch": torch.__version__}
