"""The policy of the containers service: which images and which folders may be asked for."""

from __future__ import annotations

import pytest

from penstock.errors import ConfigurationError
from penstock_services.containers.policy import ContainerSettings, read


@pytest.mark.parametrize(
    ("prefixes", "image", "allowed"),
    [
        ("busybox", "busybox", True),
        ("busybox", "busybox:1.36", True),
        ("busybox", "busybox@sha256:00", True),
        ("busybox", "busybox-of-others", False),
        ("busybox", "busybox/of-others", False),
        ("ours/, busybox", "ours/web:1", True),
        ("ours/", "oursnot/web", False),
        ("ours/", "theirs/ours/web", False),
        ("", "busybox", False),
    ],
)
def test_an_image_is_allowed_by_how_its_name_begins(prefixes: str, image: str, allowed: bool) -> None:
    settings = ContainerSettings(images=prefixes)
    if allowed:
        assert read({"name": "web", "image": image}, settings).image == image
    else:
        with pytest.raises(ConfigurationError, match="PENSTOCK_CONTAINERS_IMAGES"):
            read({"name": "web", "image": image}, settings)


@pytest.mark.parametrize("folder", ["..", ".", "", "a/b", "../a", "/etc", "a/../.."])
def test_a_volume_is_one_folder_of_the_allowed_directory(folder: str) -> None:
    settings = ContainerSettings(images="busybox", volumes="/srv/volumes")
    asked = {"name": "web", "image": "busybox", "volumes": {"data": "/data"}}
    assert read(asked, settings).volumes == {"data": "/data"}
    with pytest.raises(ConfigurationError, match="volumes"):
        read({**asked, "volumes": {folder: "/data"}}, settings)
