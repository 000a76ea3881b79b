"""What mkdocs calls: pages that are made from the code and from files elsewhere in the repository, and their links.

Nothing that is made here is written into docs/: a setting, a command, an error and a recorded table stand in one place.
"""

import posixpath
import re
import sys
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))

from generate import command_line, errors, examples, formats, names, settings  # noqa: E402 (found there)

MADE = {  # page -> what makes its text
    "reference/settings.md": settings.page,
    "reference/command-line.md": command_line.page,
    "reference/names.md": names.page,
    "reference/errors.md": errors.page,
    "reference/files.md": formats.page,
    "guides/examples.md": examples.page,
}
REFERENCE = "reference/index.md"
HEADINGS = {  # what stands there in the repository -> the page that is made
    "every-setting": "reference/settings.md",
    "command-line": "reference/command-line.md",
    "what-can-be-named": "reference/names.md",
    "error-messages": "reference/errors.md",
    "files-and-formats": "reference/files.md",
}
TEXTS = {  # made page -> the file of the repository that is most of its text
    "reference/files.md": "docs/generate/formats.md",
    "guides/examples.md": "examples/README.md",
}
TAKEN = {  # page -> the file of the repository that is its text, where there is one
    "contributing/setting-up.md": "CONTRIBUTING.md",
    "contributing/architecture.md": "ARCHITECTURE.md",
    "contributing/security.md": "SECURITY.md",
    "contributing/conduct.md": "CODE_OF_CONDUCT.md",
    "contributing/changes.md": "CHANGELOG.md",
}
RECORDED = {  # benchmarks/<name>: every recorded table, and its pictures
    f"benchmarks/{path.name}": f"results/benchmarks/{path.name}"
    for path in sorted((ROOT / "results/benchmarks").iterdir())
    if path.suffix in (".md", ".svg")
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:|#)([^)\s]+)\)")


def taken() -> dict[str, str]:
    """Page -> file of the repository, of those that exist."""
    return {page: file for page, file in (TAKEN | RECORDED).items() if (ROOT / file).exists()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the taken pages into the navigation."""
    for section in config.nav or []:
        for title, pages in section.items():
            folder = title.lower()
            pages += [page for page in taken() if page.startswith(f"{folder}/") and page.endswith(".md")]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made or taken."""
    for page, make in MADE.items():
        files.append(File.generated(config, page, content=make(ROOT)))
    for page, file in taken().items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / file)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links, which are paths of the repository, into links to pages or, of a taken page, into names of files.

    So a link leads somewhere in the repository, too, where pages are read as they lie there.
    """
    uri = page.file.src_uri
    is_taken, file = uri in taken(), taken().get(uri) or TEXTS.get(uri) or f"docs/{uri}"
    here = posixpath.dirname(file)
    known = {f"docs/{REFERENCE}#{head}": page for head, page in HEADINGS.items()}
    known |= {file: page for page, file in (taken() | TEXTS).items()}

    def link(match: re.Match[str]) -> str:
        text, (path, _, anchor) = match[1], match[2].partition("#")
        place = posixpath.normpath(posixpath.join(here, path))
        found = known.get(f"{place}#{anchor}")
        if found:
            anchor = ""
        elif place in known:
            found = known[place]
        elif place.startswith("docs/") and (is_taken or place.endswith(".md")):
            found = place.removeprefix("docs/")
        elif is_taken:
            return text if text.strip("`") == path else f"{text} (`{place}`)"
        else:
            return match[0]
        return f"[{text}]({posixpath.relpath(found, posixpath.dirname(uri))}{'#' + anchor if anchor else ''})"

    if uri == REFERENCE:  # here the pages are at hand
        for head, made in HEADINGS.items():
            title = next(t for t in re.findall(r"(?m)^## (.+)$", markdown) if t.lower().replace(" ", "-") == head)
            markdown = markdown.replace(f"## {title}\n", f"## [{title}]({posixpath.basename(made)})\n")
    return LINK.sub(link, markdown)


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """Give pages of the benchmarks their file's name: their titles are sentences."""
    for page in nav.pages:
        if page.file.src_uri in RECORDED:
            page.title = PurePosixPath(page.file.src_uri).stem.replace("_", " ")
    return nav
