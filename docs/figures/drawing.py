"""A drawing in SVG, written by hand: the same bytes everywhere, in a light and in a dark theme."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

Point = tuple[float, float]
LIGHT = {"ink": "#1f2933", "soft": "#627080", "faint": "#d5dbe1", "back": "#ffffff", "panel": "#f3f5f7",
         "one": "#00796b", "two": "#c05621", "three": "#5a4fcf", "four": "#a3730b", "gone": "#cfd6dc"}  # fmt: skip
DARK = {"ink": "#e6ebf0", "soft": "#9aa7b4", "faint": "#3b4652", "back": "#1e2129", "panel": "#2a2f3a",
        "one": "#4db6ac", "two": "#f0955a", "three": "#a79df5", "four": "#e0b34c", "gone": "#444e5a"}  # fmt: skip
THEMES = {"light": LIGHT, "dark": DARK}
FONT = "font-family='system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif'"


@dataclass
class Drawing:
    """Shapes on a rectangle; colours are names of the theme.

    Attributes:
        width: In px.
        height: In px.
        theme: "light" or "dark".
        title: What a reader who cannot see it is told.
    """

    width: int
    height: int
    theme: str
    title: str = ""
    parts: list[str] = field(default_factory=list)

    def color(self, name: str) -> str:
        """A colour of the theme."""
        return THEMES[self.theme].get(name, name)

    def rect(
        self, x: float, y: float, w: float, h: float, fill: str = "panel", edge: str = "", r: float = 3, dash: str = ""
    ) -> None:
        """A rectangle with round corners."""
        line = f" stroke='{self.color(edge)}' stroke-width='1.5'" if edge else ""
        line += f" stroke-dasharray='{dash}'" if dash else ""
        fill = "none" if fill == "none" else self.color(fill)
        self.parts.append(
            f"<rect x='{_n(x)}' y='{_n(y)}' width='{_n(w)}' height='{_n(h)}' rx='{_n(r)}' fill='{fill}'{line}/>"
        )

    def line(
        self, points: Sequence[Point], color: str = "soft", width: float = 1.5, dash: str = "", arrow: bool = False
    ) -> None:
        """A line through points."""
        more = f" stroke-dasharray='{dash}'" if dash else ""
        path = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        self.parts.append(
            f"<polyline points='{path}' fill='none' stroke='{self.color(color)}' stroke-width='{_n(width)}'{more}/>"
        )
        if arrow:
            (x0, y0), (x, y) = points[-2:]
            size = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5 or 1.0
            dx, dy = (x - x0) / size, (y - y0) / size
            ends = [(x - 8 * dx + s * 4 * dy, y - 8 * dy - s * 4 * dx) for s in (1, -1)]
            path = " ".join(f"{_n(a)},{_n(b)}" for a, b in [(x, y), *ends])
            self.parts.append(f"<polygon points='{path}' fill='{self.color(color)}'/>")

    def circle(self, x: float, y: float, r: float, color: str = "one", hollow: bool = False) -> None:
        """A dot or a ring."""
        fill = "none" if hollow else self.color(color)
        paint = f"fill='{fill}' stroke='{self.color(color)}' stroke-width='2'"
        self.parts.append(f"<circle cx='{_n(x)}' cy='{_n(y)}' r='{_n(r)}' {paint}/>")

    def text(
        self,
        x: float,
        y: float,
        words: str,
        color: str = "ink",
        size: float = 13,
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        """One line of text; `y` is its baseline."""
        weight = " font-weight='600'" if bold else ""
        place = f"x='{_n(x)}' y='{_n(y)}' font-size='{_n(size)}' text-anchor='{anchor}'"
        self.parts.append(f"<text {place} fill='{self.color(color)}'{weight} {FONT}>{escape(words)}</text>")

    def svg(self) -> str:
        """The file."""
        size = f"width='{self.width}' height='{self.height}'"
        head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {self.width} {self.height}' {size} role='img'>"
        back = f"<rect {size} fill='{self.color('back')}' rx='6'/>"
        return "\n".join([head, f"<title>{escape(self.title)}</title>", back, *self.parts, "</svg>"]) + "\n"


def _n(value: float) -> str:
    return f"{round(value, 1):g}"
