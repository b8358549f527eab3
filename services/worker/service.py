"""The worker service: handlers from everywhere, and one report for each of their outcomes."""

from __future__ import annotations

import functools

from penstock import Service
from penstock.service.loading import load_services
from penstock.settings import Settings
from services.worker import http_request, report, ticket


def build(settings: Settings) -> Service:
    """Return the worker with the jobs that ship and those named in PENSTOCK_JOBS.

    Raises:
        ConfigurationError: PENSTOCK_JOBS names something that cannot be imported or is no service.
    """
    service = Service("worker")
    for jobs in (ticket.jobs, http_request.jobs, *load_services(settings.jobs, variable="PENSTOCK_JOBS")):
        service.include(jobs)
    service.on_outcome(functools.partial(report.outcome, ttl=settings.job_ttl))
    if settings.job_started:
        service.on_start(report.started)
    return service
