# make sweep ARCH=mamba    from a fresh clone to a finished sweep
# make test                from a fresh clone to the tests' result
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARCH ?= mamba
STORAGE ?= $(or $(BABYSWEEP_STORAGE),runs)
PORT ?= 5000

.PHONY: sweep test test-all test-gpu lint format ui speed-sweep speed-models clean-venv

sweep: $(VENV)/installed
	$(BIN)/python sweeps/lr_sweep.py --arch $(ARCH) $(ARGS)

test: $(VENV)/installed
	$(BIN)/python -m pytest $(ARGS)

test-all: $(VENV)/installed
	$(BIN)/python -m pytest -m "" $(ARGS)

test-gpu: $(VENV)/installed
	$(BIN)/python -m pytest -m gpu -rs -s tests/gpu $(ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy sweeps models trainables analysis

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: $(VENV)/installed
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
	$(BIN)/mlflow server --host 127.0.0.1 --port $(PORT) --workers 1 \
		--backend-store-uri sqlite:///$(abspath $(STORAGE))/mlflow.db \
		--artifacts-destination $(abspath $(STORAGE))/artifacts

speed-sweep: $(VENV)/installed
	$(BIN)/python tests/speed/sweep_overhead.py $(ARGS)

speed-models: $(VENV)/installed
	$(BIN)/python -m tests.speed.model_speed $(ARGS)

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 11) else "BabySweep needs Python 3.11 or newer, not %d.%d: make PYTHON=python3.11" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean-venv:
	rm -rf $(VENV)
