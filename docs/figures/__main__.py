"""Draws every figure, light and dark, into docs/figures: `python docs/figures`."""

import importlib
from pathlib import Path

from drawing import THEMES, Drawing

FOLDER = Path(__file__).parent
FIGURES = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in ("__main__", "drawing", "recorded"))


def drawn() -> dict[str, str]:
    """Name of the file -> its text."""
    found = {}
    for name in FIGURES:
        figure = importlib.import_module(name)
        for theme in THEMES:
            drawing = Drawing(*figure.SIZE, theme, figure.TITLE)
            figure.draw(drawing)
            found[f"{name.replace('_', '-')}-{theme}.svg"] = drawing.svg()
    return found


if __name__ == "__main__":
    for name, text in drawn().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(name)
