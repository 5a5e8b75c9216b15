# Everything starts from a bare machine with Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test thorough lint docs format bench bench-peers clients coverage soak fuzz clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

# Python compiles what is imported: pip would compile all thirteen thousand files.
$(READY): pyproject.toml setup.py fineserve_shapes/client/_lanes.c fineserve_shapes/simulator/_ring.c
	@$(PYTHON) -c 'import sys; sys.exit("fineserve_shapes needs Python 3.11 or newer, this is " + sys.version.split()[0] \
	  + ": make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev,docs]'
	touch $@

demo: $(READY)  ## install, replay half a minute of a sample trace against the embedded simulator, leave a report
	mkdir -p results
	$(BIN)/locust -f locustfiles/replay.py --headless --only-summary --run-time 20s --time-scale 1.5 --drain-timeout 15 \
	  --report results/demo.html
	@echo "open results/demo.html"

test: $(READY)  ## install, and run the tests
	$(BIN)/python -m pytest -n 3 --dist worksteal

thorough: $(READY)  ## the tests with all examples of their laws, four times as many as `test` takes, and the long ones
	THOROUGH=1 $(BIN)/python -m pytest -n 3 --dist worksteal

lint: $(READY)  ## check style, types and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(READY)  ## build the documentation into site/; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(READY)  ## put the code into its format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(READY)  ## measure speed and accuracy; figures are printed, none is asserted
	$(BIN)/python -m benchmarks

bench-peers: $(READY)  ## other load generators against the same server, RUNS (3) of each; installs them under build/
	$(BIN)/python -m benchmarks peers

clients: $(READY)  ## test that other load generators can use the simulator; installs them under build/ (vLLM: see VLLM_BIN)
	$(BIN)/python -m benchmarks.environments
	$(BIN)/python -m pytest tests/simulator/test_other_clients.py

coverage: $(READY)  ## certified bounds and capacities against known truths, RUNS (10000) and SEARCHES (200) of each: an hour
	$(BIN)/python -m benchmarks.coverage
	$(BIN)/python -m benchmarks.searches

soak: $(READY)  ## run for DURATION seconds (1200) with workers killed and a faulty server; memory is printed
	$(BIN)/python -m benchmarks.soak $(DURATION)

fuzz: $(READY)  ## a million mutated streams through the parsers
	$(BIN)/python tests/core/fuzzing.py 1000000

clean:  ## remove what was made
	rm -rf $(VENV) build dist site *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
