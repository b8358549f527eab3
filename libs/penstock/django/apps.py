"""The application, as Django knows it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec
from django.apps import AppConfig
from django.conf import settings

from penstock.settings import Settings
from penstock.sync import Penstock


class PenstockConfig(AppConfig):
    """`penstock.django` in INSTALLED_APPS. Tables and migrations are those of `penstock`."""

    name = "penstock.django"
    label = "penstock"
    verbose_name = "Penstock"
    default_auto_field = "django.db.models.BigAutoField"

    @cached_property
    def mesh(self) -> Penstock:
        """The client, made as the setting PENSTOCK says; it opens with its first call.

        Raises:
            ConfigurationError: the setting, the environment or streams.yaml is wrong.
        """
        return Penstock.connect(**self._given)

    @cached_property
    def relay_mesh(self) -> Penstock:
        """The client of the relay: it has no spool, since the outbox is one, and its rows go only once Redis has them.

        Raises:
            ConfigurationError: as for `mesh`.
        """
        given = self._given
        own = given.get("settings") or Settings.from_env()
        return Penstock.connect(**{**given, "settings": msgspec.structs.replace(own, spool_dir=None)})

    @property
    def _given(self) -> dict[str, Any]:
        return {"source": "django", **getattr(settings, "PENSTOCK", {})}
