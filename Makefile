# Two commands for newcomers: `make demo` and `make test`. Everything happens in .venv.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench faults clean

help:
	@echo "make demo   set up and run the whole job on the sample world, ending in demo/index.html"
	@echo "make test   set up and run the tests"
	@echo "make lint   ruff and mypy"
	@echo "make bench  seven benchmarks of speed (minutes to an hour; see benchmarks/README.md)"
	@echo "make faults kill, starve and feed it rubbish, seeded (half an hour; see docs/reliability.md)"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "nightaug needs Python 3.11 or newer; set PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

# The stamps keep a second call from asking the package index again.
$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,yolo,clip,export,ray]"
	@# ultralytics brings an OpenCV that needs a desktop's libraries, over the one we use: put ours back on top.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps --force-reinstall opencv-python-headless
	@touch $@

demo: $(VENV)/.core
	$(BIN)/nightaug demo --out demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/read_labels.py
	$(BIN)/python benchmarks/scenes_speed.py
	$(BIN)/python benchmarks/relight_speed.py
	$(BIN)/python benchmarks/translate_speed.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/evaluate_speed.py
	$(BIN)/python benchmarks/detector_step.py

faults: $(VENV)/.dev
	$(BIN)/python benchmarks/faults.py --seed 0 --out faults.json

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
