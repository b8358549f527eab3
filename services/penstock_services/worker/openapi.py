"""The HTTP routes of the worker, described."""

from __future__ import annotations

from typing import Final

from penstock.settings import Settings
from penstock.web.common import COMMON
from penstock.web.openapi import Api

API: Final = Api(
    service="worker",
    port=Settings().worker_port,
    about="Runs jobs. A service of your own answers the same on PENSTOCK_HEALTH_PORT.",
    operations=COMMON,
)
