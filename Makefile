# make setup | demo | test | test-fast | lint
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One process a core, each with one thread: training on a small base does not fill more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

.PHONY: setup demo test test-fast lint

setup: $(VENV)/ready

$(VENV)/ready: requirements.txt requirements-data.txt requirements-ray.txt requirements-studio.txt requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo:
	sh test_train.sh

test: setup
	$(PYTEST)

test-fast: setup
	$(PYTEST) -m "not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy train.py predict.py settings fetching pages preprocess families artifact sampler evaluation trainer job service studio tools tests benchmarks
	$(BIN)/lint-imports
