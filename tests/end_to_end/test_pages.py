"""What README and the documentation say works when it is typed; there is no other place where their blocks are run."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, SHOWN, TYPED, Block, blocks, commands, pages

from autoprune.cli import parser
from autoprune.config import SETTINGS

DATA = Path(__file__).parents[1] / "data"
PAGES = [str(page.relative_to(ROOT)) for page in pages()]
BLOCKS = {page: blocks((ROOT / page).read_text(encoding="utf-8")) for page in PAGES}
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINK = re.compile(r"\[[^\]]*\]\((?!\w+:)([^)\s#]*)(?:#([^)]*))?\)|(?:src|srcset)=\"(?!\w+:)([^\"]+)()\"")
MARKDOWN = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md"))
)
QUICK = {"docs/reference/index.md"}  # pages that are typed in less than 5 s of processor time


def all_blocks():
    return [pytest.param(block, id=f"{page}:{block.line}") for page in PAGES for block in BLOCKS[page]]


@pytest.mark.parametrize("block", all_blocks())
def test_every_block_is_typed_shown_or_says_why_not(block):
    assert block.language in (*TYPED, *SHOWN), "bash and python are typed; what is shown is text, toml, json or yaml"
    if block.language == "python":
        compile(block.text, "page", "exec")
    if block.not_run:
        pytest.skip(f"not run: {block.not_run}")


def test_what_is_not_run_is_little():
    typed = sum(block.typed for page in PAGES for block in BLOCKS[page])
    not_run = sum(bool(block.not_run) for page in PAGES for block in BLOCKS[page])
    assert not_run < typed / 4


def autoprune_commands():
    found = set()
    for page in PAGES:
        lines = [line.strip() for block in BLOCKS[page] if block.language == "bash" for line in commands(block)]
        variables = dict(match.groups() for line in lines if (match := re.match(r'export (\w+)="(.*)"$', line)))
        for line in lines:
            if re.match(r"(?:python -m )?autoprune\b", line):
                command = re.split(r"\s[|>;&]", line.removeprefix("python -m "))[0]
                found.add(re.sub(r"\$(\w+)", lambda match, known=variables: known[match[1]], command))
    return sorted(found)


@pytest.mark.parametrize("command", autoprune_commands())
def test_every_command_is_one_that_exists(command):
    words = shlex.split(command, comments=True)[1:]
    if words and not {"--help", "--help-all", "--version"} & set(words):
        assert "command" in vars(parser().parse_args(words))


def test_every_verb_is_shown():
    shown = {words[1] for c in autoprune_commands() if len(words := c.split()) > 1 and not words[1].startswith("-")}
    assert shown >= set("profile search train resume status export finetune attach report compare".split())


def test_every_flag_in_the_text_is_one_that_exists():
    parsers = [parser(), *next(a.choices for a in parser()._actions if a.choices).values()]
    known = {flag for each in parsers for action in each._actions for flag in action.option_strings}
    foreign = {"--nproc-per-node", "--max-restarts", "--head", "--address", "--strict"}  # torchrun's, Ray's, mkdocs'
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        said = set(
            re.findall(r"(?<![\w-])(--[a-z][a-z0-9-]+)", re.sub(r"(?m)^ *(?:pip|trtexec) .*$|<!--|-->", "", text))
        )
        assert not said - known - foreign, page


def test_settings_in_the_text_are_linked_where_they_stand():
    for page in PAGES:
        for name in re.findall(r"settings\.md#(\w+)", (ROOT / page).read_text(encoding="utf-8")):
            assert name in SETTINGS, page


def test_readme_is_short_and_opens_with_the_two_commands():
    assert len(README.splitlines()) <= 150
    first = [line.split("#")[0].strip() for block in BLOCKS["README.md"][:1] for line in commands(block)]
    assert first == ["make demo", "make test"]


@pytest.mark.parametrize("page", MARKDOWN)
def test_links_lead_somewhere_where_pages_are_read_as_they_lie_in_the_repository(page):
    here, text = ROOT / page, re.sub(r"(?ms)^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"))
    for path, anchor in sorted({(a or c, b) for a, b, c, _ in LINK.findall(text)}):
        place = (here.parent / path).resolve() if path else here
        assert place.exists(), path
        assert place.is_relative_to(ROOT), path
        if anchor and not anchor.startswith("only-"):  # a picture in one of two colours
            heads = re.findall(r"(?m)^#+ (.+)$", place.read_text(encoding="utf-8"))
            assert anchor in {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in heads}, anchor


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for path in re.findall(
        r"`((?:autoprune|objectives|search_spaces|examples|tests|docs|results/benchmarks)/[\w./-]+)`", text
    ):
        assert (ROOT / path).exists(), path


TYPED_PAGES = [
    pytest.param(page, marks=() if page in QUICK else pytest.mark.slow)
    for page in PAGES
    if any(block.typed for block in BLOCKS[page])
]


@pytest.mark.parametrize("page", TYPED_PAGES)
def test_a_page_works_as_it_is_typed(page, tmp_path, digits_weights):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/digits_cnn.safetensors").write_bytes(digits_weights.read_bytes())  # as `make demo` leaves it
    (tmp_path / "my_project.py").write_bytes((DATA / "my_project.py").read_bytes())
    home = tmp_path / "bin"
    home.mkdir()
    for name, call in (("autoprune", "-m autoprune"), ("python", "")):
        (home / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {call} "$@"\n', encoding="utf-8")
        (home / name).chmod(0o755)
    (home / "make").write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")  # `make demo` is what made the weights
    (home / "make").chmod(0o755)
    path = os.pathsep.join([str(home), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path, "PYTHONPATH": str(ROOT)}
    typing = [sys.executable, str(DATA / "type_page.py"), str(ROOT / page)]
    done = subprocess.run(
        typing, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900
    )
    print(done.stdout)
    assert done.returncode == 0, f"{page}\n{done.stdout[-6000:]}"


def test_keys_of_an_architecture_are_all_told():
    told = re.findall(r"(?m)^\| `(\w+)` \|", (ROOT / "docs/generate/formats.md").read_text(encoding="utf-8"))
    tree = ast.parse((ROOT / "autoprune/exporting.py").read_text(encoding="utf-8"))
    (written,) = (n for n in ast.walk(tree) if isinstance(n, ast.AnnAssign) and n.target.id == "architecture")
    assert told == [key.value for key in written.value.keys]


def test_figures_are_those_that_the_recorded_tables_draw():
    drawn = "import json, sys; sys.path.insert(0, 'docs/figures'); import runpy; "
    drawn += "print(json.dumps(runpy.run_path('docs/figures/__main__.py')['drawn']()))"
    done = subprocess.run([sys.executable, "-c", drawn], cwd=ROOT, capture_output=True, text=True, check=True)
    for name, text in json.loads(done.stdout).items():
        assert (ROOT / "docs/figures" / name).read_text(encoding="utf-8") == text, f"{name}: python docs/figures"


def test_blocks_are_found_with_their_marks():
    text = "# x\n\n```bash\necho a \\\n  b\n```\n\n"
    text += '<!-- not run: no GPU -->\n\n    ```python title="a.py"\n    x = 1\n    ```\n'
    assert blocks(text) == [
        Block("bash", "echo a \\\n  b\n", 4),
        Block("python", "x = 1\n", 11, "a.py", "no GPU"),
    ]
    assert commands(blocks(text)[0]) == ["echo a    b"]
    with pytest.raises(ValueError, match="line 1"):
        blocks("```bash\nx\n")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("```bash\ntrue\nfalse\n```\n", "x.md:2"),
        ("```bash\nfalse | cat\n```\n", "exit code 1"),
        ("```python\nassert False\n```\n", "AssertionError"),
        ("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", "line 6"),
    ],
)
def test_a_page_that_is_wrong_fails(tmp_path, text, word):
    (tmp_path / "x.md").write_text(text)
    done = subprocess.run(
        [sys.executable, str(DATA / "type_page.py"), "x.md"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert word in done.stderr


def test_every_page_is_in_the_navigation_once():
    yaml = pytest.importorskip("yaml")
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def leaves(nav):
        return [p for item in nav for p in (leaves(*item.values()) if isinstance(item, dict) else [item])]

    listed = leaves(config["nav"])
    written = {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md") if "generate" not in p.parts}
    assert len(listed) == len(set(listed))
    assert written <= set(listed)


@pytest.mark.slow
def test_documentation_builds(tmp_path):
    pytest.importorskip("mkdocs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        asked = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(\w+:)?//', page.read_text(encoding="utf-8"))
        assert not asked, f"{page.name} asks the network for something"
