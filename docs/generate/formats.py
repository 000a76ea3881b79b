"""Formats of files: what a run and an export are made of, and the schema of architecture.json."""

import ast
from pathlib import Path

from generate.tables import table

HEAD = """# Files and formats

No file of autoprune is a pickle: they are JSON, TOML and safetensors. [Security](../guides/security.md) says what
reading one may do.

## A run's directory

`results/<run>/`, as `autoprune/runs/directory.py` describes it:

"""


def page(root: Path) -> str:
    """The text of the page."""
    lines = (ast.get_docstring(ast.parse((root / "autoprune/runs/directory.py").read_text())) or "").splitlines()
    files = [line.split("  ", 1) for line in lines if "  " in line.strip()]
    rows = [[f"`{name.strip()}`", what.strip()] for name, what in files]
    return HEAD + table(["file", "what it is"], rows) + (root / "docs/generate/formats.md").read_text(encoding="utf-8")
