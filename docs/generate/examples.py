"""The jobs of examples/: one folder each, told by its README."""

import ast
from pathlib import Path

HEAD = """# Examples

Scripts to copy from, each run by a test. Made from `examples/` when these pages are built.

"""


def page(root: Path) -> str:
    """The text of the page."""
    folder = root / "examples"
    jobs = [(f"examples/{p.parent.name}", p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*/README.md"))]
    told = [f"## {_title(text)}\n\n`{place}` · {_first(text)}\n" for place, text in jobs]
    for path in sorted(folder.glob("*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        told.append(f"## {path.stem.replace('_', ' ')}\n\n`examples/{path.name}` · {_first(doc)}\n")
    return HEAD + "\n".join(told)


def _title(text: str) -> str:
    return next((line.lstrip("# ") for line in text.splitlines() if line.startswith("# ")), "Example")


def _first(text: str) -> str:
    body = [part for part in text.split("\n\n") if part.strip() and not part.startswith("#")]
    return " ".join(body[0].split()) if body else ""
