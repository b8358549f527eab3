"""The worker service: handlers from everywhere, and one report for each of their outcomes."""

from __future__ import annotations

import functools

from penstock import Service
from penstock.service.importing import load_services
from penstock.service.runtime import Runtime
from penstock.settings import Settings
from penstock.topology import Topology
from penstock.web import server as http
from penstock_services.worker import demo, http_request, report, ticket


def build(settings: Settings, _: Topology) -> Service:
    """Return the worker with the jobs that ship and those named in PENSTOCK_JOBS.

    Raises:
        ConfigurationError: PENSTOCK_JOBS names something that cannot be imported or is no service.
    """
    service = Service("worker")
    for jobs in (
        ticket.jobs,
        http_request.jobs(settings),
        demo.jobs,
        *load_services(settings.jobs, variable="PENSTOCK_JOBS"),
    ):
        service.include(jobs)
    service.on_result(report.check_result)
    service.on_outcome(functools.partial(report.outcome, ttl=settings.job_ttl))
    if settings.job_started:
        service.on_start(report.started)
    service.task(_health)
    return service


async def _health(runtime: Runtime) -> None:
    """Serve /livez, /readyz and /metrics."""
    settings = runtime.settings
    await http.serve(runtime, [], host=settings.worker_host, port=settings.worker_port, variable="PENSTOCK_WORKER_PORT")
