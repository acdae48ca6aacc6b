# ShardFM: `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The first interpreter that is 3.11 or 3.12; `make PYTHON=/path/to/python3.12 ...` chooses another.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
# gpu where an NVIDIA GPU answers, else cpu; `make FLAVOR=cpu ...` overrides it.
FLAVOR ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(FLAVOR)
# A GPU serves one worker.
WORKERS ?= $(shell [ $(FLAVOR) = gpu ] && [ "$$(nvidia-smi -L | wc -l)" = 1 ] && echo 1 || echo 2)
TEST_JOBS ?= 2

.PHONY: help setup demo test chaos check format requirements clean

help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## Make .venv with the pinned requirements (cpu or gpu) and this project, editable.

$(STAMP): requirements-$(FLAVOR).txt requirements-gpu.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 found: install one, or say make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	# --no-deps: the file is complete, and torchrec's metadata demands the CUDA build of fbgemm-gpu.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-$(FLAVOR).txt
	# Where the only torch to be had is the CUDA build, it needs its CUDA libraries even without a GPU.
	@$(BIN)/python -c 'import torch' 2>/dev/null || { \
	  echo "torch is a CUDA build: installing the CUDA libraries that it links to"; \
	  grep -E '^(cuda|nvidia|triton)' requirements-gpu.txt > $(VENV)/cuda.txt; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r $(VENV)/cuda.txt; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

chaos: $(STAMP)  ## Break jobs on several hosts on purpose (as root): what happened, as a table.
	$(BIN)/python -m tests.cluster.chaos

demo: $(STAMP)  ## Train DeepFM on UCI Adult with two workers; an interrupted demo resumes.
	@# A finished demo stays beside the new one, so that TensorBoard compares the two.
	@if [ -e runs/adult/result.json ]; then mv runs/adult "runs/adult-$$(date +%Y%m%d-%H%M%S)"; fi
	OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc_per_node=$(WORKERS) launch/train.py experiment=adult

test: $(STAMP)  ## Run the whole test suite, in two processes (make TEST_JOBS=1 test for one).
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist worksteal

check: $(STAMP)  ## Lint, check the format and the types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## Format the code and mend what the linter can mend.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

requirements:  ## Resolve pyproject.toml anew into requirements-{cpu,gpu}.txt (needs uv).
	uv pip compile pyproject.toml --quiet --python-version 3.11 --extra cpu --extra dev \
	  --overrides requirements-overrides.txt --custom-compile-command 'make requirements' -o requirements-cpu.txt
	uv pip compile pyproject.toml --quiet --python-version 3.11 --extra gpu --extra dev \
	  --custom-compile-command 'make requirements' -o requirements-gpu.txt

clean:  ## Remove .venv and caches (runs/ stays).
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
