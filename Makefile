# Tasks of the repository; `make help` lists them. Needs Python >= 3.10, cargo and make.
#
# Everything is installed in .venv, by pip and cargo with the settings of whoever runs them. A step that ran leaves a
# stamp in .venv/.make and runs again only when what it was made from is newer. The package is installed editable, so
# Python edits need no build; Rust edits do, and `make build`, `test` and `demo` notice them.
#
# torch (tests only) comes from the first of these that works:
#   1. TORCH, if given: handed to pip word by word, as in  make test TORCH='torch==2.9.* --index-url URL'
#   2. what .venv already imports
#   3. the torch of $(PYTHON), borrowed: scripts/borrow_torch.py links torch and what it requires, and nothing else,
#      into .venv. (`venv --system-site-packages` would let everything installed there in, pytest plugins included,
#      and sees nothing when $(PYTHON) is itself a virtual environment.)
#   4. pip install torch

PYTHON ?= python3
TORCH  ?=
ARGS   ?=
# One process a core; the longest tests are in a handful of files, so whoever is idle takes from the others.
PARALLEL ?= -n auto --dist worksteal

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/.make
# The engines and samplers that `make test-engines` runs and `make bench` compares with, in an environment of their own.
ENGINES := .venv-engines
PIP    := $(BIN)/python -m pip
# An environment activated around us must not be the one that maturin installs into.
MATURIN := env -u CONDA_PREFIX VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin
# Crates that link Python are checked against .venv's.
CARGO_PY := PYO3_PYTHON=$(CURDIR)/$(BIN)/python cargo

RUST_SOURCES := Cargo.toml Cargo.lock $(shell find rust -name target -prune -o \( -name '*.rs' -o -name Cargo.toml \) -print)
EXTENSION    := $(wildcard python/optdecode/_core*.so)
RUST_MIN     := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

fails    = $(shell ($(1)) >/dev/null 2>&1 || echo yes)
check_py = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))'
check_rs = rustc --version | awk -v min=$(RUST_MIN) '{ split($$2, v, "."); split(min, m, "."); exit v[1] == m[1] && v[2] < m[2] }'

##@ Use

demo: $(STAMPS)/build ## decode a small language model with every decoder, print a table (ARGS='--help')
	$(BIN)/optdecode demo $(ARGS)

build: $(STAMPS)/build ## build the extension and install the package in .venv, editable

wheel: $(STAMPS)/venv ## build the sdist, and the wheel from it, into dist/
	@echo '==> building dist/ (release)'
	$(MATURIN) build --release --locked --sdist --interpreter $(BIN)/python --out dist

##@ Develop

setup: $(STAMPS)/build $(STAMPS)/test $(STAMPS)/torch $(STAMPS)/docs ## install all that the verbs below need

test: test-rust $(STAMPS)/build $(STAMPS)/test $(STAMPS)/torch ## run every fast test, Rust and Python (ARGS='-k name')
	@echo '==> testing Python'
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow and not statistical and not gpu and not engine' $(ARGS)

test-rust: | tools ## run the Rust tests
	@echo '==> testing Rust'
	cargo test --locked --quiet

test-neon: | tools tools-neon ## run the Rust tests that come to SIMD kernels on 64-bit Arm; elsewhere under qemu
	@echo '==> testing the NEON kernels, $(if $(arm_host),on this machine: it is 64-bit Arm$(comma) make test covers them too,under qemu)'
	$(NEON_CARGO) test --locked --quiet --package optdecode-core $(NEON_TESTS)

test-slow: $(STAMPS)/build $(STAMPS)/test $(STAMPS)/torch ## run the slow and the statistical tests
	@echo '==> testing Python, the slow and statistical tests'
	$(BIN)/python -m pytest $(PARALLEL) -m '(slow or statistical) and not gpu and not engine' $(ARGS)

test-levels: $(STAMPS)/build $(STAMPS)/test $(STAMPS)/torch ## run the tests of solvers and draws at every instruction set but the best, which make test covers
	@for level in $$($(BIN)/python -c 'from optdecode import _core; print(*_core.build_info()["levels"][:-1])'); do \
		echo "==> testing Python at $$level"; \
		OPTDECODE_FORCE_LEVEL=$$level $(BIN)/python -m pytest $(PARALLEL) -q -m 'not slow and not statistical and not gpu and not engine' \
			$(LEVEL_TESTS) $(ARGS) || exit; \
	done

lint: $(STAMPS)/test ## check format and lints, Rust and Python
	@echo '==> linting'
	cargo fmt --all --check
	$(CARGO_PY) clippy --workspace --all-targets --locked -- -D warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check

fmt: $(STAMPS)/test ## format, and fix what the lints can fix
	cargo fmt --all
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(STAMPS)/build $(STAMPS)/test ## check types: mypy --strict, and the extension against its stub
	@echo '==> checking types'
	$(BIN)/mypy --strict python/optdecode
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml optdecode._core

test-engines: $(STAMPS)/build $(ENGINES)/.made ## run the adapters in the real engines: vLLM, transformers, llama.cpp, ... (ARGS='-k name')
	@echo '==> testing in the engines'
	@$(ENGINES)/bin/python scripts/install_engines.py --strict
	OPTDECODE_TEST_ENGINES=1 PYTHONPATH=python $(ENGINES)/bin/python -m pytest -W default \
		tests/engines python/optdecode/integrations $(ARGS)

bench: $(STAMPS)/build $(ENGINES)/.made ## time the decoders beside other samplers (ARGS='--help')
	@echo '==> benchmarking'
	PYTHONPATH=python $(ENGINES)/bin/python -m benches $(ARGS)

docs: $(STAMPS)/build $(STAMPS)/docs ## build the documentation into docs/_build/html
	@echo '==> building the documentation'
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html
	@echo 'docs/_build/html/index.html'

clean: ## remove what was built (not .venv)
	rm -rf target dist docs/_build docs/_figures docs/generated python/optdecode/_core*.so $(STAMPS)/build
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis

help: ## print this
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "%s%s\n", sep, substr($$0, 5); sep = "\n" } \
		/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo build wheel setup test test-rust test-neon test-slow test-engines test-levels lint fmt types bench docs clean help tools tools-neon FORCE

# ---- steps, each with its stamp ----

tools:
	$(if $(call fails,$(check_py)),$(error $(PYTHON) is missing or older than 3.10: install Python 3.10 or newer, or name one with  make PYTHON=python3.12))
	$(if $(call fails,$(PYTHON) -c 'import venv$(comma) ensurepip'),$(error $(PYTHON) cannot make virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv)))
	$(if $(call fails,command -v cargo && command -v rustc),$(error cargo is missing: install Rust $(RUST_MIN) or newer, see https://rustup.rs))
	$(if $(call fails,$(check_rs)),$(error rustc is older than $(RUST_MIN): run  rustup update stable))
	$(if $(call fails,command -v cc),$(error a C linker (cc) is missing: install gcc or clang (Debian, Ubuntu: apt install build-essential; macOS: xcode-select --install)))

comma := ,

# All but what cannot depend on the instruction set: the command line, the embedded model, packaging, benchmarks.
LEVEL_TESTS := tests/oracle/test_certificate.py tests/oracle/test_best_of_k.py tests/parity/test_parity.py $(addprefix tests/unit/test_, \
	sample.py supports.py solution.py failures.py torch.py log_probs_in_place.py model_log_probs.py core_binding.py core_plain.py \
	mirror_tolerance.py)

# What cross compiles and runs the tests where rustc is not one for 64-bit Arm. The other tests of the core never come to a
# kernel, and take as long again.
NEON_TESTS  := --lib --test draws --test softmax_draws --test model --test golden
NEON_TARGET := aarch64-unknown-linux-gnu
NEON_ROOT   := /usr/aarch64-linux-gnu
NEON_APT    := (Debian, Ubuntu: apt install qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
NEON_CARGO   = $(if $(arm_host),cargo,CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER='qemu-aarch64 -L $(NEON_ROOT)' CARGO_BUILD_TARGET=$(NEON_TARGET) cargo)
arm_host     = $(shell rustc -vV | grep '^host: aarch64-')
has_target   = ls "$$(rustc --print target-libdir --target $(NEON_TARGET))"/libstd-*.rlib >/dev/null 2>&1

tools-neon: | tools
	$(if $(arm_host),,$(if $(call fails,command -v qemu-aarch64),$(error qemu-aarch64 is missing: install QEMU for programs of other machines, which Linux has $(NEON_APT))))
	$(if $(arm_host),,$(if $(call fails,command -v aarch64-linux-gnu-gcc),$(error aarch64-linux-gnu-gcc is missing: install the C compiler for 64-bit Arm, which links $(NEON_APT))))
	$(if $(arm_host),,$(if $(call fails,echo 'int main(void) { return 0; }' | aarch64-linux-gnu-gcc -x c -o /dev/null - && ls $(NEON_ROOT)/lib/ld-linux-aarch64.so.1),$(error the C library for 64-bit Arm is missing from $(NEON_ROOT): install it $(NEON_APT))))
	@$(if $(arm_host),:,$(has_target) \
		|| { echo '==> adding the standard library of Rust for $(NEON_TARGET)'; rustup target add $(NEON_TARGET) && $(has_target); } \
		|| { echo 'rustc has no standard library for $(NEON_TARGET): run  rustup target add $(NEON_TARGET)' >&2; exit 1; })

$(STAMPS)/venv: | tools
	@echo '==> creating $(VENV)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'pip>=25.1' 'maturin>=1.9.4,<2'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/build: pyproject.toml $(RUST_SOURCES) $(STAMPS)/venv $(if $(EXTENSION),,FORCE) | tools
	@echo '==> building the extension (release; minutes the first time) and installing what it and the demo need'
	$(MATURIN) develop --release --locked --extras demo
	@touch $@

$(STAMPS)/test: pyproject.toml $(STAMPS)/venv
	@echo '==> installing what the tests and lints need'
	$(PIP) install --quiet --group test
	@touch $@

$(STAMPS)/docs: pyproject.toml $(STAMPS)/venv
	@echo '==> installing what the documentation needs'
	$(PIP) install --quiet --group docs
	@touch $@

$(ENGINES)/.made: scripts/install_engines.py | tools
	@echo '==> installing the engines in $(ENGINES) (several GB, and a compilation of up to a quarter of an hour)'
	$(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/python scripts/install_engines.py
	@touch $@

# Made again when TORCH names another torch than the one installed.
export TORCH
ifneq ($(strip $(TORCH)),)
ifneq ($(strip $(TORCH)),$(strip $(shell cat $(STAMPS)/torch 2>/dev/null)))
TORCH_CHANGED := FORCE
endif
endif
check_torch := $(BIN)/python -c 'import numpy, torch; torch.from_numpy(numpy.zeros(2)).sum()'

$(STAMPS)/torch: $(STAMPS)/test $(TORCH_CHANGED)
	@set -f; \
	if [ -n "$$TORCH" ]; then \
		echo "==> installing torch, as asked: pip install $$TORCH"; $(PIP) install $$TORCH; \
	elif $(check_torch) 2>/dev/null; then \
		echo '==> torch: in $(VENV) already'; \
	elif $(PYTHON) scripts/borrow_torch.py $(VENV) && $(check_torch); then \
		echo '==> torch: borrowed from $(PYTHON)'; \
	else \
		$(PYTHON) scripts/borrow_torch.py --undo $(VENV); \
		echo "==> installing torch (on Linux the default is a CUDA build of several GB, which runs on a CPU too; make test TORCH='...' names another)"; \
		$(PIP) install torch; \
	fi
	@$(check_torch)
	@printf '%s\n' "$$TORCH" >$@
