# The front door. Every target sets up what it needs; `make` alone lists them.

PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3,$(shell command -v $(p) 2>/dev/null)))
BIN := .venv/bin
STAMP := .venv/.ready
ROOMS := protocol settings modelfiles broker catalog worker client cli demo

export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test lint format bench clean

help:
	@echo "make setup   a virtual environment with everything in it (.venv)"
	@echo "make demo    tiny models, a broker, pictures in demo-output/"
	@echo "make test    the test suite"
	@echo "make lint    ruff and mypy"
	@echo "make bench   the benchmarks; results in bench/results/"
	@echo "make format  ruff's formatting"
	@echo "make clean   remove what these made"

setup: $(STAMP)

# CLIP's vocabulary comes with open_clip_torch; its own dependencies are not wanted.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 1; }
	@test -x $(BIN)/python || { echo "setup: $$($(PYTHON) --version) in .venv"; $(PYTHON) -m venv .venv; }
	@echo "setup: the packages of pyproject.toml in the versions of constraints.txt (torch among them: some minutes)"
	@$(BIN)/pip install --quiet --constraint constraints.txt torch
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]' --config-settings editable_mode=compat
	@$(BIN)/pip install --quiet --constraint constraints.txt --no-deps open_clip_torch
	@touch $(STAMP)
	@echo "setup: done ($$($(BIN)/pip list 2>/dev/null | tail -n +3 | wc -l) packages)"

demo: $(STAMP)
	@$(BIN)/python -m demo.run

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(wildcard $(ROOMS))

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m bench.broker
	$(BIN)/python -m bench.start

clean:
	rm -rf .venv build demo-output *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/results
