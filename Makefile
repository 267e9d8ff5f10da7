# `make demo` and `make test` do everything themselves, set-up included, on a machine with Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS := judge serve study metrics diffusers gym babyai minari datasets

# Two test processes with one thread each are quicker than one with two, and no test may reach for a model hub.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1

.PHONY: help demo test test-all lint format bench docs losscheck lock paper clean
help:
	@echo 'make demo    run the whole loop on the simulated world; the report appears in demo/report.html'
	@echo 'make test    lint, type check and the tests, but for the slow ones'
	@echo 'make test-all  the slow ones, too, as continuous integration does'
	@echo 'make lint    lint and type check only'
	@echo 'make format  rewrite the code in the house style'
	@echo 'make bench   measure the shipped model; results appear in runs/bench'
	@echo 'make docs    write docs/reference and build the documentation; it appears in build/site'
	@echo 'make losscheck  train 50 steps twice: the same to the last bit, and as stored'
	@echo 'make lock    write requirements.lock anew'
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

# In an environment of its own: nothing else needs what builds the pages.
docs: $(READY)
	@test -x build/docs-venv/bin/zensical || { $(PYTHON) -m venv build/docs-venv && build/docs-venv/bin/python -m pip install \
	  --quiet --disable-pip-version-check -c constraints.txt zensical; }
	PATH="$$PWD/build/docs-venv/bin:$$PATH" $(BIN)/python tools/docs.py site

losscheck: $(READY)
	$(BIN)/python tools/losscheck.py

# PyPI itself, whatever pip is configured with here: the file is for everybody.
lock: $(READY)
	@test -x build/docs-venv/bin/uv || { $(PYTHON) -m venv build/docs-venv && build/docs-venv/bin/python -m pip install \
	  --quiet --disable-pip-version-check uv; }
	build/docs-venv/bin/uv pip compile pyproject.toml $(foreach extra,$(EXTRAS),--extra $(extra)) -c constraints.txt \
	  --universal --python-version 3.11 --generate-hashes --no-config --no-annotate --no-header --quiet \
	  --default-index https://pypi.org/simple -o build/lock.txt
	{ sed '/^[^#]/,$$d' requirements.lock; cat build/lock.txt; } > build/lock.new && mv build/lock.new requirements.lock

# In the environment that is active, where there is one: who installed retrodict as README says needs no tools of ours.
ACTIVE := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX))
paper: $(if $(ACTIVE),,$(READY))
	$(if $(ACTIVE),python,$(BIN)/python) recipes/paper/walk.py $(if $(DRY),--dry-run) --family $(or $(FAMILY),chameleon) --gpus $(or $(GPUS),1)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
