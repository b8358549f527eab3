"""The policy: whoever may have the engine run what he likes owns the host, so what may be asked for is listed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from penstock.config import convert
from penstock.errors import ConfigurationError
from penstock_services.containers.model import Declaration

_NEVER = {
    "privileged": "no container is privileged",
    "network": "containers share no namespace of the host, nor another's",
    "network_mode": "containers share no namespace of the host, nor another's",
    "pid": "containers share no namespace of the host, nor another's",
    "pid_mode": "containers share no namespace of the host, nor another's",
    "ipc": "containers share no namespace of the host, nor another's",
    "ipc_mode": "containers share no namespace of the host, nor another's",
    "userns_mode": "containers share no namespace of the host, nor another's",
    "devices": "no container gets a device",
    "cap_add": "capabilities are asked for under capabilities, and PENSTOCK_CONTAINERS_CAPABILITIES allows them",
    "security_opt": "what confines a container is not for its declaration to say",
    "binds": "directories are asked for under volumes, below the one that PENSTOCK_CONTAINERS_VOLUMES allows",
    "mounts": "directories are asked for under volumes, below the one that PENSTOCK_CONTAINERS_VOLUMES allows",
}
_MODE = re.compile(r":(ro|rw)$")


class ContainerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment says of the containers service."""

    engine: str | None = msgspec.field(name="PENSTOCK_CONTAINERS_ENGINE", default=None)
    images: str = msgspec.field(name="PENSTOCK_CONTAINERS_IMAGES", default="")
    capabilities: str = msgspec.field(name="PENSTOCK_CONTAINERS_CAPABILITIES", default="")
    addresses: str = msgspec.field(name="PENSTOCK_CONTAINERS_ADDRESSES", default="127.0.0.1")
    volumes: str | None = msgspec.field(name="PENSTOCK_CONTAINERS_VOLUMES", default=None)
    ports: str = msgspec.field(name="PENSTOCK_CONTAINERS_PORTS", default="20000-29999")

    def __post_init__(self) -> None:
        if not (self.port_range and self.port_range[0] >= 1024 and self.port_range[-1] <= 65_535):
            raise ValueError("PENSTOCK_CONTAINERS_PORTS: expected two ports from 1024 to 65535, such as 20000-29999")
        if self.volumes is not None and not Path(self.volumes).is_absolute():
            raise ValueError("PENSTOCK_CONTAINERS_VOLUMES: expected an absolute path of a directory")

    @property
    def port_range(self) -> range:
        """Ports of the host that containers may be given."""
        found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", self.ports)
        return range(int(found[1]), int(found[2]) + 1) if found else range(0)

    @property
    def directory(self) -> Path | None:
        """The directory below which containers may have volumes."""
        return Path(self.volumes) if self.volumes else None


def read(asked: Mapping[str, Any], settings: ContainerSettings) -> Declaration:
    """Return the declaration that a command asks for.

    Raises:
        ConfigurationError: a key is unknown or does not fit, or a rule is against it; the message names key and rule.
    """
    for key, why in _NEVER.items():
        if key in asked:
            raise ConfigurationError(f"service.apply: {key}: {why}")
    declared = convert(dict(asked), Declaration, "service.apply")
    if problems := [*_against_the_policy(declared, settings), *_against_itself(declared)]:
        raise ConfigurationError("\n".join(f"service.apply: {problem}" for problem in problems))
    return declared


def _against_the_policy(declared: Declaration, settings: ContainerSettings) -> list[str]:
    problems = []
    if not _begins_with_one_of(declared.image, settings.images.replace(",", " ").split()):
        problems.append(
            f"image: {declared.image} is none of those that PENSTOCK_CONTAINERS_IMAGES allows "
            f"({settings.images or 'it is empty'}); it lists how names of images may begin"
        )
    allowed = settings.capabilities.replace(",", " ").split()
    problems += [
        f"capabilities: {one} is not in PENSTOCK_CONTAINERS_CAPABILITIES"
        for one in declared.capabilities
        if one not in allowed
    ]
    addresses = settings.addresses.replace(",", " ").split()
    problems += [
        f"ports.{name}.address: {port.address} is not in PENSTOCK_CONTAINERS_ADDRESSES ({settings.addresses})"
        for name, port in declared.ports.items()
        if port.address not in addresses
    ]
    if declared.volumes and settings.volumes is None:
        problems.append("volumes: PENSTOCK_CONTAINERS_VOLUMES names no directory below which they may be")
    return problems


def _against_itself(declared: Declaration) -> list[str]:
    problems = []
    for path, place in declared.volumes.items():
        if not _MODE.sub("", place).startswith("/") or ":" in _MODE.sub("", place):
            problems.append(f"volumes: {path}: expected an absolute path in the container, got {place}")
    fixed = [name for name, port in declared.ports.items() if port.host is not None]
    if fixed and declared.replicas > 1:
        problems.append(f"ports.{fixed[0]}.host: {declared.replicas} replicas cannot have one port; leave host out")
    if fixed and declared.strategy == "rolling":
        problems.append(
            f"ports.{fixed[0]}.host: with `strategy: rolling` old and new run side by side and cannot have one port; "
            "leave host out, or take `recreate`"
        )
    taken: dict[object, str] = {}
    for name, port in declared.ports.items():
        other = taken.setdefault((port.container, port.protocol), name)
        if other != name:
            problems.append(f"ports.{name}.container: {other} is the same port")
    return problems


def _begins_with_one_of(image: str, prefixes: list[str]) -> bool:
    """Whether an image is one of those: any below a prefix that ends with a slash, else any version of that one."""
    return any(
        image == prefix or (image.startswith(prefix) and (prefix[-1] in "/:@" or image[len(prefix)] in ":@"))
        for prefix in prefixes
    )
