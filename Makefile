# demo · test · verify · bench · lint: each sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test verify bench lint format clean
.DEFAULT_GOAL := demo

# torch first and exactly, so that pip never resolves another build of it.
$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (one to three minutes, about 3 GB) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, got " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[viz,solve,train,dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/meshsim demo -o demo

test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY)
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

# Long proofs, hours in all; `make verify ONLY=dfg` runs one of tests/verify/*.py.
verify: $(READY)
	@set -e; for f in tests/verify/$(or $(ONLY),*).py; do echo "== $$f"; $(BIN)/python $$f; done

# About half an hour on two idle cores; `make bench ONLY=blocks QUICK=1` for one, small.
bench: $(READY)
	@$(BIN)/python tests/benchmarks/run.py $(ONLY) $(if $(QUICK),--quick)

clean:
	rm -rf $(VENV) demo
