# make sweep ARCH=mamba    from a fresh clone to a finished sweep
# make test                from a fresh clone to the tests' result
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TOOLS ?= .venv-tools
OLDER ?= .venv-older
ARCH ?= mamba
STORAGE ?= $(or $(BABYSWEEP_STORAGE),runs)
PORT ?= 5000
# On a machine without network, with a Python that has all packages: make test-gpu RUN=python3
RUN ?= $(BIN)/python
# Paths may have spaces, which names of targets escape. Folders reach the shell as variables.
SPACE := $(subst ,, )
INSTALLED := $(subst $(SPACE),\ ,$(VENV)/installed)
INSTALLED_TOOLS := $(subst $(SPACE),\ ,$(TOOLS)/installed)
INSTALLED_OLDER := $(subst $(SPACE),\ ,$(OLDER)/installed)
ifeq ($(RUN),$(BIN)/python)
READY := $(INSTALLED)
endif
export STORAGE
# A module's tests stay in one process, which shares what they prepare.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: sweep test test-all fuzz soak test-gpu agreement lint format ui check-statistics \
	speed-sweep speed-models speed-eval speed-distill speed-gpu clean-venv

sweep: $(INSTALLED)
	"$(BIN)/python" sweeps/lr_sweep.py --arch $(ARCH) $(ARGS)

test: $(INSTALLED)
	"$(BIN)/python" -m pytest $(SIDE_BY_SIDE) $(ARGS)

test-all: $(INSTALLED)
	"$(BIN)/python" -m pytest -m "" $(SIDE_BY_SIDE) $(ARGS)

fuzz: $(INSTALLED)
	"$(BIN)/python" -m pytest -m slow $(SIDE_BY_SIDE) tests/fuzz $(ARGS)

test-gpu: $(READY)
	TRITON_INTERPRET=0 "$(RUN)" -m pytest -m gpu -rs -s tests/gpu $(ARGS)

agreement: $(INSTALLED_TOOLS) $(INSTALLED_OLDER)
	BABYSWEEP_TOOLS_PYTHON="$$(cd "$(TOOLS)" && pwd)/bin/python" \
	BABYSWEEP_OLDER_PYTHON="$$(cd "$(OLDER)" && pwd)/bin/python" \
	"$(BIN)/python" -m pytest -m agreement -rs -s tests/agreement tests/speed $(ARGS)

lint: $(INSTALLED)
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy" sweeps models trainables analysis

format: $(INSTALLED)
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

# In the background Ctrl-C reaches it through the trap alone: it ends without tracebacks.
ui: $(INSTALLED)
	@storage=$$(cd "$$STORAGE" 2>/dev/null && pwd) || { echo "there is no folder '$$STORAGE': make ui STORAGE=..., that of a sweep"; exit 2; }; \
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
	"$(BIN)/mlflow" server --host 127.0.0.1 --port $(PORT) --workers 1 \
		--backend-store-uri "sqlite:///$$storage/mlflow.db" \
		--artifacts-destination "$$storage/artifacts" & \
	server=$$!; trap "kill $$server" INT TERM HUP; wait $$server || { status=$$?; wait; exit $$status; }

check-statistics: $(INSTALLED)
	"$(BIN)/python" -m tests.analysis.check_statistics $(ARGS)

soak: $(INSTALLED)
	"$(BIN)/python" -m tests.sweeps.soak $(ARGS)

speed-sweep: $(INSTALLED)
	"$(BIN)/python" tests/speed/sweep_overhead.py $(ARGS)

speed-models: $(INSTALLED)
	"$(BIN)/python" -m tests.speed.model_speed $(ARGS)

speed-distill: $(INSTALLED)
	"$(BIN)/python" -m tests.speed.distill_speed $(ARGS)

speed-gpu: $(READY)
	"$(RUN)" -m tests.speed.gpu_speed $(ARGS)

speed-eval: $(INSTALLED_TOOLS)
	BABYSWEEP_TOOLS_PYTHON="$$(cd "$(TOOLS)" && pwd)/bin/python" \
	"$(BIN)/python" -m tests.speed.eval_speed $(ARGS)

$(INSTALLED): pyproject.toml constraints.txt
	"$(PYTHON)" -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 11) else "BabySweep needs Python 3.11 or newer, not %d.%d: make PYTHON=python3.11" % v)'
	"$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch "$@"

# The public tools, on top of the project's packages: pip installs only what these lack, and none of
# it where the project itself would see it.
PURELIB := import sysconfig; print(sysconfig.get_path("purelib"))
$(INSTALLED_TOOLS): tests/agreement/requirements.txt $(INSTALLED)
	"$(BIN)/python" -m venv "$(TOOLS)"
	echo '*' > "$(TOOLS)/.gitignore"
	"$(BIN)/python" -c '$(PURELIB)' > "$$("$(TOOLS)/bin/python" -c '$(PURELIB)')/project.pth"
	"$(TOOLS)/bin/python" -m pip install --quiet --requirement tests/agreement/requirements.txt
	touch "$@"

# transformers as the BabyLM pipelines pin it.
$(INSTALLED_OLDER): tests/agreement/requirements-older.txt
	"$(PYTHON)" -m venv "$(OLDER)"
	echo '*' > "$(OLDER)/.gitignore"
	"$(OLDER)/bin/python" -m pip install --quiet --requirement tests/agreement/requirements-older.txt
	touch "$@"

clean-venv:
	rm -rf "$(VENV)" "$(TOOLS)" "$(OLDER)"
