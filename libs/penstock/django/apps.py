"""The application, as Django knows it."""

from __future__ import annotations

from functools import cached_property

from django.apps import AppConfig
from django.conf import settings

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
        return Penstock.connect(**{"source": "django", **getattr(settings, "PENSTOCK", {})})
