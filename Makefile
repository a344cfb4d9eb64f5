# Corolla: `make run` runs the main job, `make test` the tests; both make the environment first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
# Without bytecode every process of the tests compiles 700 files of ours again
unexport PYTHONDONTWRITEBYTECODE
# A process for each core, up to four: each needs about a GiB
PARALLEL ?= -n auto --maxprocesses=4 --dist=worksteal

# Real SuperLinks, SuperNodes and Rays: they have deadlines, and mostly wait, so more run at once than cores
PROCESSES := $(addprefix tests/,deployment/test_processes.py deployment/test_sites_port.py \
	deployment/test_500_faults.py \
	deployment/test_faults.py engines/test_ray_engine.py engines/test_ray_grid.py \
	engines/test_flwr_run.py engines/test_superlink_engine.py strategies/test_engines_agree.py)

.PHONY: install run test test-slow test-processes test-all lint docs bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

run: install
	$(BIN)/corolla run

# Every module and every method once, on the tiniest federations: about 5 minutes on 2 cores
test: install
	$(BIN)/pytest $(PARALLEL) -m "not slow"

# Every variant, experiment and cell of a grid. Nice: what runs beside it may have deadlines to keep.
test-slow: install
	nice $(BIN)/pytest $(PARALLEL) -m slow $(PROCESSES:%=--ignore=%)

# Sites and runs, with TLS and keys, are killed and go on
test-processes: install
	$(BIN)/pytest -n 3 --dist=worksteal $(PROCESSES)

test-all: test test-slow test-processes

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src strategies clients engines
	$(BIN)/mypy scripts/fleet_gate.py

# docs/ as a site, in build/site: open index.html
docs: install
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# ROOT: class folders of CIFAR-10, or of any 48,000 images of 32x32
bench: install
	$(BIN)/python -m benchmarks.policy
	$(BIN)/python -m benchmarks.simulation --root '$(ROOT)'

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
