"""Who may import whom: search_spaces <- objectives <- autoprune, and inside autoprune the floors of DESIGN.md."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STOREYS = {"search_spaces": 0, "objectives": 1, "autoprune": 2}
FLOORS = {
    "interrupts": 0, "process": 0, "printable": 0, "randomness": 0,
    "__init__": 0, "errors": 0, "files": 0, "compute": 0, "source": 0, "builders": 0, "ceiling": 0, "trust": 0,
    "modes": 0, "neighbours": 0, "failures": 0, "reference": 0, "data": 0, "problem": 0, "labels": 0, "fidelity": 0,
    "settings": 0, "guards": 0, "graphs": 0,
    "tasks": 1,
    "criteria": 2,
    "allocation": 3,
    "strategies": 4, "recovery": 4, "training": 4,
    "evaluation": 5, "ledger": 5,
    "limits": 6, "schedule": 6, "tradeoff": 6, "finalists": 6, "controller": 6, "workers": 6,
    "config": 7, "architecture": 7, "detectors": 7, "formats": 7, "exporting": 7, "report": 7, "runs": 7,
    "search": 7, "study": 7,
    "verbs": 8, "doctor": 8,
    "cli": 9, "demo": 9, "__main__": 9,
}  # fmt: skip
OPTIONAL = {  # package -> the only places that may import it, inside functions
    "ray": {"autoprune/workers/cluster"},
    "onnx": {"autoprune/formats.py", "objectives/latency"},
    "onnxruntime": {"autoprune/formats.py", "objectives/latency"},
    "onnxscript": {"autoprune/formats.py", "objectives/latency"},
    "matplotlib": {"autoprune/report/page/drawing.py"},
    "jinja2": {"autoprune/report/page/document.py"},
}
# Seconds that every command, worker and test process would wait for: only inside functions.
SLOW = ("cmaes.", "pandas.", "scipy.stats.", "sklearn.", "torch._dynamo.", "torch._inductor.", "torchvision.")
FILES = [path for package in STOREYS for path in sorted((ROOT / package).rglob("*.py"))]


parsed = cache(ast.parse)


@cache
def imports(source: str) -> list[tuple[str, bool]]:
    """Every imported module, and whether it is imported at the top of the file (TYPE_CHECKING blocks do not run)."""
    tree = parsed(source)
    found = []

    def visit(node: ast.AST, at_top: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, at_top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            found.extend((f"{node.module}.{alias.name}", at_top) for alias in node.names)
        at_top = at_top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, at_top)

    visit(tree, True)
    return found


def room(module: str) -> str:
    """autoprune.strategies.random.X -> strategies."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOORS else "__init__"


def offences(path: str, source: str) -> list[str]:
    """What in a file at `path` (relative to the root) breaks the layering."""
    package, home = path.split("/")[0], room(path.removesuffix(".py").replace("/", "."))
    found = []
    for module, at_top in imports(source):
        top = module.split(".")[0]
        if top in STOREYS and STOREYS[top] > STOREYS[package]:
            found.append(f"{path} imports {module}: {package} is below {top}")
        if top == package == "autoprune" and room(module) != home and home != "__init__":
            if FLOORS[room(module)] > FLOORS[home]:
                found.append(f"{path} (floor {FLOORS[home]}) imports {module} (floor {FLOORS[room(module)]})")
        if top in OPTIONAL and (at_top or not any(path.startswith(place) for place in OPTIONAL[top])):
            found.append(f"{path} imports {module}: only inside functions of {', '.join(sorted(OPTIONAL[top]))}")
        if at_top and f"{module}.".startswith(SLOW):
            found.append(f"{path} imports {module}, which takes long: only inside functions")
    return found


def test_every_room_has_a_floor():
    rooms = {p.stem for p in (ROOT / "autoprune").iterdir() if p.suffix == ".py" or p.is_dir()}
    assert rooms - {"__pycache__"} <= FLOORS.keys()


def test_a_file_imports_only_what_is_below_it():
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
    assert [offence for path, text in texts.items() for offence in offences(path, text)] == []


WORLD = {"cross_entropy", "ImageData", "Split", "class_scores"}  # of the user's world: tasks/ alone knows it
GIVEN = ("verbs", "search", "runs", "evaluation", "recovery", "training", "demo")  # take images where a task is wanted


def test_only_tasks_know_what_an_image_or_a_label_is():
    for path in FILES:
        home = room(path.relative_to(ROOT).as_posix().removesuffix(".py").replace("/", "."))
        names = {n.attr if isinstance(n, ast.Attribute) else n.id for n in ast.walk(parsed(path.read_text("utf-8")))
                 if isinstance(n, (ast.Attribute, ast.Name))}  # fmt: skip
        known = names & WORLD
        if home in GIVEN:
            known -= {"ImageData"}
        assert home in ("tasks", "data") or not known, f"{path.relative_to(ROOT)} names {known}: ask the task"


def test_no_circles_between_the_rooms_of_a_floor():
    edges: dict[str, set[str]] = {name: set() for name in FLOORS}
    for path in (p for p in FILES if p.parts[len(ROOT.parts)] == "autoprune"):
        home = room(path.relative_to(ROOT).as_posix().removesuffix(".py").replace("/", "."))
        edges[home] |= {room(m) for m, _ in imports(path.read_text(encoding="utf-8")) if m.startswith("autoprune.")}
        edges[home] -= {home, "__init__"}
    check_no_circle(edges)


def test_no_circles_between_files():
    """Nor hidden ones, of imports inside functions."""
    names = {p.relative_to(ROOT).as_posix().removesuffix(".py").replace("/", ".").removesuffix(".__init__"): p
             for p in FILES}  # fmt: skip

    def file_of(module: str) -> str:
        while module and module not in names:
            module = module.rpartition(".")[0]
        return module

    edges = {name: {file_of(module) for module, _ in imports(path.read_text(encoding="utf-8"))} - {name, ""}
             for name, path in names.items()}  # fmt: skip
    check_no_circle(edges)


@pytest.mark.parametrize("edges", [{"a": {"b"}, "b": {"c"}, "c": {"a"}}, {"a": {"b"}, "b": {"a"}, "c": set()}])
def test_a_circle_is_named(edges):
    with pytest.raises(AssertionError, match="circle: a -> b -> "):
        check_no_circle(edges)


def check_no_circle(edges: dict[str, set[str]]) -> None:
    state: dict[str, str] = {}

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert state.get(name) != "open", f"circle: {' -> '.join((*trail, name))}"
        if name not in state:
            state[name] = "open"
            for target in sorted(edges[name]):
                walk(target, (*trail, name))
            state[name] = "done"

    for name in edges:
        walk(name, ())


@pytest.mark.parametrize(
    ("path", "source", "offender"),
    [
        ("search_spaces/recorder.py", "from objectives import Budget", "search_spaces is below objectives"),
        ("objectives/costs.py", "import autoprune.problem", "objectives is below autoprune"),
        ("autoprune/strategies/x.py", "from autoprune.ledger import Ledger", "(floor 4) imports autoprune.ledger"),
        ("autoprune/search.py", "import onnx", "imports onnx"),
        ("autoprune/formats.py", "import onnx", "only inside functions"),
        ("autoprune/criteria/x.py", "from scipy.stats import norm", "takes long"),
    ],
)
def test_an_offender_is_named(path, source, offender):
    (found,) = offences(path, source)
    assert path in found
    assert offender in found
