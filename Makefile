# Everything runs in .venv, made on first use; the user's own Python stays as it is.
# Windows has the same without make: `python scripts/run_tests.py`, `python scripts/demo.py`.
PYTHON ?= python3

.PHONY: setup test demo lint validate clean

setup:
	$(PYTHON) scripts/setup_env.py dev

test:
	$(PYTHON) scripts/run_tests.py

demo:
	$(PYTHON) scripts/demo.py

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

validate:
	$(PYTHON) scripts/validate.py

clean:
	rm -rf .venv .venv.lock .venv-tools .venv-tools.lock *.egg-info build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
