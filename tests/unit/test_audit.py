"""The audit of what is locked: it finds what is known, and never says "none" of what it could not look at."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests import audit

LOCK = """
version = 1
[[package]]
name = "jinja2"
version = "{version}"
source = {{ registry = "https://index.example/simple" }}
[[package]]
name = "penstock"
version = "1.0"
source = {{ editable = "." }}
"""
# GHSA-h5c8-rqwp-cp95, as OSV has it, without its prose.
ADVISORY = {
    "id": "GHSA-h5c8-rqwp-cp95",
    "summary": "Jinja vulnerable to HTML attribute injection",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "Jinja2"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.1.3"}]}],
            "versions": [],
        }
    ],
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return written(tmp_path, ADVISORY)


def written(folder: Path, *advisories: dict[str, Any]) -> Path:
    path = folder / "all.zip"
    with zipfile.ZipFile(path, "w") as files:
        for advisory in advisories:
            files.writestr(f"{advisory['id']}.json", json.dumps(advisory))
    return path


def locked(folder: Path, version: str) -> list[str]:
    lock = folder / "uv.lock"
    lock.write_text(LOCK.format(version=version))
    return ["--lock", str(lock)]


def test_a_locked_version_with_a_known_flaw_is_named(
    tmp_path: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main([str(archive), *locked(tmp_path, "3.1.2")]) == audit.KNOWN
    said = capsys.readouterr().out
    assert "jinja2 3.1.2: GHSA-h5c8-rqwp-cp95 Jinja vulnerable to HTML attribute injection; fixed in 3.1.3" in said


@pytest.mark.parametrize("version", ["3.1.3", "3.1.10", "4.0"])
def test_a_version_that_mends_it_is_not(
    tmp_path: Path, archive: Path, version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main([str(archive), *locked(tmp_path, version)]) == 0
    assert "no known vulnerability in 1 packages" in capsys.readouterr().out


def test_what_was_withdrawn_is_not_held_against_it(tmp_path: Path) -> None:
    withdrawn = written(tmp_path, {**ADVISORY, "withdrawn": "2024-01-01T00:00:00Z"})
    assert audit.main([str(withdrawn), *locked(tmp_path, "3.1.2")]) == 0


@pytest.mark.parametrize(
    ("events", "version", "affected"),
    [
        ([{"introduced": "2.0"}, {"last_affected": "2.5"}], "2.5", True),
        ([{"introduced": "2.0"}, {"last_affected": "2.5"}], "2.5.1", False),
        ([{"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "2.0"}, {"fixed": "2.1"}], "1.5", False),
        ([{"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "2.0"}, {"fixed": "2.1"}], "2.0.5", True),
        ([{"introduced": "0"}], "0.0.1.dev3", True),
    ],
)
def test_ranges_are_read_as_their_schema_has_them(events: list[dict[str, str]], version: str, affected: bool) -> None:
    assert audit.affects({"ranges": [{"type": "ECOSYSTEM", "events": events}]}, version) is affected


@pytest.mark.parametrize("content", [b"", b"<html>", None])
def test_without_advisories_it_says_that_nothing_was_audited(
    tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "all.zip"
    if content is not None:
        path.write_bytes(content)
    assert audit.main([str(path), *locked(tmp_path, "3.1.2")]) == audit.UNTOLD
    assert "NOT AUDITED" in capsys.readouterr().err


def test_an_archive_of_another_ecosystem_is_no_all_clear(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = written(tmp_path, {"id": "GHSA-1", "affected": [{"package": {"ecosystem": "npm", "name": "jinja2"}}]})
    assert audit.main([str(other), *locked(tmp_path, "3.1.2")]) == audit.UNTOLD
    assert "holds no advisory of PyPI" in capsys.readouterr().err


def test_an_advisory_whose_bounds_cannot_be_read_is_no_all_clear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "next-release"}]}]
    affected = [{"package": {"ecosystem": "PyPI", "name": "jinja2"}, "ranges": ranges}]
    assert audit.main([str(written(tmp_path, {"id": "X-1", "affected": affected})), *locked(tmp_path, "3.1.2")]) == 3
    assert "jinja2 3.1.2: X-1 speaks of versions that are none" in capsys.readouterr().err


def test_a_package_that_comes_from_no_index_is_no_all_clear(
    tmp_path: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = locked(tmp_path, "4.0")
    with Path(arguments[1]).open("a") as lock:
        lock.write('[[package]]\nname = "own"\nversion = "1"\nsource = { git = "https://example.com/own" }\n')
    assert audit.main([str(archive), *arguments]) == audit.UNTOLD
    assert "own: it comes from no index (git)" in capsys.readouterr().err


def test_without_a_lock_file_nothing_is_audited(
    tmp_path: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main([str(archive), "--lock", str(tmp_path / "none")]) == audit.UNTOLD
    assert "no lock file of uv" in capsys.readouterr().err


LOCKED = [audit.Pinned("Jinja2", "3.1.2"), audit.Pinned("uvloop", "1.0")]


def test_what_an_index_knows_nothing_of_is_not_seen() -> None:
    flaw = {"id": "PYSEC-2024-1", "fix_versions": ["3.1.3"], "aliases": [], "description": "It injects. And more."}
    answers = [
        {"name": "jinja2", "version": "3.1.2", "vulns": [flaw]},
        {"name": "uvloop", "skip_reason": "Dependency not found"},
    ]
    found = audit.told(json.dumps({"dependencies": answers, "fixes": []}), "", LOCKED)
    assert found.known == ["jinja2 3.1.2: PYSEC-2024-1 It injects; fixed in 3.1.3"]
    assert found.unseen == ["uvloop 1.0: the index said nothing of it"]


def test_an_index_that_cannot_be_reached_is_no_all_clear() -> None:
    with pytest.raises(audit.Untold, match="could not ask: ConnectionError"):
        audit.told("", "WARNING: x\nConnectionError: no route", LOCKED)
