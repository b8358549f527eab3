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


class Answer(NamedTuple):
    """What is known, a line each, and what could not be looked at, with the reason."""

    known: list[str]
    unseen: list[str]


def pinned(lock: Path) -> tuple[list[Pinned], list[str]]:
    """Return the packages of a lock file that come from an index, and the others that are not our own.

    Raises:
        Untold: it cannot be read, or locks nothing.
    """
    try:
        packages = tomllib.loads(lock.read_text())["package"]
    except (OSError, ValueError, KeyError) as error:
        raise Untold(f"{lock}: no lock file of uv ({error})") from None
    indexed, others = [], []
    for one in packages:
        source = one.get("source", {})
        if "registry" in source:
            indexed.append(Pinned(one["name"], one["version"]))
        elif not source.keys() & {"editable", "virtual"}:
            others.append(f"{one['name']}: it comes from no index ({', '.join(source) or 'unknown'})")
    return indexed, others


def offline(packages: list[Pinned], archive: Path) -> Answer:
    """Return what the advisories of an archive say of packages.

    Raises:
        Untold: the archive cannot be read, or holds no advisory of PyPI.
    """
    try:
        advisories = list(_advisories(archive))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise Untold(f"{archive}: no archive of advisories ({error}); fetch OSV's all.zip for PyPI again") from None
    about = [
        (advisory, affected)
        for advisory in advisories
        for affected in advisory.get("affected", ())
        if affected.get("package", {}).get("ecosystem") == "PyPI"
    ]
    if not about:
        raise Untold(f"{archive}: holds no advisory of PyPI; fetch OSV's all.zip for it")
    wanted = defaultdict(list)
    for package in packages:
        wanted[canonicalize_name(package.name)].append(package)
    known, unseen = set(), set()
    for advisory, affected in about:
        for package in wanted.get(canonicalize_name(affected["package"]["name"]), ()):
            try:
                if "withdrawn" not in advisory and affects(affected, package.version):
                    known.add(_line(package, advisory["id"], advisory.get("summary", ""), affected))
            except InvalidVersion as error:
                unseen.add(
                    f"{package.name} {package.version}: {advisory['id']} speaks of versions that are none: {error}"
                )
    return Answer(sorted(known), sorted(unseen))


def _advisories(archive: Path) -> Iterator[dict[str, Any]]:
    with zipfile.ZipFile(archive) as files:
        for name in files.namelist():
            if name.endswith(".json"):
                yield json.loads(files.read(name))


def affects(affected: Mapping[str, Any], version: str) -> bool:
    """Return whether a version is among those that an advisory is about.

    Source: https://ossf.github.io/osv-schema/, `affected[].versions` and `affected[].ranges[].events`.

    Raises:
        InvalidVersion: a bound of a range, or the version itself, is none.
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
            yield Version("0.dev0" if at == "0" else at), kind


def _line(package: Pinned, advisory: str, summary: str, affected: Mapping[str, Any]) -> str:
    fixed = [
        event["fixed"] for one in affected.get("ranges", ()) for event in one.get("events", ()) if "fixed" in event
    ]
    mend = f"; fixed in {', '.join(fixed)}" if fixed else ""
    return f"{package.name} {package.version}: {advisory} {summary}{mend}"


def online(packages: list[Pinned]) -> Answer:
    """Return what pip-audit says of packages.

    Raises:
        Untold: it could not ask.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.writelines(f"{one.name}=={one.version}\n" for one in packages)
        listed.flush()
        command = ["uv", "tool", "run", "--from", _TOOL, "pip-audit", "--format", "json", "--progress-spinner", "off"]
        try:
            asked = subprocess.run(
                [*command, "--no-deps", "--disable-pip", "--requirement", listed.name],
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            raise Untold(f"uv, which runs pip-audit, cannot be run ({error})") from None
    return told(asked.stdout, asked.stderr, packages)


def told(answer: str, complaint: str, packages: list[Pinned]) -> Answer:
    """Return what an answer of pip-audit says of packages.

    Raises:
        Untold: it is none.
    """
    try:
        answers = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = complaint.strip().splitlines()[-1:] or ["it said nothing"]
        raise Untold(f"pip-audit could not ask: {last[0]}") from None
    known = [
        f"{one['name']} {one['version']}: {flaw['id']} {flaw.get('description', '').partition('.')[0]}"
        + (f"; fixed in {', '.join(flaw['fix_versions'])}" if flaw.get("fix_versions") else "")
        for one in answers
        for flaw in one.get("vulns", ())
    ]
    seen = {canonicalize_name(one["name"]) for one in answers if "skip_reason" not in one}
    unseen = [f"{one.name} {one.version}: the index said nothing of it" for one in packages]
    return Answer(
        known, [line for one, line in zip(packages, unseen, strict=True) if canonicalize_name(one.name) not in seen]
    )


def main(arguments: list[str] | None = None) -> int:
    """Audit; return 0 if nothing is known, 1 if something is, 3 if it could not be told of all."""
    parser = argparse.ArgumentParser(prog="just audit", description=__doc__)
    parser.add_argument("archive", nargs="?", type=Path, help="OSV's all.zip for PyPI: then nothing is asked online")
    parser.add_argument("--lock", type=Path, default=ROOT / "uv.lock", help="the lock file (uv.lock)")
    given = parser.parse_args(arguments)
    try:
        packages, others = pinned(given.lock)
        known, unseen = offline(packages, given.archive) if given.archive else online(packages)
    except Untold as why:
        print(f"NOT AUDITED: {why}", file=sys.stderr)
        return UNTOLD
    for line in known:
        print(line)
    unseen = [*others, *unseen]
    if unseen:
        more = f"; and {len(unseen) - 3} more" if len(unseen) > 3 else ""
        hint = "" if given.archive else "\nGive it an archive of advisories: just audit all.zip"
        print(f"NOT AUDITED: {'; '.join(unseen[:3])}{more}{hint}", file=sys.stderr)
    flaws = f"{len(known)} known vulnerabilities" if known else "no known vulnerability"
    print(f"{flaws} in {len(packages) + len(others) - len(unseen)} packages of {given.lock.name}")
    return KNOWN if known else UNTOLD if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
