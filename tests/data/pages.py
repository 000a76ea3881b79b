"""The pages that users read, and what in them can be typed: README.md and docs/**/*.md.

In a fence of `bash` or `python` stands what a reader types, in the order of the page. `title="mine.py"` behind the
language: a file that the reader saves. `<!-- not run: why -->` on the line before: what cannot be run here.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)(?P<more>.*)$")
TITLE = re.compile(r'title="([^"]+)"')
NOT_RUN = re.compile(r"^ *<!-- not run: (.+) -->$")
TYPED = ("bash", "python")
SHOWN = ("text", "toml", "json", "yaml")  # output, and files; a file with a title is saved


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: Behind the fence.
        text: Between the fences, without their indentation.
        line: Of its first line in the page, counted from 1.
        title: Of the file that it is, or "".
        not_run: Why it cannot be run here, or "".
    """

    language: str
    text: str
    line: int
    title: str = ""
    not_run: str = ""

    @property
    def typed(self) -> bool:
        """Whether it is run."""
        return self.language in TYPED and not self.title and not self.not_run


def pages() -> list[Path]:
    """Every page that has a block."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if "```" in page.read_text(encoding="utf-8")]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order.

    Raises:
        ValueError: If a fence is not closed.
    """
    found: list[Block] = []
    lines, last, at = text.splitlines(), "", 0
    while at < len(lines):
        if opened := FENCE.match(lines[at]):
            indent, begin = len(opened["indent"]), at + 1
            at = begin
            while at < len(lines) and lines[at].strip() != "```":
                at += 1
            if at == len(lines):
                raise ValueError(f"line {begin}: the fence is not closed")
            title, why = TITLE.search(opened["more"]), NOT_RUN.match(last)
            inside = "".join(f"{line[indent:]}\n" for line in lines[begin:at])
            found.append(Block(opened["language"], inside, begin + 1, title[1] if title else "", why[1] if why else ""))
        last = lines[at] if lines[at].strip() else last
        at += 1
    return found


def commands(block: Block) -> list[str]:
    """The lines of a bash block, those that end in a backslash joined."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
