"""The index of error messages: what they say, and the way out that they end with, worked out from the code."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from generate.tables import plain

PACKAGES = ("autoprune", "objectives", "search_spaces")
HEAD = """# Error messages

Every message names the part, says what was found, and ends with the way out. This index is made from the code, ordered
by the word that a message begins with; a word in ⟨ ⟩ stands for what is filled in. Use the search box with the words
that you see.

With `--debug` a command shows the traceback, too. In Python all of these are `ValueError` unless another class is
named; those that a program would catch are in `autoprune.errors` ([API](api/verbs.md#errors)).

"""


def page(root: Path) -> str:
    """The text of the page."""
    found: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            for kind, text in messages(ast.parse(path.read_text(encoding="utf-8"))):
                says, _, cure = text.partition("; ")
                found[_subject(text)].add((says, cure, "" if kind == "ValueError" else kind))
    parts = []
    for subject in sorted(found, key=str.lower):
        parts.append(f"## {plain(subject)}\n")
        for says, cure, kind in sorted(found[subject]):
            note = f" ({kind})" if kind else ""
            parts.append(f"- {plain(says)}{note}" + (f"  \n  → **{plain(cure)}**" if cure else ""))
        parts.append("")
    return HEAD + "\n".join(parts)


def messages(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Class and text of each error that is raised with a text of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            text, name = _text(node.exc.args[0]), getattr(node.exc.func, "id", "")
            if len(text.replace("⟨", "").split()) > 2 and name not in ("AttributeError", "StopIteration", "SystemExit"):
                yield name, text


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return f"⟨{_name(node.value)}⟩"
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return ""


def _name(node: ast.AST) -> str:
    """A word for what is filled in."""
    names = [
        n.id if isinstance(n, ast.Name) else n.attr for n in ast.walk(node) if isinstance(n, (ast.Name, ast.Attribute))
    ]
    words = [n.strip("_") for n in names if n not in ("join", "sorted", "len", "self", "str", "repr", "map", "type")]
    return words[0].replace("_", " ") if words else "..."


def _subject(text: str) -> str:
    """What a message is about: its words before the first quote, colon or filled-in part."""
    head = text
    for sign in ("'", ":", "⟨", ",", ";", "("):
        head = head.partition(sign)[0]
    words = head.split()
    named = 0 < len(words) <= 3 and any(c.isalpha() for c in head)
    return " ".join(words[:2]) if named else "Other"
