"""A Debian base image from Debian's packages, for engines that reach no registry."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

MIRROR = "http://deb.debian.org/debian"
_NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_INDEX_URL", "UV_DEFAULT_INDEX")
_BUNDLE = "opt/host/ca.pem"  # the certificates that this machine trusts
# As the published images have it: apt keeps no archives and no caches, dpkg installs no documentation.
_SLIM = {
    "etc/apt/apt.conf.d/docker-clean": (
        'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin"; };\n'
        'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
    ),
    "etc/dpkg/dpkg.cfg.d/docker": "".join(f"path-exclude /usr/share/{name}/*\n" for name in ("doc", "man", "locale")),
}
_USED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists")


@contextlib.contextmanager
def debian_archive(suite: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """Make a root file system as slim as the published image; yield its archive and the environment it needs.

    The environment is what this machine itself needs to reach package indexes: a proxy, certificates.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-debian-") as name:
        root = Path(name) / "root"
        _run("debootstrap", "--variant=minbase", suite, str(root), MIRROR)
        for path, lines in _SLIM.items():
            (root / path).write_text(lines)
        for path in _USED:
            shutil.rmtree(root / path)
            (root / path).mkdir()
        env = {name: os.environ[name] for name in _NETWORK if name in os.environ} | _trust(root)
        archive = Path(name) / "root.tar"
        _run("tar", "--directory", str(root), "--create", "--file", str(archive), ".")
        yield archive, env


def _trust(root: Path) -> dict[str, str]:
    """Bring the certificates along that this machine was told to trust."""
    bundle = os.environ.get("SSL_CERT_FILE")
    if not bundle:
        return {}
    (root / _BUNDLE).parent.mkdir(parents=True)
    shutil.copy(bundle, root / _BUNDLE)
    return dict.fromkeys(("SSL_CERT_FILE", "PIP_CERT"), f"/{_BUNDLE}")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
