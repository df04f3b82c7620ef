# make sweep ARCH=mamba    from a fresh clone to a finished sweep
# make test                from a fresh clone to the tests' result
PYTHON ?= python3
VENV ?= .venv
TOOLS ?= .venv-tools
OLDER ?= .venv-older
ARCH ?= mamba
STORAGE ?= $(or $(value BABYSWEEP_STORAGE),runs)
PORT ?= 5000
# On a machine without network, with a Python that has all packages: make test-gpu RUN=python3
RUN ?= $(VENV)/bin/python
# As they are given: make itself would take a $ in them for one of its variables.
as_given = $(if $(filter command environment,$(origin $1)),$(eval override $1 := $$(value $1)))
$(foreach name,PYTHON VENV TOOLS OLDER ARCH STORAGE PORT RUN ARGS,$(call as_given,$(name)))
export STORAGE
# Paths may have spaces, quotes and dashes: a word for the shell, and the name of a target.
quoted = '$(subst ','\'',$(if $(filter -%,$(firstword $1)),./)$1)'
SPACE := $(subst ,, )
target = $(subst $(SPACE),\ ,$(if $(filter -% ~%,$(firstword $1)),./)$1)
INSTALLED := $(call target,$(VENV)/installed)
INSTALLED_TOOLS := $(call target,$(TOOLS)/installed)
INSTALLED_OLDER := $(call target,$(OLDER)/installed)
BIN := $(VENV)/bin
ifeq ($(RUN),$(BIN)/python)
READY := $(INSTALLED)
endif
# A module's tests stay in one process, which shares what they prepare.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: sweep test test-all fuzz soak test-gpu agreement lint format ui check-statistics \
	speed-sweep speed-models speed-eval speed-distill speed-gpu clean-venv

sweep: $(INSTALLED)
	$(call quoted,$(BIN)/python) sweeps/lr_sweep.py --arch $(ARCH) $(ARGS)

test: $(INSTALLED)
	$(call quoted,$(BIN)/python) -m pytest $(SIDE_BY_SIDE) $(ARGS)

test-all: $(INSTALLED)
	$(call quoted,$(BIN)/python) -m pytest -m "" $(SIDE_BY_SIDE) $(ARGS)

fuzz: $(INSTALLED)
	$(call quoted,$(BIN)/python) -m pytest -m slow $(SIDE_BY_SIDE) tests/fuzz $(ARGS)

# What is compared with the CPU need not wait for the C++ kernels to be compiled there.
test-gpu: $(READY)
	TRITON_INTERPRET=0 BABYSWEEP_CPP=0 $(call quoted,$(RUN)) -m pytest -m gpu -rs -s tests/gpu $(ARGS)

agreement: $(INSTALLED_TOOLS) $(INSTALLED_OLDER)
	BABYSWEEP_TOOLS_PYTHON="$$(cd $(call quoted,$(TOOLS)) && pwd)/bin/python" \
	BABYSWEEP_OLDER_PYTHON="$$(cd $(call quoted,$(OLDER)) && pwd)/bin/python" \
	$(call quoted,$(BIN)/python) -m pytest -m agreement -rs -s tests/agreement tests/speed $(ARGS)

lint: $(INSTALLED)
	$(call quoted,$(BIN)/ruff) check .
	$(call quoted,$(BIN)/ruff) format --check .
	$(call quoted,$(BIN)/mypy) sweeps models trainables analysis

format: $(INSTALLED)
	$(call quoted,$(BIN)/ruff) check --fix .
	$(call quoted,$(BIN)/ruff) format .

# In the background Ctrl-C reaches it through the trap alone: it ends without tracebacks.
ui: $(INSTALLED)
	@case "$$STORAGE" in /*) place=$$STORAGE;; *) place=./$$STORAGE;; esac; \
	storage=$$(cd "$$place" 2>/dev/null && pwd) || { printf '%s\n' "there is no folder '$$STORAGE': make ui STORAGE=..., that of a sweep"; exit 2; }; \
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
	$(call quoted,$(BIN)/mlflow) server --host 127.0.0.1 --port $(PORT) --workers 1 \
		--backend-store-uri "sqlite:///$$storage/mlflow.db" \
		--artifacts-destination "$$storage/artifacts" & \
	server=$$!; trap "kill $$server" INT TERM HUP; wait $$server || { status=$$?; wait; exit $$status; }

check-statistics: $(INSTALLED)
	$(call quoted,$(BIN)/python) -m tests.analysis.check_statistics $(ARGS)

soak: $(INSTALLED)
	$(call quoted,$(BIN)/python) -m tests.sweeps.soak $(ARGS)

speed-sweep: $(INSTALLED)
	$(call quoted,$(BIN)/python) tests/speed/sweep_overhead.py $(ARGS)

speed-models: $(INSTALLED)
	$(call quoted,$(BIN)/python) -m tests.speed.model_speed $(ARGS)

speed-distill: $(INSTALLED)
	$(call quoted,$(BIN)/python) -m tests.speed.distill_speed $(ARGS)

speed-gpu: $(READY)
	$(call quoted,$(RUN)) -m tests.speed.gpu_speed $(ARGS)

speed-eval: $(INSTALLED_TOOLS)
	BABYSWEEP_TOOLS_PYTHON="$$(cd $(call quoted,$(TOOLS)) && pwd)/bin/python" \
	$(call quoted,$(BIN)/python) -m tests.speed.eval_speed $(ARGS)

$(subst %,\%,$(INSTALLED)): pyproject.toml constraints.txt
	$(call quoted,$(PYTHON)) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 11) else "BabySweep needs Python 3.11 or newer, not %d.%d: make PYTHON=python3.11" % v)'
	$(call quoted,$(PYTHON)) -m venv $(call quoted,$(VENV))
	$(call quoted,$(BIN)/python) -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $(call quoted,$@)

# The public tools, on top of the project's packages: pip installs only what these lack, and none of
# it where the project itself would see it.
PURELIB := import sysconfig; print(sysconfig.get_path("purelib"))
$(subst %,\%,$(INSTALLED_TOOLS)): tests/agreement/requirements.txt $(INSTALLED)
	$(call quoted,$(BIN)/python) -m venv $(call quoted,$(TOOLS))
	echo '*' > $(call quoted,$(TOOLS)/.gitignore)
	$(call quoted,$(BIN)/python) -c '$(PURELIB)' > "$$($(call quoted,$(TOOLS)/bin/python) -c '$(PURELIB)')/project.pth"
	$(call quoted,$(TOOLS)/bin/python) -m pip install --requirement tests/agreement/requirements.txt
	touch $(call quoted,$@)

# transformers as the BabyLM pipelines pin it.
$(subst %,\%,$(INSTALLED_OLDER)): tests/agreement/requirements-older.txt
	$(call quoted,$(PYTHON)) -m venv $(call quoted,$(OLDER))
	echo '*' > $(call quoted,$(OLDER)/.gitignore)
	$(call quoted,$(OLDER)/bin/python) -m pip install --requirement tests/agreement/requirements-older.txt
	touch $(call quoted,$@)

clean-venv:
	rm -rf $(call quoted,$(VENV)) $(call quoted,$(TOOLS)) $(call quoted,$(OLDER))
