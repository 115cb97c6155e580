# make run   start the service on this machine        make check  static gates, seconds
# make test  the whole suite against real servers     make lock   pin every version with hashes
# make coverage  how much of the code the suite runs    make image-test  the container image
# make bench  figures against references, in minutes: BENCH="--quick --check"
# make checkov  the manifests and the Dockerfile as a security scanner sees them; needs kubectl
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PEERS := $(wildcard requirements/peers/*.in)
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11

.PHONY: setup run check test coverage image-test checkov bench lock clean
setup: .venv/installed

.venv/installed: requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

run: setup
	DATABASE_URL=$${DATABASE_URL:-sqlite:///mingus.sqlite3} $(BIN)/python -m service serve

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/codespell

test: setup
	$(BIN)/python scripts/test_servers.py
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --max-worker-restart 0 --durations 20

coverage: setup
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

image-test: setup
	$(BIN)/python scripts/image_test.py

checkov: .checkov/installed
	.checkov/bin/checkov --directory k8s --framework kustomize --compact --quiet --skip-download
	.checkov/bin/checkov --file Dockerfile --framework dockerfile --compact --quiet --skip-download

.checkov/installed: requirements/checkov.txt
	$(PYTHON) -m venv .checkov
	.checkov/bin/pip install --quiet --require-hashes -r requirements/checkov.txt
	touch $@

bench: .venv/bench
	$(BIN)/python -m bench $(BENCH)

.venv/bench: .venv/installed requirements/bench.txt
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/bench.txt
	touch $@

lock: setup
	$(COMPILE) --extra embedded -o requirements/base.txt pyproject.toml
	$(COMPILE) --extra embedded --group dev -o requirements/dev.txt pyproject.toml
	$(COMPILE) --group bench -c requirements/dev.txt -o requirements/bench.txt
	$(COMPILE) -o requirements/checkov.txt requirements/checkov.in
	for peer in $(PEERS:.in=); do $(COMPILE) -c requirements/base.txt -o $$peer.txt $$peer.in; done

clean:
	rm -rf .venv .bench .checkov .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
