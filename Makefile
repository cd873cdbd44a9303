# Bare `make` explains itself. Every target makes what it needs in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
SECONDS ?= 60
# Of the tests a good part waits for processes and pauses, so more of them run at once than there are cores.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); [ $$n -lt 8 ] && expr $$n + 1 || echo 8)
AT_ONCE := -n $(JOBS) --dist loadfile --no-loadscope-reorder
OUT ?= runs/$(shell date +%Y%m%d-%H%M%S)

.DEFAULT_GOAL := help
.PHONY: years tables help simulate test test-oldest check format lint types contract proto codings e2e bench kills kills-deployed faults-deployed poison guard fuzz pictures reference notebooks diagrams terminal site clean

help: ## show this help
	@echo "fedquit: federated learning that can forget"
	@echo
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/run.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[server,simulation]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(VENV)/run.stamp $@

$(OLDEST)/dev.stamp: pyproject.toml .ci/oldest.py
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python .ci/oldest.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/constraints.txt --editable '.[test]'
	@touch $@

simulate: $(VENV)/run.stamp ## train, forget, recover and compare on real digits; OUT=folder for the results
	$(BIN)/fedquit simulate --references 5 --out $(OUT)

test: $(VENV)/dev.stamp ## run every test and every example in the documentation of the code; JOBS=3 at once
	$(BIN)/python -m pytest $(AT_ONCE)

test-oldest: $(OLDEST)/dev.stamp ## run the tests with the lowest version of each dependency (Python 3.11; an hour)
	$(OLDEST)/bin/python -m pytest $(AT_ONCE)

check: format lint types contract test ## all that a change must pass

format: $(VENV)/dev.stamp ## is the code formatted?
	$(BIN)/ruff format --check .

lint: $(VENV)/dev.stamp ## does the linter object?
	$(BIN)/ruff check .

types: $(VENV)/dev.stamp ## do the types fit, strictly?
	$(BIN)/mypy

contract: $(VENV)/dev.stamp ## do dependencies point one way?
	$(BIN)/lint-imports

proto: $(VENV)/dev.stamp ## make the Python stubs of the forget service from client/requests/proto/forget.proto
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. fedquit/client/requests/proto/forget.proto

e2e: $(VENV)/dev.stamp ## a real federation: server, four devices, requests, receipts; shows times and bytes
	$(BIN)/python -m pytest -s tests/e2e/test_deployment.py

fuzz: $(VENV)/dev.stamp ## give every reader of untrusted input bad bytes; SECONDS=60 for each; prints a table
	$(BIN)/python -m pip install --quiet --editable '.[fuzz]'
	$(BIN)/python -c "from tests.harness.fuzz import main; main()" --seconds $(SECONDS)

pictures: $(VENV)/dev.stamp ## take the pictures of the operator's page in docs/page again (needs chromium)
	PICTURES=docs/page $(BIN)/python -m pytest tests/server/page/test_browser.py -k pictures

codings: $(VENV)/run.stamp ## what each compression saves and loses, on digits (some minutes)
	$(BIN)/python -m tests.benchmarks.codecs

bench: $(VENV)/dev.stamp ## time simulations beside bare PyTorch and Flower on Ray; writes docs/results/speed.md
	$(BIN)/python -m tests.benchmarks.speed --out docs/results

tables: $(VENV)/dev.stamp ## write anew what `fedquit methods`, `objectives`, `strategies` and `codecs` list
	$(BIN)/python -m fedquit.simulations.listings.registries

years: $(VENV)/dev.stamp ## time the page, its figures and the check of a ledger after years of rounds
	$(BIN)/python -m tests.server.ledger.ledger_years

kills: $(VENV)/dev.stamp ## kill a rehearsed deployment at every point of a request, and print the table
	$(BIN)/python -c "from tests.harness.kills import main; main()"

kills-deployed: $(VENV)/dev.stamp ## kill each process of a real deployment at each step of a request (an hour)
	$(BIN)/python -m tests.harness.deployed.kills_deployed

faults-deployed: $(VENV)/dev.stamp ## hit real deployments with 200 seeded faults (hours; as root; FAULTS="--faults 20")
	$(BIN)/python -m tests.harness.deployed.faults_deployed --resume $(FAULTS)

poison: $(VENV)/dev.stamp ## show what one lying device of four does to rounds of training
	$(BIN)/python -m tests.harness.poison

guard: $(VENV)/dev.stamp ## show what the guard of forgetting lets through, honest and sabotaged
	$(BIN)/python -c "from tests.harness.sabotage import main; main()"

site: $(VENV)/run.stamp ## build these documents as a web site in build/site, strictly: no dead link
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

reference: $(VENV)/dev.stamp ## write the reference pages again: settings, gRPC, tables, names
	$(BIN)/python -m tests.house.reference_pages

notebooks: $(VENV)/dev.stamp ## execute the notebooks of the documents and store what they show (minutes)
	$(BIN)/python -m tests.house.notebooks

diagrams: $(VENV)/dev.stamp ## draw the diagrams of the documents again
	$(BIN)/python -m tests.house.diagrams

terminal: $(VENV)/dev.stamp ## take the picture of a terminal in docs/images again, from a run (a minute)
	$(BIN)/python -m tests.house.terminal_picture

clean: ## remove what the tools left (not runs/)
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
