"""What `import autoprune` offers is there without being imported: help must not wait for PyTorch."""

import inspect
import subprocess
import sys

import pytest

import autoprune


def run(code: str) -> list[str]:
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.splitlines()


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["search", "--help"], ["status", "--help"]])
def test_help_does_not_wait_for_torch(words):
    code = f"import sys; from autoprune.cli import main\ntry: main({words})\nfinally: print('torch' in sys.modules)"
    assert run(f"{code}\n")[-1:] == ["False"]


def test_a_function_is_no_module_whatever_was_imported_first():
    (said,) = run(
        "import autoprune.report, autoprune.search, autoprune.runs, autoprune\n"
        "from autoprune import search, report\n"
        "print(search is autoprune.search, callable(report), autoprune.runs.__name__, autoprune.data.__name__)"
    )
    assert said == "True True autoprune.runs autoprune.data"


def test_what_is_offered_is_listed_and_there():
    assert set(autoprune.__all__) <= set(dir(autoprune))
    for name in set(autoprune.__all__) - {"__version__"}:
        value = getattr(autoprune, name)
        assert inspect.isfunction(value) or inspect.isclass(value)


def test_what_is_not_there_is_said():
    with pytest.raises(AttributeError, match=r"^module 'autoprune' has no attribute 'serach'"):
        _ = autoprune.serach
    assert not hasattr(autoprune, "_search")
