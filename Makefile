# Two targets do everything on a machine that has python3, python3-venv and make: `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Exact versions for `setup` and `test`; /dev/null takes the newest that pyproject.toml allows.
CONSTRAINTS ?= .ci/constraints.txt

# A test that starts a program would have all of its modules compiled once more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run setup test test-slow wheel evidence constraints clean

run: $(VENV)/installed
	@$(BIN)/aprtui

# What tests and contributors need, into the virtual environment.
setup: $(VENV)/installed-dev

test: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow

# A wheel with kernel images of all targets in it; needs nvcc (CUDA 13) and g++. Without images, kernels are compiled
# where they are first used.
wheel: $(VENV)/installed-dev
	$(BIN)/python -m aprtui.engine.cuda.images
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# Records the evidence of our own contracts again: see contracts/README.md.
evidence: $(VENV)/installed-dev
	$(BIN)/python -m tests.contracts.record_evidence $(IDS)

# The versions that are installed, after a gate that passed with them: see CONTRIBUTING.md.
constraints:
	echo '# Renewed by: make clean; CONSTRAINTS=/dev/null .ci/run && make constraints   (Linux, Python 3.11)' >.ci/constraints.txt
	$(BIN)/python -m pip list --format=freeze --exclude-editable --exclude pip >>.ci/constraints.txt

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml .ci/constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@ $(VENV)/installed

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
