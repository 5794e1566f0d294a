# The only prerequisites are make and Python 3.11 or newer: every target makes .venv by itself when it is missing.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := $(VENV)/.installed-peers
SITE := $(VENV)/.installed-docs
PYTHONS := python3.11 python3.12 python3.13 python3.14 python3 python

export OMP_NUM_THREADS ?= 2
# Tests start many processes, which read what the first one compiled.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test test-chains test-all check style docs pretrain pretrain-flow bench bench-gpu clean

help:  ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## set up .venv (done by every other target when needed)

demo: $(INSTALLED)  ## personalize the toy base by four methods, print the table, write outputs/demo/report/index.html
	$(BIN)/quantbooth experiment=demo

test: $(INSTALLED)  ## run the tests of mathematics and short chains (about 5 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-chains: $(INSTALLED)  ## run the tests of long chains (learned rounding, exports, sweeps), of hundreds of cases, and of the pretended device
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "chain and not slow and not device"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "device and not slow" tests/device

test-all: $(INSTALLED)  ## run all tests, the slow ones too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not device"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m device tests/device

check: $(INSTALLED)  ## lint, format check, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

style: $(INSTALLED)  ## format the code and fix what the linter can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(SITE)  ## build the documentation site, site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

pretrain: $(INSTALLED)  ## train the toy base and its judges from random weights (hours)
	$(BIN)/quantbooth-pretrain

pretrain-flow: $(INSTALLED)  ## train the toy flow base (hours; PRETRAIN="start=FOLDER begin_with=third" goes on)
	$(BIN)/quantbooth-pretrain model=toy_flow $(PRETRAIN)

bench: $(PEERS)  ## measure memory and speed against other methods (hours; BENCH="--model sd15 --latents 32" for less)
	$(BIN)/python -m experiments.bench.run $(BENCH)

bench-gpu: $(PEERS)  ## measure layers and steps on this machine's GPU into outputs/bench-gpu (about 8 minutes)
	$(BIN)/python -m experiments.bench.gpu.check --out outputs/bench-gpu --minutes 8

clean:  ## remove caches and builds; keeps .venv and outputs/
	rm -rf build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@for candidate in $(PYTHONS); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			echo "making $(VENV) with $$candidate"; \
			"$$candidate" -m venv $(VENV) && exit 0; \
			rm -rf $(VENV); \
			echo "quantbooth: $$candidate cannot make a virtual environment; install its venv module (Debian: python3-venv)" >&2; \
			exit 1; \
		fi; \
	done; \
	echo "quantbooth: needs Python 3.11 or newer, found none of: $(PYTHONS); install one and run make again" >&2; \
	exit 1

$(INSTALLED): pyproject.toml requirements.lock | $(BIN)/python
	@echo "installing into $(VENV) what requirements.lock pins (about 6 GB, a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	@touch $@

$(PEERS): $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[bench]'
	@touch $@

$(SITE): $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[docs]'
	@touch $@
