"""The floors of the house: who may import whom.

This is the order of layers, the lowest first. A module imports from its own package and from packages of lower
floors; packages of one floor do not know each other. `penstock` itself is the front door: it is for users
and services, and nothing inside goes out to come in by it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

FLOORS = (
    # The ground: what an event, a key, a setting is. No Redis.
    {
        "config",
        "errors",
        "event",
        "extras",
        "keys",
        "matchers",
        "models",
        "net",
        "processes",
        "redaction",
        "retry",
        "schemas",
        "settings",
        "single_flight",
        "tasks",
        "text",
        "times",
    }
    | {"topology", "trace_context"},
    {"redis", "spool"},
    {"resilience", "streams", "telemetry"},
    {"dlq", "jobs", "metrics"},
    {"traces"},
    {"mesh", "service"},
    {"memory"},
    {"client"},
    {"sync", "web"},
    {"live"},
    {"asgi"},
    {"cli", "django", "fastapi", "flask", "testing"},
)
ROOT = Path(__file__).parents[2]

Sources = Mapping[str, str]


def sources() -> dict[str, str]:
    """Return every module of libs and services by its dotted name."""
    found = {}
    for base, folder in ((ROOT / "libs", "penstock"), (ROOT / "services", "penstock_services")):
        for path in (base / folder).rglob("*.py"):
            parts = path.relative_to(base).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def imports(tree: ast.AST, modules: Sources) -> Iterator[str]:
    """Yield the dotted names that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules else node.module


def floor_of(package: str) -> int | None:
    return next((floor for floor, packages in enumerate(FLOORS) if package in packages), None)


def violations(modules: Sources) -> list[str]:
    """Return a sentence for each import that breaks the rules."""
    broken = []
    for name, source in modules.items():
        for target in imports(ast.parse(source), modules):
            why = objection(name.split("."), target.split("."))
            if why:
                broken.append(f"{name} imports {target}: {why}")
    return broken


def objection(importer: list[str], target: list[str]) -> str | None:
    match importer, target:
        case ["penstock_services", mine, *_], ["penstock_services", *theirs]:
            return "services never import one another" if theirs[:1] != [mine] else None
        case ["penstock", *_], ["penstock_services", *_]:
            return "libs never import penstock_services"
        case ["penstock", package, *_], ["penstock", *inner] if package != "__main__":
            return floor_objection(package, inner[0]) if inner else "penstock itself is for users"
    return None


def floor_objection(importer: str, target: str) -> str | None:
    mine, theirs = floor_of(importer), floor_of(target)
    if mine is None or theirs is None:
        return "one of the two is on no floor: add it to FLOORS"
    neighbours = theirs == mine > 0 and importer != target
    return "imports run downwards only" if theirs > mine or neighbours else None


# The seam through which everything reaches a server is Lanes.
MAKERS = "penstock.redis.connection."
CLIENTS = {"redis.asyncio", "redis.Redis", f"{MAKERS}client", f"{MAKERS}blocking_client"}


def clients(modules: Sources) -> set[str]:
    """Return the modules beyond `penstock.redis` that make a client of their own."""
    found = set()
    for name, source in modules.items():
        if name.startswith("penstock.redis."):
            continue
        tree = ast.parse(source)
        named = {
            f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        named |= {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if any(f"{one}.".startswith(f"{maker}.") for one in named for maker in CLIENTS):
            found.add(name)
    return found


def cycle(modules: Sources) -> list[str]:
    """Return modules that need each other to be imported, or nothing."""
    graph = {
        name: {target for target in imports(at_import(ast.parse(source)), modules) if target in modules} - {name}
        for name, source in modules.items()
        if name != "penstock"
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def at_import(tree: ast.Module) -> ast.Module:
    """Return the statements that run when a module is imported, on its outermost level."""
    return ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])


def test_imports_run_downwards_only() -> None:
    assert violations(sources()) == []


def test_no_modules_need_each_other() -> None:
    assert cycle(sources()) == []


def test_one_seam_reaches_the_servers() -> None:
    assert clients(sources()) == set()


@pytest.mark.parametrize(
    "statement",
    [
        "import redis.asyncio",
        "from redis import asyncio",
        "from redis.asyncio import Redis",
        "from redis import Redis",
        "import redis\nredis.Redis.from_url('redis://')",
        "from penstock.redis.connection import client",
    ],
)
def test_a_client_beside_the_seam_is_found(statement: str) -> None:
    assert clients({"penstock.cli.emit": statement}) == {"penstock.cli.emit"}
    assert clients({"penstock.redis.lanes": statement}) == set()


def test_every_floor_is_inhabited() -> None:
    inhabited = {name.split(".")[1] for name in sources() if name.startswith("penstock.")} - {"__main__"}

    assert inhabited == set().union(*FLOORS)


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("penstock_services.worker.service", "from penstock_services.gateway import app"),
        ("penstock_services.worker.service", "import penstock_services.gateway.app"),
        ("penstock.jobs.find", "from penstock_services.worker import ticket"),
        ("penstock.event", "from penstock.redis.connection import client"),
        ("penstock.topology", "from penstock.service.app import Service"),
        ("penstock.streams.read", "from penstock.dlq.queue import DeadLetters"),
        ("penstock.telemetry.logs", "def f():\n    from penstock.service.context import Context"),
        ("penstock.dlq.queue", "from penstock import service"),
        ("penstock.service.app", "from penstock import Retry"),
        ("penstock.newcomer.thing", "from penstock.errors import Reject"),
    ],
)
def test_an_import_that_breaks_a_rule_is_found(importer: str, statement: str) -> None:
    assert violations({importer: statement, "penstock.service": ""})


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        (
            "penstock_services.worker.service",
            "from penstock_services.worker import ticket\nfrom penstock import Service",
        ),
        ("penstock.service.app", "from penstock.service.context import Context\nfrom penstock import event\nimport re"),
        ("penstock.cli.up.command", "from penstock.service.lifecycle import run"),
        ("penstock.event", "from penstock.errors import InvalidEvent"),
        ("penstock", "from penstock.service.app import Service"),
    ],
)
def test_an_import_that_keeps_the_rules_is_left_alone(importer: str, statement: str) -> None:
    assert violations({importer: statement, "penstock.event": ""}) == []


def test_a_cycle_is_found() -> None:
    one, other = "from penstock.b import x", "from penstock.a import y"

    assert set(cycle({"penstock.a": one, "penstock.b": other})) == {"penstock.a", "penstock.b"}
