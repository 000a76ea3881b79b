"""What the settings of a method may be: known names, finite numbers, each in its range."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Mapping
from typing import Any

from autoprune.training.methods.method import Method

NUMBER: tuple[Any, str] = numbers.Real, "a number"
KINDS: dict[type, tuple[Any, str]] = {  # of a default -> of a value; others are not for this to judge
    bool: (bool, "true or false"), int: (numbers.Integral, "a whole number"), float: NUMBER, type(None): NUMBER,
}  # fmt: skip


def check_settings(cls: type[Method], settings: Mapping[str, Any]) -> None:
    """Check the settings of a method by the defaults of its arguments and by its `ranges`.

    Raises:
        ValueError: Naming the setting.
    """
    known = {n: p.default for n, p in inspect.signature(cls).parameters.items() if n != "pruning"}
    for name, value in settings.items():
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"method '{cls.name}': has no setting '{name}'; {has}")
        if (kind := type(known[name])) not in KINDS or (value is None and known[name] is None):
            continue
        kinds, wanted = KINDS[kind]
        low, high = cls.ranges.get(name, (0, math.inf))
        fits = isinstance(value, kinds) and isinstance(value, bool) == (kinds is bool)
        if not fits or not (kinds is bool or (low <= value <= high and value < math.inf)):
            within = f" of at least {low:g}" if high == math.inf else f" between {low:g} and {high:g}"
            raise ValueError(f"method '{cls.name}': {name} must be {wanted}{'' if kinds is bool else within}, got "
                             f"{value!r:.40}")  # fmt: skip
