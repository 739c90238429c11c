# demo · test · slow · asan · verify · bench · lint: each sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test slow asan verify bench lint format clean
.DEFAULT_GOAL := demo

# torch first and exactly, so that pip never resolves another build of it.
$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (one to three minutes, about 3 GB) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, got " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[viz,solve,train,partition,cluster,dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/meshsim demo -o demo

test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

# What is marked slow: compilers, interrupts, several processes, every instruction set; ten minutes.
slow: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow

# The tests of the operators on a library that checks every access and every undefined operation,
# with each instruction set that the processor has, the widest on two threads too; half an hour.
# vptr checks want type information that torch hides; Python itself leaks; torch frees what it made.
SANITIZE := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all
asan: export MESHSIM_CACHE := $(CURDIR)/build/asan
asan: export MESHSIM_CXXFLAGS := $(SANITIZE)
asan: export ASAN_OPTIONS := detect_leaks=0:alloc_dealloc_mismatch=0:allocator_may_return_null=1
asan: export UBSAN_OPTIONS := print_stacktrace=1
asan: $(READY)
	@set -e; for name in asan ubsan stdc++; do \
	  libraries="$$libraries $$($${CXX:-g++} -print-file-name=lib$$name.so)"; done; \
	for run in portable.1 avx2.1 avx512.1 avx512.2 amx.1 amx.2; do \
	  export MESHSIM_ISA=$${run%.*} OMP_NUM_THREADS=$${run#*.}; \
	  found=$$(LD_PRELOAD="$$libraries" $(BIN)/python -c 'import meshsim.ops, meshsim.native as n; print(n.isa())'); \
	  test "$$found" = $$MESHSIM_ISA || continue; echo "== $$run"; \
	  LD_PRELOAD="$$libraries" $(BIN)/python -m pytest -n 0 -p no:cacheprovider --capture=sys tests/ops; \
	done

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

# Long; `make bench ONLY=blocks QUICK=1` for one, small.
bench: $(READY)
	@$(BIN)/python tests/benchmarks/run.py $(ONLY) $(if $(QUICK),--quick)

# Every CUDA kernel through nvcc, and every operator's tests on kernels emulated on the CPU.
cuda: $(READY)
	@MESHSIM_CUDA_TESTS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_cuda.py -n 2

clean:
	rm -rf $(VENV) demo demo_car
