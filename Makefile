# make demo    from nothing to a video: installs, builds the small `shapes` cascade, writes demo.mp4
# make cpp     builds the C++ runtime in build/cpp; with PREFIX=/usr/local it is installed there
# make device-ops   compiles what is computed between graphs on a GPU, with nvcc, into the package
# make test    installs the development tools and runs every test this machine can run
# make fuzz    feeds the C++ runtime what breaks parsers, a minute; gets clang from Debian if it is not here
# make lint    style, types and import rules; `make format` mends what can be mended
# make clean   removes what the other targets made; built cascades stay (make distclean removes .venv too)

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo cpp device-ops test fuzz lint format clean distclean

VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that is new enough and can make a virtual environment; `make PYTHON=… demo` picks another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 && echo $$p && break; done)
KERNELS := $(shell find kernels -path kernels/build -prune -o -type f -print)
PROMPT ?= a small red circle moving right
# Only files that git would keep, so a build folder is never linted. Empty outside a clone.
CXX_FILES = $(shell git ls-files -co --exclude-standard -- '*.cc' '*.cu' '*.cuh' '*.h' '*.hpp' 2>/dev/null)

help:
	@sed -n '/^# make/s/^# //p' Makefile

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python with venv found; Python 3.10 or newer is needed; install it or run make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp per set of extras: pip runs again only after pyproject.toml changed or .venv was remade.
$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[ort,export]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[ort,export,rtx,dev]'
	@touch $@ $(VENV)/.installed-demo

$(VENV)/.installed-cpp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[ort,cpp]'
	@touch $@

# Without a C++ compiler, or without the network for ONNX Runtime's headers, all works but slower.
$(VENV)/.installed-kernels: $(KERNELS) | $(BIN)/python
	@if command -v c++ g++ clang++ >/dev/null; then $(BIN)/python -m pip install --quiet ./kernels; else false; fi \
		|| echo "make: Edgereel's kernels were not built; graphs run on standard operators" >&2
	@touch $@

demo: $(VENV)/.installed-demo $(VENV)/.installed-kernels
	$(BIN)/python export/build.py shapes
	$(BIN)/edgereel generate engines/shapes -p "$(PROMPT)" -o demo.mp4
	@echo "The video is $(CURDIR)/demo.mp4"

cpp: $(VENV)/.installed-cpp
	$(BIN)/cmake -S runtime/cpp -B build/cpp -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja
	$(BIN)/cmake --build build/cpp
	$(if $(PREFIX),$(BIN)/cmake --install build/cpp --prefix $(PREFIX))

# The oldest PTX there is for the oldest GPUs, so that the driver of every one can compile it.
PTX = runtime/edgereel/backends/device_ops.ptx
device-ops:
	nvcc --ptx -arch=compute_75 --fmad=false -o $(PTX).part runtime/cpp/src/device_ops.cu
	sed -i -e '/^\/\//d' -e 's/^\.version .*/.version 6.4/' $(PTX).part
	mv $(PTX).part $(PTX)

test: $(VENV)/.installed-dev $(VENV)/.installed-kernels
	$(BIN)/python -m pytest -n auto --dist loadgroup --no-loadscope-reorder $(ARGS)

fuzz: $(VENV)/.installed-dev
	$(BIN)/python runtime/cpp/tools/fuzz.py $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	PYTHONPATH=runtime:export $(BIN)/lint-imports
	$(if $(CXX_FILES),$(BIN)/clang-format --dry-run --Werror $(CXX_FILES))

format: $(VENV)/.installed-dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	$(if $(CXX_FILES),$(BIN)/clang-format -i $(CXX_FILES))

clean:
	rm -rf build dist kernels/build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis demo.mp4
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) runtime/*.egg-info export/*.egg-info *.egg-info
