# The front door. Every target sets up what it needs; `make` alone lists them.

# The first that runs and is new enough: a name on the path may be a shim of a version that is not there.
NEW_ENOUGH := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -I -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && command -v $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.ready
ROOMS := protocol settings modelfiles ramtier broker catalog worker client web cli loadgen soak demo reference

export HF_HUB_OFFLINE := 1
export TRANSFORMERS_VERBOSITY := error
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo digits docs check test lint format bench sim fuzz chaos kills soak residency clean

help:
	@echo "make setup   a virtual environment with everything in it (.venv)"
	@echo "make demo    tiny models, a broker, pictures in demo-output/"
	@echo "make check   lint and the quick tests, before every commit"
	@echo "make test    the test suite"
	@echo "make lint    ruff and mypy"
	@echo "make bench   the benchmarks; results in bench/results/"
	@echo "make sim     10,000 simulated hours of crashes and stalls (HOURS=...)"
	@echo "make fuzz    hostile input, ten million cases (CASES=...)"
	@echo "make bench-peers  mosec, xoscar, Ray, LitServe and ipyparallel beside the broker, each in build/peers/"
	@echo "make soak    mixed work with faults over cpu and virtual devices, and a verdict (MINUTES=10)"
	@echo "make residency  20 minutes of random loads, draws, unloads, failures and kills of two workers, and a verdict"
	@echo "make kills   50 real and 450 virtual workers killed in the middle of their work, and a verdict"
	@echo "make chaos   850 faults on real processes under load, and a verdict"
	@echo "make digits  the model of handwritten digits, trained anew"
	@echo "make docs    the tables and exchanges in docs/ that are made of the code"
	@echo "make format  ruff's formatting"
	@echo "make clean   remove what these made"

setup: $(STAMP)

# CLIP's vocabulary comes with open_clip_torch; its own dependencies are not wanted.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "setup: Python 3.11, 3.12 or 3.13 is needed"; exit 1; }
	@test -x $(BIN)/python || { echo "setup: $$($(PYTHON) --version) in .venv"; $(PYTHON) -P -m venv .venv; }
	@echo "setup: the packages of pyproject.toml in the versions of constraints.txt (torch among them: some minutes)"
	@$(BIN)/pip install --quiet --constraint constraints.txt torch
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]' --config-settings editable_mode=compat
	@$(BIN)/pip install --quiet --constraint constraints.txt --no-deps open_clip_torch
	@touch $(STAMP)
	@echo "setup: done ($$($(BIN)/pip list 2>/dev/null | tail -n +3 | wc -l) packages)"

demo: $(STAMP)
	@$(BIN)/python -P -m demo.run

# The digits' model anew, on two cores in less than half an hour; what is committed was made so.
digits: $(STAMP)
	@$(BIN)/pip install --quiet --constraint constraints.txt 'scikit-learn>=1.5'
	$(BIN)/python -P -m demo.digits.training demo/digits/model

docs: $(STAMP)
	$(BIN)/python -P -m reference

# Files that bear company go side by side on two cores; those that measure or kill processes one after the other.
TOGETHER := tests/catalog tests/cli tests/client tests/configs tests/fuzz tests/loadgen tests/modelfiles tests/protocol tests/ramtier \
	tests/reference tests/settings tests/simulation tests/worker tests/demo tests/test_house.py
APART := $(filter-out $(TOGETHER) tests/conftest.py tests/__init__.py tests/__pycache__, $(wildcard tests/*))

test: $(STAMP)
	$(BIN)/python -P -m pytest -n 2 --dist loadfile $(TOGETHER)
	$(BIN)/python -P -m pytest $(APART)

# Before every commit: no processes, no torch.
check: lint
	$(BIN)/python -P -m pytest -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(wildcard $(ROOMS))

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -P -m bench.broker
	$(BIN)/python -P -m bench.start
	$(BIN)/python -P -m bench.core
	$(BIN)/python -P -m bench.busy
	$(BIN)/python -P -m bench.catalogue
	$(BIN)/python -P -m bench.beside
	$(BIN)/python -P -m bench.families
	$(BIN)/python -P -m bench.generator
	$(BIN)/python -P -m bench.knee
	$(BIN)/python -P -m bench.load
	$(BIN)/python -P -m bench.memory
	$(BIN)/python -P -m bench.ram
	$(BIN)/python -P -m bench.switches
	$(BIN)/python -P -m bench.telemetry
	$(BIN)/python -P -m bench.threads
	$(BIN)/python -P -m bench.worth

sim: $(STAMP)
	$(BIN)/python -P -m tests.simulation --hours $(or $(HOURS),10000)

fuzz: $(STAMP)
	$(BIN)/python -P -m tests.fuzz --cases $(or $(CASES),10000000)

# Its own environment for each peer; one that cannot be installed is named, and the target fails.
bench-peers: $(STAMP)
	$(BIN)/python -P -m bench.peers

MINUTES ?= 10

soak: $(STAMP)
	@$(BIN)/python -P -m demo.models build/soak-models --no-virtual --only tiny-sd15 --only tiny-sdxl --only tiny-flux
	VRAMBROKER_MODELS=$(CURDIR)/build/soak-models:$(CURDIR)/configs/soak-models \
		$(BIN)/vrambroker soak --config configs/soak.toml --minutes $(MINUTES) -o build/soak

residency: $(STAMP)
	$(BIN)/python -P -m tests.worker.residency

kills: $(STAMP)
	$(BIN)/python -P -m tests.chaos.kills
	$(BIN)/python -P -m tests.chaos.kills --kind virtual --kills 450

chaos: $(STAMP)
	$(BIN)/python -P -m tests.chaos.chaos

clean:
	rm -rf .venv build demo-output *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/results
