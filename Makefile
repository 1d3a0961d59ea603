# `make repro` and `make test` set up everything that they need.
PYTHON ?= python3
BIN := .venv/bin
export DVC_NO_ANALYTICS := true
export MLFLOW_DISABLE_TELEMETRY := true
PYTEST := $(BIN)/pytest --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
export PATH := $(CURDIR)/$(BIN):$(PATH)
# In some containers the user has no name, but DVC needs one.
export USER := $(or $(USER),$(shell id -u))
export PYTHONDONTWRITEBYTECODE :=  # empty, so that Python keeps compiled modules

.PHONY: help setup repro taste check test lint docs notebooks ui track check-results audit bench gpu faults lock recipe recipes
.PHONY: release

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/ready  ## set up the environment .venv; TORCH=cpu installs torch without GPU support (docs/install.md)
	@echo "The environment .venv is ready. Next: make taste, a run of one minute, or make repro."

repro: .venv/ready  ## run all stages whose inputs have changed, several at a time
	$(BIN)/python -m pipeline.runner.repro

taste: .venv/ready  ## run the whole pipeline on small images in a minute, in taste/; BASE=origin/main also compares that revision
	$(BIN)/python -m pipeline.tools.taste $(if $(BASE),--base '$(BASE)')

check: .venv/ready-dev  ## run the unit tests, without stages, servers, browsers or builds
	$(PYTEST) --ignore tests/system tests

test: .venv/ready-dev  ## run all tests; each core runs one test file at a time
	$(PYTEST)

lint: .venv/ready-dev  ## check style, types, imports between packages, and prose
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pipeline.tools.prose

docs: .venv/ready-dev  ## build the documentation offline, in docs/_build/index.html
	$(BIN)/python -m pipeline.tools.reference
	$(BIN)/python -m sphinx -W --keep-going -n -q docs docs/_build
	@echo "docs/_build/index.html"

notebooks: .venv/ready-dev  ## open the notebooks of docs/ in JupyterLab, which uv downloads
	$(BIN)/uv run --no-project --python $(BIN)/python --with jupyterlab --with ipywidgets jupyter lab docs

ui: .venv/ready  ## browse the runs in MLflow, at port 5000; another port: make ui PORT=5001
	$(BIN)/python -m pipeline.reporting.ui --port $(or $(PORT),5000)

track: .venv/ready  ## copy the results on disk to MLflow: the server at MLFLOW_TRACKING_URI, or mlflow.db
	$(BIN)/python -m pipeline.reporting.track

check-results: .venv/ready  ## check params.yaml, dvc.lock, data and models for damage; print remedies
	$(BIN)/python -m pipeline.tools.check

recipe: .venv/ready  ## run a recipe and compare its result with the published figure: make recipe NAME=iwae-short
	$(BIN)/python -m pipeline.tools.recipe $(NAME)

recipes: .venv/ready  ## list the recipes with paper, expected figure and duration
	$(BIN)/python -m pipeline.tools.recipe

audit: .venv/ready  ## check the locked packages for known vulnerabilities
	$(BIN)/uv tool run pip-audit -r requirements-dev.lock --require-hashes --disable-pip --strict  # fails on unknown packages

release: .venv/ready-dev  ## build a release in dist/ without publishing it: wheel and source, SBOM, licences, SHA-256
	$(BIN)/python -m pipeline.tools.release

faults: .venv/ready-dev  ## inject all faults, such as kills, flipped bits and full disks, and write faults/results.md
	$(BIN)/python -W ignore -m faults

bench: .venv/ready-dev  ## measure the speed, also against Pythae, and write benchmarks/results.md
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r benchmarks/requirements.lock
	$(BIN)/python -W ignore -m benchmarks

gpu: .venv/ready-dev  ## run the tests for a GPU, measure its speed in at most 8 minutes, and write benchmarks/gpu.md
	$(BIN)/python -W ignore -m benchmarks.gpu --device $(or $(DEVICE),cuda)

lock:  ## pin the newest versions of all packages, with hashes, in both lock files
	$(COMPILE) --upgrade pyproject.toml --all-extras --group dev --output-file requirements-dev.lock
	$(COMPILE) pyproject.toml --extra cluster --extra onnx --extra setup --extra team -c requirements-dev.lock --output-file requirements.lock
	printf 'pythae==0.1.2\nimageio\n' | $(COMPILE) --upgrade - --no-deps --output-file benchmarks/requirements.lock

COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python

# TORCH=lock installs torch from the lock, on Linux with CUDA. TORCH=cpu installs the build for CPUs, without hashes, since the
# lock does not have them. The choice is kept: .venv/cpu.lock, a lock without torch, marks an environment for CPUs.
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

# An environment contains the path of the folder where it was made, so it fails after a move or a copy of the project.
MOVED := $(subst $(CURDIR),,$(shell cat .venv/ready 2>/dev/null))
OTHER := $(filter-out $(TORCH),$(CHOSEN))
.PHONY: moved other
moved:
	@echo "the environment .venv was made in $(MOVED): making a new one"
	rm -rf .venv
other:
	@echo "the environment .venv was made with TORCH=$(OTHER): making a new one with TORCH=$(TORCH)"
	rm -rf .venv

# pip installs the locked uv, then uv installs everything else in seconds.
.venv/ready: requirements.lock pyproject.toml $(if $(MOVED),moved) $(if $(OTHER),other)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.lock
	$(call install,requirements.lock)
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@echo '$(CURDIR)' > $@

# requirements-dev.lock has the same versions as requirements.lock, and more packages.
.venv/ready-dev: .venv/ready requirements-dev.lock
	$(call install,requirements-dev.lock)
	touch $@
