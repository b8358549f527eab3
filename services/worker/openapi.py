"""The HTTP routes of the worker, described."""

from __future__ import annotations

from typing import Final

from penstock.service.http_api import COMMON
from penstock.service.openapi import Api
from penstock.settings import Settings

API: Final = Api(
    service="worker",
    port=Settings().worker_port,
    about="Runs jobs. A service of your own answers the same on PENSTOCK_HEALTH_PORT.",
    operations=COMMON,
)
