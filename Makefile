# make demo    the demo on http://127.0.0.1:$(PORT)/, with a local Machines API, Redis and mailbox; Ctrl-C ends it
# make test    all tests, in parallel        make check   formatting, lint, types, direction of imports
#              make test T=tests/test_store.py runs one file, T="tests -k word" what has the word in its name
# make chaos   1,000 calls while everything goes wrong
# make soak    calls of every kind through a faulty wire, for SECONDS=120, by SEED
# make mutants small changes of the code that no test notices; fails if docs/mutants.md lacks one
# make bench   the performance goals         make setup   what the others need: .venv, a Redis server
# Needs Python >= 3.11, make and git. Everything else is installed into .venv, or (as root, on Debian) by apt.
PYTHON ?= python3
PORT ?= 8123
# More than cores: most tests wait, for machines that start. Each process has a local Fly and a Redis of its own.
PROCESSES ?= 6
BIN := .venv/bin
PYXY = $(shell $(BIN)/python -c 'import sys; print("python%d.%d" % sys.version_info[:2])')

# Debian packages, where that is allowed without a password; elsewhere what needs them says what is missing.
# RUNLEVEL=1: Debian would start Redis as a service on port 6379, which nobody asked for.
define apt_install
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	echo "installing $(1) (Debian)"; export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1; \
	apt-get update -qq && apt-get install -qq -y --no-install-recommends $(1) >/dev/null || true; fi;
endef

.PHONY: setup setup-redis setup-browser setup-cpython-tests demo test check chaos soak mutants mutants-python mutants-lua coverage bench clean

setup: .venv/ready setup-redis

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; v = "%d.%d" % sys.version_info[:2]; sys.version_info >= (3, 11) or sys.exit(f"flyexecutor needs Python 3.11 or newer, $(PYTHON) is {v}: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@

setup-redis: .venv/ready
	@command -v redis-server >/dev/null || command -v valkey-server >/dev/null || { $(call apt_install,redis-server) }
	@$(BIN)/python -m flyexecutor.local.redis

setup-browser:
	@command -v chromedriver >/dev/null || { $(call apt_install,chromium chromium-driver) }

demo: setup
	@exec $(BIN)/python -m demo --port $(PORT)

# CPython's own tests of concurrent.futures; some interpreters are shipped without.
setup-cpython-tests: .venv/ready
	@$(BIN)/python -c 'import test.test_concurrent_futures' 2>/dev/null || ls /usr/lib/$(PYXY)/test/test_concurrent_futures* >/dev/null 2>&1 || { $(call apt_install,lib$(PYXY)-testsuite) }

test: setup setup-browser setup-cpython-tests
	$(BIN)/pytest $(or $(T),--numprocesses=$(PROCESSES) --dist=worksteal)

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

chaos: setup
	$(BIN)/python -m tests.chaos

soak: setup
	$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),120) $(if $(SEED),--seed $(SEED))

mutants: mutants-python mutants-lua
	@echo "all that no test notices is in docs/mutants.md, with its reason"

# From scratch: what mutmut keeps of an earlier run does not know that a test has changed.
mutants-python: setup
	$(BIN)/pip install --quiet --editable '.[mutants]'
	rm -rf mutants
	$(BIN)/mutmut run
	$(BIN)/python -m tests.mutants_python

mutants-lua: setup
	$(BIN)/python -m tests.mutants_lua

coverage: setup setup-browser setup-cpython-tests
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage report --show-missing --skip-covered

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv mutants build dist *.egg-info .*_cache .import_linter_cache .coverage
