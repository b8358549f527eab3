"""docs/frameworks.md: its programs run, and do what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import environment
from tests.hands import fields_of
from tests.integration.test_sync import MESH
from tests.processes import ROOT
from tests.servers import Server
from tests.uvicorns import serving

TEXT = (ROOT / "docs/frameworks.md").read_text()
FASTAPI, ASGI, FLASK, SETTINGS, VIEWS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
(RELAY,) = re.findall(r"```sh\nmanage.py (.*?)\n```", TEXT, re.DOTALL)
FLASK_USER = """
for price in (7, 8):
    answer = app.test_client().post("/orders", json={"price": price})
    assert answer.status_code == 202, answer
penstock_client = app.extensions["penstock"]
penstock_client.close()
"""
MODELS = """
from django.db import models

class Order(models.Model):
    price = models.IntegerField()
"""
URLS = """
from django.urls import path
from shop import views

urlpatterns = [path("place", views.place), path("show/<job>", views.show)]
"""
MORE_SETTINGS = """
SECRET_KEY = "none"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db"}}
"""
DJANGO_USER = """
import django
django.setup()
from django.core.management import call_command
from django.db import connection
from django.test import Client
from penstock.django import mesh

call_command("migrate", run_syncdb=True, verbosity=0)
job = Client().get("/place").json()["job"]
call_command(*relay)
assert Client().get(f"/show/{job}").json() == {"state": "queued"}
mesh().close()
connection.close()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "streams.yaml").write_text(MESH)
    return tmp_path


def run(code: str, folder: Path, server: Server, **env: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env=environment(REDIS_URL=server.url, **env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def published(raw: Any) -> list[tuple[str, Any]]:
    return [(entry["type"], json.loads(entry["data"])) for entry in fields_of(raw, "orders")]


def test_the_application_with_fastapi(server: Server, raw: Any, folder: Path) -> None:
    (folder / "web.py").write_text(FASTAPI)
    with serving("web:app", folder, folder / "log", REDIS_URL=server.url) as site:
        assert site.post("/orders", {"price": 7}).status == 202
        assert site.get("/api/v1/orchestrator/status").status == 403
        assert site.get("/api/v1/orchestrator/status", **{"X-Key": "secret"}).json["status"] == "critical"

    assert published(raw) == [("order.placed", {"price": 7})]


def test_the_application_without_a_framework(server: Server, raw: Any, folder: Path) -> None:
    (folder / "web.py").write_text(ASGI)
    with serving("web:app", folder, folder / "log", probe="/mesh/alerts", REDIS_URL=server.url) as site:
        assert site.post("/").status == 202
        assert site.get("/mesh/status").json["status"] == "critical"

    assert published(raw) == [("order.placed", {"price": 7})]


def test_the_application_with_flask(server: Server, raw: Any, folder: Path) -> None:
    run(FLASK + FLASK_USER, folder, server)

    assert published(raw) == [("order.placed", {"price": 7}), ("order.placed", {"price": 8})]


def test_the_application_with_django(server: Server, raw: Any, folder: Path) -> None:
    (folder / "shop").mkdir()
    files = {
        "settings.py": MORE_SETTINGS + SETTINGS,
        "urls.py": URLS,
        "shop/__init__.py": "",
        "shop/models.py": MODELS,
        "shop/views.py": VIEWS,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    relay = [RELAY.split()[0], *re.findall(r"--[a-z]+|(?<=--interval )\S+(?=,)|(?<=--database )\S+", RELAY)]
    assert relay == ["penstock_relay", "--once", "--interval", "0.5", "--database", "default"]
    run(
        f"relay = {relay}\n{DJANGO_USER}",
        folder,
        server,
        DJANGO_SETTINGS_MODULE="settings",
        PYTHONPATH=os.fspath(folder),
    )

    assert published(raw) == [("order.noticed", {"price": 7}), ("order.placed", {"price": 7})]
