# Warpline's commands. `make demo` and `make test` set up all they need on a Debian 12 machine (root, or sudo).
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_SECONDS ?= 0
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

help: ## say what each command does
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

setup: ## install what Warpline needs: apt packages, a virtual environment from the lock file, the C parts
	@SUDO="$(SUDO)" PYTHON="$(PYTHON)" VENV="$(VENV)" ./setup.sh

demo: setup ## run the whole of Warpline on this machine (DEMO_SECONDS=20 ends by itself)
	@$(SUDO) $(BIN)/warpline demo --seconds $(DEMO_SECONDS)

test: setup ## run every test
	@$(SUDO) $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: ## format, lint, types, import rules and the quick tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m "not (needs_bpf or browser or faults or slow)" -x

bench: setup ## measure what we promise (ONLY=ingest runs one group)
	@$(SUDO) $(BIN)/python -m bench $(ONLY)

vllm: ## install vLLM's scheduler beside, in .venv-vllm: it makes the recordings of `make bench ONLY=accuracy` anew
	@[ -x .venv-vllm/bin/python ] || $(PYTHON) -m venv .venv-vllm
	@.venv-vllm/bin/pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements-vllm.lock

images: setup ## build the three container images with buildah (root)
	@$(SUDO) deploy/images/build.sh

lock: ## choose versions anew: writes requirements.lock from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate --upgrade -q -o requirements.lock

golden: ## write the golden rows and generated pages anew; read the diff
	$(BIN)/python -m tests.golden

.PHONY: help setup demo test check bench images lock golden vllm
