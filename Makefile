# `make repro` and `make test` set everything up themselves; the rest is for daily work.
PYTHON ?= python3
BIN := .venv/bin
export DVC_NO_ANALYTICS := true
export MLFLOW_DISABLE_TELEMETRY := true
PYTEST := $(BIN)/pytest --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
export PATH := $(CURDIR)/$(BIN):$(PATH)
# In some containers nobody has a name, and DVC wants one.
export USER := $(or $(USER),$(shell id -u))
export PYTHONDONTWRITEBYTECODE :=  # each module is compiled once, when a process imports it first

.PHONY: help setup repro taste check test lint docs notebooks ui track check-results audit bench gpu faults lock recipe recipes
.PHONY: release

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/ready  ## set up .venv and no more; TORCH=cpu takes torch's build for CPUs alone: docs/install.md
	@echo "The environment .venv is ready. Next: make taste, which runs all of it in a minute, or make repro."

repro: .venv/ready  ## run whatever has changed of the pipeline, several stages at a time
	$(BIN)/python -m pipeline.runner.repro

taste: .venv/ready  ## run all of it on small images in a minute, without a download, in a folder of its own: taste/; with BASE=origin/main say what changed
	$(BIN)/python -m pipeline.tools.taste $(if $(BASE),--base '$(BASE)')

check: .venv/ready-dev  ## run the unit tests: no stage, server, browser or build is started
	$(PYTEST) --ignore tests/system tests

test: .venv/ready-dev  ## run all tests, a file on each core
	$(PYTEST)

lint: .venv/ready-dev  ## check style, types, and what packages may import
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: .venv/ready-dev  ## build the documentation's site, docs/_build/index.html, with nothing fetched
	$(BIN)/python -m pipeline.tools.reference
	$(BIN)/python -m sphinx -W --keep-going -n -q docs docs/_build
	@echo "docs/_build/index.html"

notebooks: .venv/ready-dev  ## open the notebooks of docs/ in JupyterLab, which uv fetches
	$(BIN)/uv run --no-project --python $(BIN)/python --with jupyterlab --with ipywidgets jupyter lab docs

ui: .venv/ready  ## browse the runs in MLflow, at port 5000 or make ui PORT=5001
	$(BIN)/python -m pipeline.reporting.ui --port $(or $(PORT),5000)

track: .venv/ready  ## have MLflow show what is on disk, at MLFLOW_TRACKING_URI or in mlflow.db
	$(BIN)/python -m pipeline.reporting.track

check-results: .venv/ready  ## look for damage in params.yaml, dvc.lock, data and models; say what mends it
	$(BIN)/python -m pipeline.tools.check

recipe: .venv/ready  ## reproduce a published result and say how it stands: make recipe NAME=iwae-short
	$(BIN)/python -m pipeline.tools.recipe $(NAME)

recipes: .venv/ready  ## list the recipes: paper, expected figure, time
	$(BIN)/python -m pipeline.tools.recipe

audit: .venv/ready  ## compare the lock with the known vulnerabilities
	$(BIN)/uv tool run pip-audit -r requirements-dev.lock --require-hashes --disable-pip --strict  # a package that no list knows is an error

release: .venv/ready-dev  ## all of a release but its publication, in dist/: wheel and source, SBOM, licences, SHA-256
	$(BIN)/python -m pipeline.tools.release

faults: .venv/ready-dev  ## kill, flip, fill and fuzz at full size: the table of faults/results.md
	$(BIN)/python -W ignore -m faults

bench: .venv/ready-dev  ## measure the loop, the DAG and a peer: the tables of benchmarks/results.md
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r benchmarks/requirements.lock
	$(BIN)/python -W ignore -m benchmarks

gpu: .venv/ready-dev  ## the tests that need a GPU, and a GPU's figures: benchmarks/gpu.md, in at most 8 minutes
	$(BIN)/python -W ignore -m benchmarks.gpu --device $(or $(DEVICE),cuda)

lock:  ## pin the newest versions: of what the product runs with, and of what development adds; names, versions, hashes
	$(COMPILE) --upgrade pyproject.toml --all-extras --group dev --output-file requirements-dev.lock
	$(COMPILE) pyproject.toml --extra cluster --extra onnx --extra setup --extra team -c requirements-dev.lock --output-file requirements.lock
	printf 'pythae==0.1.2\nimageio\n' | $(COMPILE) --upgrade - --no-deps --output-file benchmarks/requirements.lock

COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python

# Which torch: that of the lock, which on Linux is NVIDIA's, or the one for CPUs, whose hashes the lock does not have. What
# was chosen stays chosen: the environment has a lock without torch then.
CHOSEN := $(if $(wildcard .venv/bin),$(if $(wildcard .venv/cpu.lock),cpu,lock))
TORCH ?= $(or $(CHOSEN),lock)
ifeq ($(filter $(TORCH),cpu lock),)
$(error TORCH=$(TORCH): cpu is torch for CPUs, lock is the torch of requirements.lock)
endif
install = $(install-$(TORCH))
define install-lock
$(INSTALL) --require-hashes -r $(1)
endef
define install-cpu
sed -E '/^(torch|torchvision|triton|(nvidia|cuda)-[a-z0-9-]+)==/,/[^\\]$$/d' $(1) > .venv/cpu.lock
$(INSTALL) --require-hashes --no-deps -r .venv/cpu.lock
$(INSTALL) --no-deps --torch-backend cpu $$(sed -nE 's/^((torch|torchvision)==[^ ]+).*/\1/p' $(1))
endef

# A project that was moved or copied with its environment: all in there names the place where it was made.
MOVED := $(subst $(CURDIR),,$(shell cat .venv/ready 2>/dev/null))
OTHER := $(filter-out $(TORCH),$(CHOSEN))
.PHONY: moved other
moved:
	@echo "the environment .venv was made in $(MOVED): it is made anew"
	rm -rf .venv
other:
	@echo "the environment .venv was made with TORCH=$(OTHER): it is made anew with TORCH=$(TORCH)"
	rm -rf .venv

# uv itself comes out of the lock, by pip; then uv installs everything else in seconds.
.venv/ready: requirements.lock pyproject.toml $(if $(MOVED),moved) $(if $(OTHER),other)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.lock
	$(call install,requirements.lock)
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@echo '$(CURDIR)' > $@

# A superset of the other lock, with the same versions.
.venv/ready-dev: .venv/ready requirements-dev.lock
	$(call install,requirements-dev.lock)
	touch $@
