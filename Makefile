# `make` alone lists what there is.
VENV := .venv
PYTHON := $(VENV)/bin/python
PYTHON3 ?= python3
# Two single-threaded runs or test workers suit two cores better than one on two threads.
JOBS ?= 2
export OMP_NUM_THREADS := 1
export HF_HUB_OFFLINE := 1

.DEFAULT_GOAL := help
.PHONY: help demo board backbones claims study benchmarks torture test coverage lint texts docs docs-serve wheel ci clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cdvqa needs Python 3.11 or newer")'
	$(PYTHON3) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,easyvqa,lmdb,export,openvino,serve]'
	touch $@

BACKBONE ?= lxmert
demo: $(VENV)/ready ## the three stages on the embedded world; BACKBONE=lxmert, visualbert, mplug, updn or smrl
	$(MAKE) study STUDY=demo$(filter-out _lxmert,_$(BACKBONE))
	@echo "To look into the runs: make board"

LOGS ?= logs
board: $(VENV)/ready ## TensorBoard over the runs in LOGS=logs, laid out: docs/DASHBOARD.md
	$(PYTHON) -m cdvqa board --logs $(LOGS)

backbones: $(VENV)/ready ## every other backbone on the embedded world, four seeds
	$(PYTHON) -m cdvqa prepare scenes --balanced
	$(MAKE) study STUDY=backbones

claims: $(VENV)/ready ## the paper's claims on the embedded world, four seeds
	$(MAKE) study STUDY=claims

STUDY ?= fig2
WORLD := $(if $(filter easyvqa,$(STUDY)),easyvqa,scenes$(if $(filter fig10 fig11 fig15 fig16 table2,$(STUDY)),-vs))
EMBEDDED := $(SIZE)$(filter claims backbones demo% easyvqa,$(STUDY))
study: $(VENV)/ready ## a figure or table of the paper, such as STUDY=table1; SIZE=micro on the embedded world: docs/STUDIES.md
	$(if $(EMBEDDED),$(PYTHON) -m cdvqa prepare $(WORLD))
	$(if $(SIZE),$(PYTHON) -m cdvqa prepare $(WORLD) --size $(SIZE))
	$(PYTHON) -m cdvqa sweep $(STUDY) $(SIZE:%=--size %) --jobs $(JOBS)
	$(PYTHON) -m cdvqa report --study $(STUDY) $(SIZE:%=--size %) --records docs/study/$(STUDY)$(SIZE:%=-%).jsonl

BENCHMARKS := data threshold mask_step scaling sweep subnetwork
benchmarks: $(VENV)/ready ## compare cdvqa with baselines and limits: docs/benchmarks.md
	for topic in $(BENCHMARKS); do $(PYTHON) -m benchmarks.$$topic || exit 1; done
	$(PYTHON) -m benchmarks.page

torture: $(VENV)/ready ## kill runs of every stage at random moments, resume, compare: docs/torture.md
	$(PYTHON) -m tests.torture

test: $(VENV)/ready ## the whole suite; FAST=1 leaves out what trains, and answers in two minutes
	$(PYTHON) -m pytest -n $(JOBS) --dist worksteal $(if $(FAST),-m "not slow")

coverage: $(VENV)/ready ## the whole suite, and the lines of cdvqa that it does not run
	$(PYTHON) -m pytest -n $(JOBS) --dist worksteal --cov cdvqa --cov-report term-missing:skip-covered

lint: $(VENV)/ready ## ruff, mypy and the import layers
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

texts: $(VENV)/ready ## what --help shows, from signatures and docstrings: cdvqa/cli/help/
	$(PYTHON) -m cdvqa.tools.help

docs: $(VENV)/ready ## the documents as a site, in build/site
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(VENV)/bin/mkdocs build

docs-serve: docs ## the same, on a local page
	$(VENV)/bin/mkdocs serve

wheel: $(VENV)/ready ## the package, in dist/
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .

ci: lint test ## what every change must pass

clean: ## remove the environment and caches, but no logs or data
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
