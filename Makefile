# Needs Python 3.11 or newer, pip and make; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 8501
CHECKED := advisor trainer app tests

.PHONY: setup run test test-all check fix bench bench-readme bench-gpu lock

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	@touch $@

run: setup
	@echo "Preparing the first answer; the very first start also measures this machine (20 s)."
	$(BIN)/python -m app --port $(PORT)

# The browser tests drive a real server and a real training run: alone, after the others.
test: setup
	$(BIN)/python -m pytest -q -m "not full" -n 2 --dist loadfile --ignore tests/e2e
	$(BIN)/python -m pytest -q -m "not full" tests/e2e

# Prints the fault and the security table; TABLES=README.md also writes them there.
test-all: setup
	$(BIN)/python -m pytest -q --cov --cov-report=term:skip-covered $(if $(TABLES),--write-tables $(TABLES))

check: setup
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

fix: setup
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

bench: setup
	$(BIN)/python tests/benchmarks/bench.py

bench-readme: setup
	$(BIN)/python tests/benchmarks/bench.py --readme

# On a machine with a CUDA GPU that has torch, transformers, peft and accelerate; needs nothing of ours.
bench-gpu:
	$(PYTHON) tests/benchmarks/bench_gpu.py --out bench-gpu --seconds 480

# Exact versions of a fresh install of the lower bounds, for everybody to install with.
lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-lock/bin/python -m pip install --quiet "torch==2.13.0" --editable . --group dev
	.venv-lock/bin/python -m pip freeze --exclude-editable | sed -E 's/\+[a-z0-9.]+$$//' > constraints.txt
	rm -rf .venv-lock
