"""What a search space may say that comes out of a file: checked before anything of its size is made.

Whoever wrote the file may have lied: a group of 10^12 channels, a member at negative positions, text where a number
belongs. A number here is a whole one (not true or false), and small enough for what is made of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

MOST_UNITS = 2**24  # of a group
MOST_POSITIONS = 2**27  # of all members together: 1 GiB of int64
MOST = 2**53  # any other count: exact as a float


def check_space(data: Any) -> None:
    """Check what `SearchSpace.from_json` is given.

    Raises:
        ValueError: Saying what is wrong where.
    """
    said = _is(data, dict, "the space")
    for key in ("groups", "frozen", "layers", "tensors", "grouped"):
        _is(said.get(key), list, key)
    sizes = [_group(g, f"groups[{i}]") for i, g in enumerate(said["groups"])]
    for i, group in enumerate(said["frozen"]):
        _group(group, f"frozen[{i}]")
    elements: dict[str, int] = {}
    for i, tensor in enumerate(said["tensors"]):
        name, axes = _row(tensor, 2, f"tensors[{i}]")
        _is(name, str, f"tensors[{i}]"), _is(axes, list, f"tensors[{i}]")
        elements[name] = math.prod(_axis(axis, sizes, f"axis {n} of '{name}'") for n, axis in enumerate(axes))
    for i, layer in enumerate(said["layers"]):
        where = f"layers[{i}]"
        name, kind, kernel, pixels, reads, makes = _row(layer, 6, where)
        _is(name, str, where), _is(kind, str, where)
        for number in (kernel, pixels):
            if not _is_number(number) or not 0 <= number < MOST:
                raise _wrong(where, "numbers of at least 0", number)
        _axis(reads, sizes, where), _axis(makes, sizes, where)
    for i, row in enumerate(said["grouped"]):
        name, per_group = _row(row, 2, f"grouped[{i}]")
        _is(name, str, f"grouped[{i}]"), _count(per_group, 1, MOST_UNITS, f"grouped[{i}]")
    _check_positions(said["groups"], said["frozen"], elements)
    check_branches(_is(said.get("branches", []), list, "branches"), len(sizes))


def _group(data: Any, where: str) -> int:
    """Its size."""
    group = _is(data, dict, where)
    where = f"group {str(group.get('name'))[:80]!r}"
    for key in ("name", "frozen_because"):
        _is(group.get(key), str, where)
    _is(group.get("unit", ""), str, where)
    size = _count(group.get("size"), 1, MOST_UNITS, f"size of {where}")
    _count(group.get("divisor"), 1, MOST_UNITS, f"divisor of {where}")
    _count(group.get("floor"), 0, size, f"floor of {where}")
    may, why, narrowest = _row(group.get("vanishes", [False, "", 1]), 3, where)
    _is(may, bool, where), _is(why, str, where), _count(narrowest, 1, size, f"narrowest of {where}")
    for member in _is(group.get("members"), list, where):
        tensor, axis, role, _ = _row(member, 4, f"a member of {where}")
        _is(tensor, str, where), _is(role, str, where), _count(axis, 0, MOST, where)
    return size


def _check_positions(groups: list[Any], frozen: list[Any], elements: Mapping[str, int]) -> None:
    """Check every index [C, k]: as many rows as units of a group that may shrink, no position beyond the tensor."""
    total = 0
    for number, group in enumerate([*groups, *frozen]):
        for tensor, _, _, index in group["members"]:
            where = f"member '{tensor}' of group '{group['name']}'"
            rows, count, first, last = _extent(index, where)
            total += count
            if total > MOST_POSITIONS:
                raise ValueError(f"space: {where}: more than {MOST_POSITIONS:,} positions in all")
            if number < len(groups) and rows != group["size"]:
                raise _wrong(where, f"positions of {group['size']} units", rows)
            size = elements.get(tensor) or MOST_UNITS  # one without elements has axes that are long
            if count and not 0 <= first <= last < size:
                raise _wrong(where, f"positions within 0..{size - 1}", first if first < 0 else last)


def _extent(index: Any, where: str) -> tuple[int, int, int, int]:
    """Rows, entries, smallest and largest entry of an index as it stands in a file."""
    if isinstance(index, dict):
        start, units, per_unit = (_count(number, 0, MOST_UNITS, where) for number in _row(index.get("range"), 3, where))
        return units, units * per_unit, start, start + units * per_unit - 1
    rows = [_is(row, list, where) for row in _is(index, list, where)]
    if len({len(row) for row in rows}) > 1:
        raise _wrong(where, "as many positions for each unit", "others")
    flat = [number for row in rows for number in row]
    if odd := [number for number in flat if type(number) is not int]:
        raise _wrong(where, "whole numbers", odd[0])
    return len(rows), len(flat), min(flat, default=0), max(flat, default=0)


def _axis(data: Any, sizes: list[int], where: str) -> int:
    """Its size."""
    size, fixed, terms = _row(data, 3, where)
    _count(size, 0, MOST, where), _count(fixed, 0, MOST, where)
    for term in _is(terms, list, where):
        group, per_unit = _row(term, 2, where)
        _count(group, 0, len(sizes) - 1, f"{where}: group"), _count(per_unit, 0, MOST_UNITS, where)
    return int(size)


def check_branches(rows: list[Any], groups: int) -> None:
    """Check what a space says of branches that may vanish; `groups`: how many groups it has."""
    for i, row in enumerate(rows):
        where = f"branches[{i}]"
        name, members, causes, spots = _row(row, 4, where)
        _is(name, str, where)
        for numbers in (members, *_is(causes, list, where)):
            for number in _is(numbers, list, where):
                _count(number, 0, groups - 1, f"{where}: group")
        for spot in _is(spots, list, where):
            module, answers, axis, sizes, steps, full, own, in_tuple = _row(spot, 8, where)
            _is(module, str, where), _is(full, bool, where), _is(own, bool, where), _count(in_tuple, -1, 16, where)
            if answers not in ("empty", "same", "constant") or not module:
                raise _wrong(where, "a module, and one of empty, same and constant", answers)
            _count(axis, 0, len(_is(sizes, list, where)) - 1, f"{where}: axis")
            for size in sizes:
                for number in size if isinstance(size, list) else [size]:
                    _count(number, -1, MOST_UNITS, f"{where}: size")
                if isinstance(size, list) and (len(size) not in (4, 5) or size[1] < 1):
                    raise _wrong(where, "kernel, stride, padding and dilation", size)
            _check_steps(_is(steps, list, where), where)
            if (answers == "constant") != bool(steps):
                raise _wrong(where, "steps of a constant, and of nothing else", answers)


STEPS = {  # kind -> its entries: step, steps (p), axis, count, name, name or nothing (x), number or nothing (f)
    "bias": "nax", "layer": "snax", "batch_norm": "snnxxf", "layer_norm": "sxxf", "rms_norm": "sxf",
    "group_norm": "sccxxf", "mean": "s", "cat": "p",
}  # fmt: skip


def _check_steps(steps: list[Any], where: str) -> None:
    for number, step in enumerate(steps):
        kind, *rest = _is(step, list, where) or [""]
        if kind == "pointwise":
            name, args, kwargs = _row(rest, 3, where)
            _is(name, str, where)
            pairs = [_row(pair, 2, where) for pair in _is(kwargs, list, where)]
            for key, _ in pairs:
                _is(key, str, where)
            for value in (*_is(args, list, where), *(value for _, value in pairs)):
                _check_value(value, number, where)
            continue
        if kind not in STEPS:
            raise _wrong(where, f"a step of {', '.join(STEPS)}, pointwise", kind)
        for entry, value in zip(STEPS[kind], _row(rest, len(STEPS[kind]), where), strict=True):
            if entry == "s":
                _count(value, 0, number - 1, f"{where}: step")
            elif entry == "p":
                for part in _is(value, list, where):
                    _count(part, 0, number - 1, f"{where}: step")
            elif entry == "c":
                _count(value, 0, MOST_UNITS, where)
            elif entry == "a":
                _count(value, 0, 1, f"{where}: axis")
            elif entry == "f":
                if value is not None and not _is_number(value):
                    raise _wrong(where, "a number", value)
            elif entry == "n" or value is not None:
                _is(value, str, where)


def _check_value(value: Any, number: int, where: str) -> None:
    """An argument of an operator: a number, or a step or tensor."""
    if isinstance(value, list):
        kind, which = _row(value, 2, where)
        if kind == "step":
            _count(which, 0, number - 1, f"{where}: step")
        elif kind != "tensor" or not isinstance(which, str):
            raise _wrong(where, "a step or a tensor", value)
    elif not (value is None or isinstance(value, bool) or _is_number(value)):
        raise _wrong(where, "a number", value)


def _row(data: Any, length: int, where: str) -> list[Any]:
    row: list[Any] = _is(data, list, where)
    if len(row) != length:
        raise _wrong(where, f"{length} entries", len(row))
    return row


def _count(data: Any, low: int, high: int, where: str) -> int:
    if type(data) is not int or not low <= data <= high:
        raise _wrong(where, f"a whole number within {low}..{high}", data)
    return data


def _is(data: Any, kind: Callable[..., Any], where: str) -> Any:
    if not isinstance(data, kind):  # type: ignore[arg-type]
        raise _wrong(where, {dict: "a table", list: "a list", str: "a text", bool: "true or false"}[kind], data)  # type: ignore[index]
    return data


def _is_number(data: Any) -> bool:
    return type(data) in (int, float) and math.isfinite(data)


def _wrong(where: str, expected: str, found: Any) -> ValueError:
    return ValueError(f"space: {where}: expected {expected}, found {repr(found)[:60]}")
