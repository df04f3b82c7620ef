# make sweep ARCH=mamba    from a fresh clone to a finished sweep
# make test                from a fresh clone to the tests' result
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TOOLS ?= .venv-tools
ARCH ?= mamba
STORAGE ?= $(or $(BABYSWEEP_STORAGE),runs)
PORT ?= 5000
# On a machine without network, with a Python that has all packages: make test-gpu RUN=python3
RUN ?= $(BIN)/python
READY := $(if $(filter $(BIN)/python,$(RUN)),$(VENV)/installed)
# A module's tests stay in one process, which shares what they prepare.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: sweep test test-all fuzz test-gpu agreement lint format ui check-statistics \
	speed-sweep speed-models speed-eval speed-distill speed-gpu clean-venv

sweep: $(VENV)/installed
	$(BIN)/python sweeps/lr_sweep.py --arch $(ARCH) $(ARGS)

test: $(VENV)/installed
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

test-all: $(VENV)/installed
	$(BIN)/python -m pytest -m "" $(SIDE_BY_SIDE) $(ARGS)

fuzz: $(VENV)/installed
	$(BIN)/python -m pytest -m slow tests/fuzz $(ARGS)

test-gpu: $(READY)
	TRITON_INTERPRET=0 $(RUN) -m pytest -m gpu -rs -s tests/gpu $(ARGS)

agreement: $(TOOLS)/installed
	BABYSWEEP_TOOLS_PYTHON=$(abspath $(TOOLS))/bin/python \
	$(BIN)/python -m pytest -m agreement -rs -s tests/agreement tests/speed $(ARGS)

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

check-statistics: $(VENV)/installed
	$(BIN)/python -m tests.analysis.check_statistics $(ARGS)

speed-sweep: $(VENV)/installed
	$(BIN)/python tests/speed/sweep_overhead.py $(ARGS)

speed-models: $(VENV)/installed
	$(BIN)/python -m tests.speed.model_speed $(ARGS)

speed-distill: $(VENV)/installed
	$(BIN)/python -m tests.speed.distill_speed $(ARGS)

speed-gpu: $(READY)
	$(RUN) -m tests.speed.gpu_speed $(ARGS)

speed-eval: $(TOOLS)/installed
	BABYSWEEP_TOOLS_PYTHON=$(abspath $(TOOLS))/bin/python \
	$(BIN)/python -m tests.speed.eval_speed $(ARGS)

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 11) else "BabySweep needs Python 3.11 or newer, not %d.%d: make PYTHON=python3.11" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# The public tools, on top of the project's packages: pip installs only what these lack, and none of
# it where the project itself would see it.
PURELIB := import sysconfig; print(sysconfig.get_path("purelib"))
$(TOOLS)/installed: tests/agreement/requirements.txt $(VENV)/installed
	$(BIN)/python -m venv $(TOOLS)
	echo '*' > $(TOOLS)/.gitignore
	$(BIN)/python -c '$(PURELIB)' > "$$($(TOOLS)/bin/python -c '$(PURELIB)')/project.pth"
	$(TOOLS)/bin/python -m pip install --quiet --requirement tests/agreement/requirements.txt
	touch $@

clean-venv:
	rm -rf $(VENV) $(TOOLS)
