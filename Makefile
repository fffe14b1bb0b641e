# Everything runs in .venv, made on first use; the user's own Python stays as it is.
# Windows without make: `python scripts/run_tests.py`, and for the demo
# `python scripts/setup_env.py demo`, then `.venv\Scripts\seppo demo`.
# `make test` is what one waits for; what is marked `thorough` waits for `make test-all` (`--all`).
# The long forms of the reliability tests: `python scripts/run_tests.py --long`.
PYTHON ?= python3

.PHONY: setup test test-all reliability demo benchmark-alignment lint validate audit clean

setup:
	$(PYTHON) scripts/setup_env.py dev

test:
	$(PYTHON) scripts/run_tests.py

test-all:
	$(PYTHON) scripts/run_tests.py --all

reliability:
	$(PYTHON) scripts/run_tests.py --long

demo:
	$(PYTHON) scripts/setup_env.py demo
	.venv/bin/seppo demo

# Four modes, two seeds, no claims. All of it, over hours, and on where it stopped: LONG=--long
benchmark-alignment:
	$(PYTHON) scripts/setup_env.py benchmark
	.venv/bin/python -m benchmarks.alignment $(LONG)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-cache

validate:
	$(PYTHON) scripts/validate.py

audit:
	$(PYTHON) scripts/audit.py

clean:
	rm -rf .venv .venv.lock .venv-tools .venv-tools.lock .venv-audit .venv-audit.lock *.egg-info build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
