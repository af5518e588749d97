# Two commands for a newcomer: `make demo` and `make test`. Each makes .venv first if it is not there.
# README lists the plain commands behind these for Windows.

PROMPT ?= a red mug
SEED   ?= 0
OUT    ?= demo
PRESET ?= draft

# Python 3.11 and 3.13 have Blender as a module; on any other the engine runs alone and says so.
PYTHON ?= $(shell command -v python3.11 || command -v python3.13 || command -v python3)
VENV   := .venv
RUN    := $(VENV)/bin/python

.PHONY: demo test test-blender-all test-gui lint bench clean setup zip repository

setup: $(VENV)/.ready

$(VENV)/.ready: requirements/engine.txt requirements/dev.txt
	@test -n "$(PYTHON)" || { echo "No python3 found. Install Python 3.11 (or 3.13), then run make again."; exit 1; }
	@test -x $(RUN) || "$(PYTHON)" -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@touch $@

demo: setup
	$(RUN) scripts/demo.py --prompt "$(PROMPT)" --seed $(SEED) --preset $(PRESET) --out "$(OUT)"

test: setup
	$(RUN) scripts/run_tests.py

# Blender 4.2, 4.5, 5.0 and 5.2, each as a module in an environment of its own (about 1 GB each, made when missing).
test-blender-all: setup
	$(RUN) scripts/test_blender_all.py

# A real Blender window on a virtual screen: this machine's, or one fetched from Debian's packages; says why where there is none.
test-gui: setup
	$(RUN) scripts/run_gui_tests.py

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: setup
	$(RUN) -m benchmarks.fields
	$(RUN) -m benchmarks.toybox
	$(RUN) -m benchmarks.main_job
	$(RUN) -m benchmarks.interface

zip: setup
	$(RUN) build_addon.py

repository: setup
	$(RUN) build_addon.py --repository dist/repository

clean:
	rm -rf $(VENV) dist demo scratch .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
