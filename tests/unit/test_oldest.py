"""The oldest versions that are allowed, as `make test-oldest` installs them."""

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).parents[1]))
from oldest import oldest, requirements, tomllib

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("torch>=2.6", "torch==2.6"),
        ("ray[tune,client]>=2.40", "ray==2.40"),  # pip takes no extras in constraints
        ("huggingface_hub<1,>=0.20", "huggingface_hub==0.20"),
        ("torchprofile==0.0.4", "torchprofile==0.0.4"),
        ("tomli>=2.0; python_version < '3.11'", 'tomli==2.0; python_version < "3.11"'),
    ],
)
def test_the_lower_bound_is_the_version(said, version):
    assert oldest(Requirement(said)) == version


@pytest.mark.parametrize("said", ["torch", "torch<3", "torch>=2,>=2.6"])
def test_no_or_two_lower_bounds_are_refused(said):
    with pytest.raises(ValueError, match=r"pyproject.toml: 'torch.*' needs one lower bound, such as torch>=1.0"):
        oldest(Requirement(said))


def test_whatever_the_fast_tests_need_has_a_lower_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (line,) = (s for s in (ROOT / "Makefile").read_text().splitlines() if s.startswith("EXTRAS := "))
    needed = list(requirements(project, line.removeprefix("EXTRAS := ").split(",")))
    assert {"torch", "ray", "onnx", "pytest", "jinja2"} <= {r.name for r in needed}
    assert len({r.name for r in needed}) == len({oldest(r) for r in needed})  # the same in every extra
