"""Arrays in a study: exact, in pieces that every database takes (a text of MySQL ends at 64 KiB)."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Sequence[NDArray[np.float64]]
PIECE = 48_000  # characters


def pack(name: str, arrays: Arrays) -> dict[str, str]:
    """Arrays as texts by key; `unpack` gives them back to the last bit.

    Args:
        name: Which keys begin with.
        arrays: Each of one dimension.
    """
    data = b"".join(np.ascontiguousarray(a, dtype="<f8").tobytes() for a in arrays)
    text = base64.b64encode(data).decode()
    pieces = [text[i : i + PIECE] for i in range(0, len(text), PIECE)]
    return {f"{name}.sizes": json.dumps([len(a) for a in arrays]), **{f"{name}.{i}": p for i, p in enumerate(pieces)}}


def unpack(name: str, kept: Mapping[str, Any]) -> tuple[NDArray[np.float64], ...] | None:
    """What was packed under that name; None if nothing was."""
    if f"{name}.sizes" not in kept:
        return None
    sizes = json.loads(kept[f"{name}.sizes"])
    pieces: list[str] = []
    while (piece := kept.get(f"{name}.{len(pieces)}")) is not None:
        pieces.append(piece)
    whole = np.frombuffer(base64.b64decode("".join(pieces)), dtype="<f8").astype(np.float64)
    return tuple(np.split(whole, np.cumsum(sizes)[:-1])) if sizes else ()
