"""Types a page: `python type_page.py PAGE`, in the folder where its reader would be.

It stops at the first block that fails. Python blocks are one session, as in a notebook; bash blocks stop at their
first command that fails.
"""

import subprocess
import sys
import time
from pathlib import Path

from pages import Block, blocks


def type_page(page: Path) -> None:
    """Save what is a file, run what is typed."""
    session = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        begun = time.monotonic()
        if block.title and not block.not_run:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.typed:
            print(f"--- {page.name}:{block.line}", flush=True)
            run(block, page, session)
            print(f"--- {time.monotonic() - begun:.1f} s", flush=True)


def run(block: Block, page: Path, session: dict) -> None:
    """Type one block."""
    if block.language == "python":
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), session)  # as at its place in the page
    elif code := subprocess.run(["bash", "-e", "-o", "pipefail", "-c", block.text], check=False).returncode:
        raise SystemExit(f"{page.name}:{block.line}: exit code {code}")


if __name__ == "__main__":
    sys.path.insert(0, "")  # the reader's folder
    type_page(Path(sys.argv[1]))
