"""`just audit [ARCHIVE]`: known vulnerabilities of what uv.lock pins.

With an archive of advisories it needs no network: the one that OSV publishes for PyPI (`all.zip`, see
https://google.github.io/osv.dev/data/), fetched whenever there is one. Without, `pip-audit` asks the package index.
The answer is never "none" for what was not looked at: exit 1 says that something is known, 3 that it could not be told.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).parent.parent
KNOWN, UNTOLD = 1, 3
_TOOL = "pip-audit>=2.10,<3"


class Pinned(NamedTuple):
    """A package as it is locked."""

    name: str
    version: str


class Untold(Exception):
    """It could not be told; the message says why."""


def pinned(lock: Path) -> list[Pinned]:
    """Return the packages of a lock file that come from an index; ours are not among them."""
    packages = tomllib.loads(lock.read_text())["package"]
    return [Pinned(one["name"], one["version"]) for one in packages if "registry" in one.get("source", {})]


def offline(packages: list[Pinned], archive: Path) -> list[str]:
    """Return what the advisories of an archive say of packages, a line each.

    Raises:
        Untold: the archive cannot be read, or holds no advisory.
    """
    try:
        advisories = list(_advisories(archive))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise Untold(f"{archive}: no archive of advisories ({error}); fetch OSV's all.zip for PyPI again") from None
    if not advisories:
        raise Untold(f"{archive}: holds no advisory; fetch OSV's all.zip for PyPI")
    wanted = defaultdict(list)
    for package in packages:
        wanted[canonicalize_name(package.name)].append(package)
    return sorted(
        {
            _line(package, advisory["id"], advisory.get("summary", ""), affected)
            for advisory in advisories
            if "withdrawn" not in advisory
            for affected in advisory.get("affected", ())
            if affected.get("package", {}).get("ecosystem") == "PyPI"
            for package in wanted.get(canonicalize_name(affected["package"]["name"]), ())
            if affects(affected, package.version)
        }
    )


def _advisories(archive: Path) -> Iterator[dict[str, Any]]:
    with zipfile.ZipFile(archive) as files:
        for name in files.namelist():
            if name.endswith(".json"):
                yield json.loads(files.read(name))


def affects(affected: Mapping[str, Any], version: str) -> bool:
    """Return whether a version is among those that an advisory is about.

    Source: https://ossf.github.io/osv-schema/, `affected[].versions` and `affected[].ranges[].events`.
    """
    if version in affected.get("versions", ()):
        return True
    return any(
        _within(one.get("events", ()), Version(version))
        for one in affected.get("ranges", ())
        if one.get("type") == "ECOSYSTEM"
    )


def _within(events: Any, version: Version) -> bool:
    inside = False
    for at, kind in sorted(_steps(events), key=lambda step: (step[0], step[1])):
        if at <= version and kind == "introduced":
            inside = True
        elif (kind == "fixed" and version >= at) or (kind == "last_affected" and version > at):
            inside = False
    return inside


def _steps(events: Any) -> Iterator[tuple[Version, str]]:
    for event in events:
        for kind, at in event.items():
            try:
                yield Version("0.dev0" if at == "0" else at), kind
            except InvalidVersion:
                continue


def _line(package: Pinned, advisory: str, summary: str, affected: Mapping[str, Any]) -> str:
    fixed = [
        event["fixed"] for one in affected.get("ranges", ()) for event in one.get("events", ()) if "fixed" in event
    ]
    mend = f"; fixed in {', '.join(fixed)}" if fixed else ""
    return f"{package.name} {package.version}: {advisory} {summary}{mend}"


def online(packages: list[Pinned]) -> list[str]:
    """Return what pip-audit says of packages, a line each.

    Raises:
        Untold: it could not ask, or the index knows nothing of some of them.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.writelines(f"{one.name}=={one.version}\n" for one in packages)
        listed.flush()
        command = ["uv", "tool", "run", "--from", _TOOL, "pip-audit", "--format", "json", "--progress-spinner", "off"]
        asked = subprocess.run(
            [*command, "--no-deps", "--disable-pip", "--requirement", listed.name],
            capture_output=True,
            text=True,
            check=False,
        )
    return told(asked.stdout, asked.stderr, len(packages))


def told(answer: str, complaint: str, count: int) -> list[str]:
    """Return what an answer of pip-audit about `count` packages says, a line each.

    Raises:
        Untold: it says nothing of some of them.
    """
    try:
        answers = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = complaint.strip().splitlines()[-1:] or ["it said nothing"]
        raise Untold(f"pip-audit could not ask: {last[0]}") from None
    found = [
        f"{one['name']} {one['version']}: {flaw['id']} {flaw.get('description', '').partition('.')[0]}"
        + (f"; fixed in {', '.join(flaw['fix_versions'])}" if flaw.get("fix_versions") else "")
        for one in answers
        for flaw in one.get("vulns", ())
    ]
    skipped = [one["name"] for one in answers if "skip_reason" in one]
    if found:
        return found
    if skipped or len(answers) < count:
        missing = skipped or ["some"]
        raise Untold(
            f"the index said nothing of {max(len(skipped), count - len(answers))} of {count} packages "
            f"({', '.join(missing[:3])} ...)"
        )
    return []


def main(arguments: list[str] | None = None) -> int:
    """Audit; return 0 if nothing is known, 1 if something is, 3 if it could not be told."""
    parser = argparse.ArgumentParser(prog="just audit", description=__doc__)
    parser.add_argument("archive", nargs="?", type=Path, help="OSV's all.zip for PyPI: then nothing is asked online")
    parser.add_argument("--lock", type=Path, default=ROOT / "uv.lock", help="the lock file (uv.lock)")
    given = parser.parse_args(arguments)
    packages = pinned(given.lock)
    try:
        found = offline(packages, given.archive) if given.archive else online(packages)
    except Untold as why:
        hint = "" if given.archive else "; give it an archive of advisories: just audit all.zip"
        print(f"NOT AUDITED: {why}{hint}", file=sys.stderr)
        return UNTOLD
    for line in found:
        print(line)
    flaws = f"{len(found)} known vulnerabilities" if found else "no known vulnerability"
    print(f"{flaws} in {len(packages)} packages of {given.lock.name}")
    return KNOWN if found else 0


if __name__ == "__main__":
    sys.exit(main())
