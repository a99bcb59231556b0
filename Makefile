# `make demo` and `make test` set up .venv by themselves.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DEMO := .venv/.demo
TORCH := torch==2.13.0
TRITON := triton==3.9.0

.PHONY: demo test lint nightly bench clean

demo: $(DEMO)
	$(BIN)/python examples/demo.py

test: $(STAMP) lint
	$(BIN)/python -m pytest -n 2

# the scenes lie in ../shared/data or XWALLOC_BENCH_DATA; without them Indian Pines, from tensorly, is measured
bench: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench,examples]'
	$(BIN)/python -m benchmarks.rate
	$(BIN)/python -m benchmarks.equal_snr
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.stages
	$(BIN)/python -m benchmarks.cost
	$(BIN)/python -m benchmarks.modes
	$(BIN)/python -m benchmarks.fitted
	$(BIN)/python -m benchmarks.examples

nightly: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m nightly

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# the demonstration needs neither test tools nor torch
$(DEMO): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo]'
	touch $(DEMO)

# torch is not needed to read or write: tests that compare with it are skipped where it cannot be had, as are those of
# kernels for GPUs, which triton interprets where there is none
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	$(BIN)/python -m pip install --quiet -c constraints.txt '$(TORCH)' || echo "torch is not available here: going on without"
	$(BIN)/python -m pip install --quiet -c constraints.txt '$(TRITON)' || echo "triton is not available here: going on without"
	touch $(STAMP)

clean:
	rm -rf .venv build dist demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
