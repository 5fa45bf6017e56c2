# Needs python3 with venv, make and a shell; everything else is installed into .venv/.

PYTHON ?= python3
VENV := .venv
IN_VENV := $(VENV)/bin/python
# Faces and engines are for Python 3 alone; every other module runs on 2.7 too and is held to it.
CORE := $(sort $(wildcard minimalcluster/*.py $(addprefix minimalcluster/,$(addsuffix /*.py,wire payload brain node master command))))
SEEDS ?= 1000
FRAMES ?= 10000000

.DEFAULT_GOAL := help
.PHONY: help test lint types compat extras sim mutants chaos attack fuzz soak bench bench-check costs scale size wheel clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: lint types compat ## lint, types, compat, then every test under every Python found
	$(IN_VENV) tools/run_tests.py $(TESTS)

lint: $(VENV)/ready ## ruff: style and likely mistakes; layout of what is for Python 3 alone
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m ruff format --check .

types: $(VENV)/ready ## mypy: the core's signature comments
	$(IN_VENV) -m mypy
	$(IN_VENV) -m mypy --strict --follow-imports=silent tests/typed_program.py

compat: $(VENV)/ready ## vermin: nothing in the core that 2.7 or 3.6 does not have
	$(VENV)/bin/vermin --no-tips --violations -t=2.7- -t=3.6- $(CORE)

extras: ## joblib, Dask, Ray, MPI and notebooks for real, on 3.11 and 3.13 (downloads them)
	$(PYTHON) tools/run_extras.py

sim: ## the simulated cluster over many seeds, on all cores (SEEDS=1000; 200000 for a night)
	$(PYTHON) -m tests.simulation --seeds $(SEEDS) --keep-going --record tests/regressions.txt

mutants: ## plant bugs, one at a time: the simulation must find each
	$(PYTHON) -m tests.mutants

chaos: ## real harm to real processes, row by row, then 1,000 kills (root on Linux runs all rows)
	$(PYTHON) tools/chaos.py

attack: ## strangers, people in the path, and hostile members against real masters and nodes, row by row
	$(PYTHON) tools/attack.py

fuzz: $(VENV)/ready ## every reader of bytes that others may have written, under atheris (FRAMES=10000000)
	$(IN_VENV) tools/fuzz.py --frames $(FRAMES)

soak: ## many tasks while nodes come and go: nothing may grow (TASKS=10000000)
	$(PYTHON) tools/soak.py

bench: ## this project beside its peers, in .bench/: 45 minutes on 2 cores, QUICK=1: 10; WRITE=1 writes docs/performance.md
	$(PYTHON) bench/runner.py $(if $(QUICK),--quick) $(if $(WRITE),--write) $(BENCH)

bench-check: ## what make bench has measured last, beside what is to be reached: status 1 if a row falls short
	$(PYTHON) bench/report.py --check

costs: ## what idle nodes, the brain alone, the wire, a journal and each hop of a round trip cost
	$(PYTHON) bench/idle.py
	$(PYTHON) bench/brain.py
	$(PYTHON) bench/wire.py
	$(PYTHON) bench/journal.py
	$(PYTHON) bench/hops.py

scale: ## a master with up to 1,000 simulated nodes of 8 slots: 6 minutes, QUICK=1: 2; WRITE=1 writes docs/scale.md
	$(PYTHON) bench/scale.py $(if $(QUICK),--quick) $(if $(WRITE),--write)

size: ## lines of code per file and folder
	@$(PYTHON) tools/size.py $(sort $(wildcard minimalcluster/*.py minimalcluster/*/*.py))

wheel: $(VENV)/ready ## the sdist, and one wheel for 2.7 and 3.x, in dist/: the same bytes from every checkout
	$(IN_VENV) -m build

clean: ## remove what make made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(IN_VENV) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
