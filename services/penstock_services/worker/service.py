"""The worker service: handlers from everywhere."""

from __future__ import annotations

from penstock import ConfigurationError, Service
from penstock.service.importing import load_services
from penstock.service.runtime import Runtime
from penstock.settings import Settings
from penstock.topology import Topology
from penstock.web import server as http
from penstock_services.worker import demo, http_request, ticket


def build(settings: Settings, _: Topology) -> Service:
    """Return the worker with the jobs that ship (PENSTOCK_SHIPPED_JOBS) and those named in PENSTOCK_JOBS.

    Raises:
        ConfigurationError: PENSTOCK_JOBS names something that cannot be imported or is no service, or two of them want
            the same events.
    """
    service = Service("worker")
    shipped = (ticket.jobs, http_request.jobs(settings), demo.jobs) if settings.shipped_jobs else ()
    for jobs in (*shipped, *load_services(settings.jobs, variable="PENSTOCK_JOBS")):
        service.include(jobs)
    try:
        service.handlers  # noqa: B018 - checks them, while it is known what ships
    except ConfigurationError as error:
        hint = "; PENSTOCK_SHIPPED_JOBS=false leaves out those that ship" if shipped else ""
        raise ConfigurationError(f"{error}{hint}") from None
    service.task(_health)
    return service


async def _health(runtime: Runtime) -> None:
    """Serve /livez, /readyz and /metrics."""
    settings = runtime.settings
    await http.serve(runtime, [], host=settings.worker_host, port=settings.worker_port, variable="PENSTOCK_WORKER_PORT")
