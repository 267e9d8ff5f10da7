# `make demo` and `make test` do everything themselves, set-up included, on a machine with Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Two test processes with one thread each are quicker than one with two, and no test may reach for a model hub.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1

.PHONY: help demo test test-all lint format bench paper clean
help:
	@echo 'make demo    run the whole loop on the simulated world; the report appears in demo/report.html'
	@echo 'make test    lint, type check and the tests, but for the slow ones'
	@echo 'make test-all  the slow ones, too, as continuous integration does'
	@echo 'make lint    lint and type check only'
	@echo 'make format  rewrite the code in the house style'
	@echo 'make bench   measure the shipped model; results appear in runs/bench'
	@echo 'make paper   walk recipes/paper/README.md: DRY=1 says what is missing; FAMILY=liquid; GPUS=4'
	@echo 'make clean   remove the environment and the caches'

# Done once, and again when what it depends on changes.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'retrodict needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ...' >&2; exit 1; }
	@echo 'Setting up $(VENV) from constraints.txt: a few minutes, once.'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/retrodict demo --out demo

test: lint
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'not slow'

test-all: lint
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(READY)
	$(BIN)/retrodict bench --bench tabletop --model small -n 8 --out runs/bench

paper: $(READY)
	$(BIN)/python recipes/paper/walk.py $(if $(DRY),--dry-run) --family $(or $(FAMILY),chameleon) --gpus $(or $(GPUS),1)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
