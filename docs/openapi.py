"""Write the OpenAPI document of every HTTP route of the mesh: `just docs`.

Each service describes its own routes in a module `openapi`. They come together here, beside the code, since
services do not know each other. The gateway serves the file.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import msgspec

from penstock.web.openapi import document
from penstock_services.alerts.openapi import API as ALERTS
from penstock_services.gateway.openapi import API as GATEWAY
from penstock_services.metrics.openapi import API as METRICS
from penstock_services.notifier.openapi import API as NOTIFIER
from penstock_services.worker.openapi import API as WORKER

APIS = (GATEWAY, METRICS, ALERTS, NOTIFIER, WORKER)
FILE = Path(__file__).parents[1] / "services" / "penstock_services" / "gateway" / "openapi.json"
_ABOUT = (
    "Tags and servers say which service has a route; ports are the default ones. Where there is GET there is HEAD. "
    "Errors are problem details (RFC 9457)."
)


def text() -> str:
    """Return what belongs into the file."""
    described = document("Penstock", version("penstock"), _ABOUT, APIS)
    return msgspec.json.format(msgspec.json.encode(described)).decode() + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
