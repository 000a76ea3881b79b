"""What may be called of what a file names: who handed the file over may be a stranger.

A *call* is whatever a directory or a configuration names and that would be imported, run or connected to. It is done if

- it builds one of the networks of `search_spaces.models`, `torchvision.models` or `timm`, downloads nothing and reads
  no file (`autoprune.builders`), or
- this user has called the very same on this machine before: the same kind, name, arguments and source file. A search
  remembers what its user names (flags, keywords), or
- one says so: `trust=True`, `--trust`; that is remembered, too.

What is remembered is one line a call in ~/.config/autoprune/trusted, which nobody else can write. Workers do what their
controller was allowed.
"""

from __future__ import annotations

import json
import os
import stat
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoprune.builders import is_named_like_one, why_not
from autoprune.errors import NotTrusted
from objectives.guard import guarded, origin

CURE = "if you trust who made it, say --trust (in Python trust=True, or give what it would build: model=..., data=...)"
SHOWN = 160  # characters of a call in a sentence
_VERBS = {
    "latency command": "run the command",
    "ledger": "connect to the database",
    "cluster": "connect to the Ray cluster",
    "link": "write through the link",
}
_here: set[str] = set()  # what this process has been allowed, should there be no place to remember it


@dataclass(frozen=True)
class Call:
    """Something that is imported and called, run, or connected to.

    Attributes:
        kind: What it is, as `objectives.find` calls it ("model", "data", "metric" ...), or "latency command", "ledger",
            "cluster", "link".
        name: "package.module:Name", the command, the address, or a file of a run and where it really is.
        args: Keyword arguments that a file gives it.
        settings: The settings of a run that say so.
    """

    kind: str
    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What would happen, printable whatever the name holds: "call model 'mine:net' (depth=3)"."""
        given = ", ".join(f"{key}={value!r}" for key, value in self.args.items())
        text = f"{_VERBS.get(self.kind, f'call {self.kind}')} '{self.name}'" + (f" ({given})" if given else "")
        return _printable(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...")

    @property
    def key(self) -> str:
        """A line that says exactly this call, and where its code lies."""
        said = {"kind": self.kind, "name": self.name, "args": dict(self.args), "from": self._source()}
        return json.dumps(said, sort_keys=True, default=repr)

    def _source(self) -> str:
        if self.kind == "latency command":
            return ";".join(str(Path(w).resolve()) for w in self.name.split() if os.path.exists(w))  # ./bench: which?
        if self.kind in _VERBS:
            return ""
        path = origin(self.name.partition(":")[0])
        paths = sysconfig.get_paths()
        installed = any(Path(path).is_relative_to(Path(paths[k]).resolve()) for k in ("purelib", "platlib", "stdlib"))
        return "installed" if path and installed else path


def unknown(calls: Iterable[Call]) -> list[Call]:
    """Those of the calls that nobody has allowed; only what is ours is imported to tell."""
    known = _remembered()
    known |= {_anywhere(line) for line in known}  # for code that is not found here: its import says so
    return [c for c in calls if c.key not in known and not (c.kind == "model" and not why_not(c.name, c.args))]


def _anywhere(line: str) -> str:
    """A remembered call, wherever its code lay."""
    try:
        return json.dumps({**json.loads(line), "from": ""}, sort_keys=True)
    except (ValueError, TypeError, RecursionError):
        return ""


def require(calls: Iterable[Call], where: str, trust: bool = False) -> None:
    """Check that all of these may be called.

    Args:
        calls: What would be called.
        where: Whose names they are, for the error.
        trust: They may, and are remembered.

    Raises:
        NotTrusted: If one may not; says what would happen.
    """
    calls = tuple(calls)
    if trust:
        return remember(calls)
    if found := unknown(calls):
        reasons = [
            f" ({why_not(c.name, c.args)})" if c.kind == "model" and is_named_like_one(c.name) else "" for c in found
        ]
        would = " and ".join(f"{call}{_printable(why)}" for call, why in zip(found, reasons, strict=True))
        raise NotTrusted(
            f"{where}: would {would}, which you have not had called on this machine before, so nothing of it was "
            f"imported or run: {CURE}"
        )


def remember(calls: Iterable[Call]) -> None:
    """These may be called from now on, by this user on this machine."""
    new = {c.key for c in unknown(calls)}
    _here.update(new)
    if not new:
        return
    with suppress(OSError, RuntimeError):  # no home, a full disk: it will be asked again
        path = _file()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, "".join(f"\n{line}\n" for line in sorted(new)).encode())  # a torn line before it stays alone
        finally:
            os.close(file)


@contextmanager
def reading() -> Iterator[None]:
    """In the block only code that may be called is imported by its name (`objectives.find`); anything else raises."""

    def guard(kind: str, name: str) -> None:
        require([Call(kind, name)], "this run")

    with guarded(guard):
        yield


def _printable(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _file() -> Path:
    own = os.environ.get("AUTOPRUNE_CONFIG")
    folder = Path(own) if own else Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "autoprune"
    return folder / "trusted"


def _remembered() -> set[str]:
    """The lines of the file, if nobody else could have written them, and what this process was told."""
    with suppress(OSError, RuntimeError, UnicodeDecodeError):
        with _file().open("rb") as file:
            said = os.fstat(file.fileno())
            if stat.S_ISREG(said.st_mode) and said.st_uid == os.geteuid() and not said.st_mode & 0o022:
                return _here | set(file.read().decode().splitlines())
    return _here
