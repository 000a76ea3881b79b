# make demo: the main job on real data.  make test: the fast tests.  Both create .venv and install when needed.
PYTHON ?= python3
BIN := .venv/bin

# Else each run parses all tests anew, in each of its processes.
unexport PYTHONDONTWRITEBYTECODE

EXTRAS := dev,docs,onnx,ray,report,tasks

.PHONY: demo docs test test-all test-oldest torture gpu lint clean help

help:
	@echo "make demo      train a small CNN on digits, search macs<=50%, fine-tune, export, compare (about a minute)"
	@echo "make test      the fast tests"
	@echo "make test-all  all tests, the slow ones too"
	@echo "make test-oldest  the fast tests on the oldest versions that pyproject.toml allows, in .venv-oldest"
	@echo "make torture   two hundred fault schedules: kills, torn files, full disks, lost servers and nodes"
	@echo "make gpu       on a machine with a CUDA device: is every number right there, and how fast is it (at most eight minutes)"
	@echo "make docs      build the documentation into site/, without a network; dead links fail"
	@echo "make lint      ruff and mypy"
	@echo "make clean     remove .venv, .venv-oldest and caches (results/ stays)"

demo: .venv/.installed
	@$(BIN)/python -m autoprune.demo

test: .venv/.installed-dev
	@$(BIN)/python -m pytest -n 2 --dist worksteal -ra --durations=10

test-all: .venv/.installed-dev
	@$(BIN)/python -m pytest -n 2 --dist worksteal -ra --durations=20 -m "slow or not slow"

# New packages that nobody pinned tell old ones that they are out of fashion: no fault of ours.
test-oldest: .venv-oldest/.installed
	@.venv-oldest/bin/python -m pytest -n 2 --dist worksteal -ra -W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning

torture: .venv/.installed-dev
	@$(BIN)/python results/benchmarks/torture.py

# With whatever Python is here: such a machine may have torch and no network.
gpu:
	@if [ -x $(BIN)/python ]; then $(BIN)/python results/benchmarks/gpu.py; else $(PYTHON) results/benchmarks/gpu.py; fi

docs: .venv/.installed-dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "documentation: site/index.html (with its search: $(BIN)/python -m http.server --directory site)"

lint: .venv/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/mypy

.venv/bin/python .venv-oldest/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "autoprune needs Python 3.10 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1); try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(@:/bin/python=) || { \
	  echo "'$(PYTHON) -m venv $(@:/bin/python=)' failed; on Debian and Ubuntu it needs: apt-get install python3-venv" >&2; rm -rf $(@:/bin/python=); exit 1; }

# The stamps: installed again only when pyproject.toml has changed.
.venv/.installed: pyproject.toml | .venv/bin/python
	@echo "installing autoprune into .venv (PyTorch is large: some minutes on a slow line) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/.installed-dev: pyproject.toml | .venv/bin/python
	@echo "installing autoprune and the test tools into .venv (PyTorch is large: some minutes on a slow line) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$(EXTRAS)]"
	@touch .venv/.installed $@

.venv-oldest/.installed: pyproject.toml | .venv-oldest/bin/python
	@echo "installing the oldest versions into .venv-oldest (PyTorch is large: some minutes on a slow line) ..."
	@.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check packaging tomli
	@.venv-oldest/bin/python tests/oldest.py $(EXTRAS) > .venv-oldest/oldest.txt
	@.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-oldest/oldest.txt -e ".[$(EXTRAS)]"
	@touch $@

clean:
	rm -rf .venv .venv-oldest build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
