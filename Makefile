# Each target sets up what it needs: python3 (3.11 or newer) and make are enough.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FUZZ := $(VENV)-fuzz
FUZZ_STAMP := $(FUZZ)/.installed

PROTOS := $(wildcard proto/quorate/v1/*.proto)

.PHONY: help
help:
	@echo "make demo          a federation of three organisations on this machine, narrated"
	@echo "make test          the tests, but for those that take minutes"
	@echo "make test-long     those that take minutes"
	@echo "make lint          ruff, mypy, import-linter, buf"
	@echo "make proto         remakes the generated code of the wire contract"
	@echo "make verify-proto  fails when the generated code is not what the contract makes"
	@echo "make bench         the benchmarks, beside peers and ceilings (etcd if it is installed)"
	@echo "make soak          half an hour of kills under load: no loss, bounded memory and disk"
	@echo "make sim           simulated federations on all cores, held to every promise"
	@echo "make sim-mutants   rules broken on purpose, and which promise of the simulator sees each"
	@echo "make histories     random histories decided by the ledger and by a naive model, on all cores"
	@echo "make fuzz          every parser of outside bytes, a minute each, guided by coverage"
	@echo "make healing       nodes cut off and brought back, and how long each took to be in step"
	@echo "make sim-bare      the engine as it comes and ours, in the same simulated faults, as a table"
	@echo "make lock          remakes requirements.lock, and the one of fuzzing"
	@echo "make clean         removes .venv, .venv-fuzz and caches"

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Quorate needs python3 3.11 or newer."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: setup
setup: $(STAMP)

.PHONY: demo
demo: $(STAMP)
	@$(BIN)/quorate demo

.PHONY: test
test: $(STAMP)
ifdef PYTEST_ARGS
	$(BIN)/python -m pytest $(PYTEST_ARGS)
else
	$(BIN)/python -m pytest tests/e2e  # whole federations: one at a time
	# A test that does not end is shown with its stacks, and ends its worker: whoever catches
	# every exception (hypothesis does) would go on with it for ever.
	$(BIN)/python -m pytest --ignore=tests/e2e -n 2 --dist loadfile \
		--no-loadscope-reorder --timeout-method=thread --max-worker-restart=1
endif

.PHONY: test-long
test-long: $(STAMP)
	$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

.PHONY: lint
lint: $(STAMP) verify-proto
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd proto && ../$(BIN)/buf lint

.PHONY: format
format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

PROTOC = $(BIN)/python -m grpc_tools.protoc --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	--plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc -Iproto \
	--python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) $(PROTOS)

.PHONY: proto
proto: $(STAMP)
	$(call PROTOC,proto)

.PHONY: verify-proto
verify-proto: $(STAMP)
	@rm -rf $(VENV)/proto && mkdir -p $(VENV)/proto
	@$(call PROTOC,$(VENV)/proto)
	@diff -r --exclude='*.proto' --exclude='__init__.py' --exclude='__pycache__' --exclude=py.typed \
		$(VENV)/proto/quorate/v1 proto/quorate/v1 \
		|| { echo "The generated code is stale: run 'make proto'."; exit 1; }

.PHONY: bench
bench: $(STAMP)
	$(BIN)/python -m bench $(BENCH_ARGS)

.PHONY: soak
soak: $(STAMP)
	@$(BIN)/quorate chaos soak $(SOAK_ARGS)

.PHONY: sim
sim: $(STAMP)
	@$(BIN)/quorate chaos sim $(SIM_ARGS)

HISTORIES ?= 100000

.PHONY: histories
histories: $(STAMP)
	@$(BIN)/python -m tests.property.core.naive --histories $(HISTORIES) $(HISTORIES_ARGS)

# The fuzzer has an environment of its own: there is no build of it for every Python.
$(FUZZ_STAMP): requirements.lock tests/fuzz/requirements.lock pyproject.toml
	$(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		-r requirements.lock -r tests/fuzz/requirements.lock
	$(FUZZ)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: $(FUZZ_STAMP)
	@$(FUZZ)/bin/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(FUZZ_ARGS)

.PHONY: healing
healing: $(STAMP)
	$(BIN)/python -m pytest -s -m "" tests/e2e/test_healing.py tests/e2e/test_catching_up.py $(PYTEST_ARGS)

.PHONY: sim-bare
sim-bare: $(STAMP)
	@$(BIN)/python -m tests.simulation.bare_engine $(SIM_ARGS)

.PHONY: sim-mutants
sim-mutants: $(STAMP)
	@$(BIN)/python -m tests.simulation.mutants $(SIM_ARGS)

.PHONY: lock
lock:
	$(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/python -m pip install --quiet uv
	{ echo "# Every package of the development environment, pinned with its hashes."; \
	  echo "# Remade by 'make lock'."; \
	  $(VENV)/lock/bin/uv pip compile pyproject.toml --extra dev --generate-hashes \
	    --no-emit-index-url --no-header --python-version 3.11 --universal --quiet; } > requirements.lock.new
	mv requirements.lock.new requirements.lock
	{ echo "# What fuzzing needs in addition, pinned with its hashes."; \
	  echo "# Remade by 'make lock'."; \
	  $(VENV)/lock/bin/uv pip compile tests/fuzz/requirements.in --generate-hashes \
	    --no-emit-index-url --no-header --python-version 3.11 --universal --quiet; } \
	  > tests/fuzz/requirements.lock.new
	mv tests/fuzz/requirements.lock.new tests/fuzz/requirements.lock

.PHONY: clean
clean:
	rm -rf $(VENV) $(FUZZ) .fuzz .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
