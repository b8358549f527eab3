"""docs/operations.md describes every setting with its default, and every alert."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
import yaml

from penstock.settings import OtherNames, Settings
from penstock.topology import load
from penstock_services.notifier.config.environment import Environment
from tests.processes import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text()
ROW = re.compile(r"^\| ([A-Z][A-Z0-9_]+) \| (.*?) ?\| (.+) \|$", re.MULTILINE)
DOCUMENTED = {name: default for name, default, _ in ROW.findall(PAGE)}
FIELDS = {
    field.encode_name: field.default
    for kind in (Settings, OtherNames, Environment)
    for field in msgspec.structs.fields(kind)
}


def written(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_every_variable_is_there_once_and_no_other() -> None:
    secrets = {hook.secret for hook in load(ROOT / "streams.yaml").webhooks.values()}
    ours = [name for name, _, _ in ROW.findall(PAGE) if not name.startswith("OTEL_")]
    assert sorted(ours) == sorted({*FIELDS, *secrets})


@pytest.mark.parametrize("name", [name for name, default in FIELDS.items() if default not in (None, "")])
def test_the_default_is_the_one_that_holds(name: str) -> None:
    assert DOCUMENTED[name] == written(FIELDS[name])


def test_every_alert_of_the_rules_file_is_explained_and_no_other() -> None:
    alerts = PAGE.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    rules = yaml.safe_load((ROOT / "alerts.yaml").read_text())["rules"]
    assert re.findall(r"^### (\S+)$", alerts, re.MULTILINE) == list(rules)


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "docs" / "operations.md", ROOT / "deploy" / "README.md"):
        text = page.read_text()
        headings = {
            re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        }
        for target in re.findall(r"\]\(([^)]+)\)", text):
            file, _, anchor = target.partition("#")
            if not file:
                assert anchor in headings, f"{page.name}: #{anchor}"
            elif not file.startswith("http"):
                assert (page.parent / file).exists(), f"{page.name}: {file}"
