"""What became of a job, as HTTP tells it."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.errors import AmbiguousEvent
from penstock.jobs.find import find_job
from penstock.jobs.record import Job
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis
from penstock.topology import Topology
from penstock.web.problems import Problem


async def asked_job(
    client: AsyncRedis, keys: Keys, topology: Topology, job_id: str, *, source: str | None, tenant: str | None
) -> Job:
    """Return what has become of a job; `tenant` None finds that of any.

    Raises:
        Problem: 404 nothing is known of it, 409 there are several of that id, and no source says which.
    """
    try:
        job = await find_job(client, keys, topology, job_id, source=source, tenant=tenant)
    except AmbiguousEvent as error:
        raise Problem(409, f"{error} with ?source=") from None
    if job is None:
        raise unknown_job()
    return job


def unknown_job() -> Problem:
    """Return the answer where there is no such job for the caller."""
    return Problem(404, "nothing is known of this job: it never was, or its record has expired")


def present(job_id: str, job: Job) -> dict[str, Any]:
    """Return a job as it is answered with."""
    return {"job_id": job_id, **msgspec.to_builtins(job)}
