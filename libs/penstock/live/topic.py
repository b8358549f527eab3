"""What is asked for, who asks, and what of it they are told."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Mapping
from typing import Self

import msgspec

from penstock.event import Event
from penstock.jobs.record import Job
from penstock.jobs.watch import STATES
from penstock.web.problems import Problem

_MOST_TYPES = 20
_MOST_SAID = 200  # characters


class Viewer(msgspec.Struct, frozen=True, kw_only=True):
    """For whom a live stream is. They are told what is of their tenant: of None, if they have none.

    `all_tenants`: they are told of everybody's. `name` is for people.
    """

    name: str = ""
    tenant: str | None = None
    all_tenants: bool = False

    def may_see(self, tenant: str | None) -> bool:
        """Whether what is of a tenant is for them."""
        return self.all_tenants or tenant == self.tenant


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events, and whose progress, somebody is told: of one job, or all of some types about some subject.

    `tenant` None means those of no tenant, `source` None a job of whatever source.
    """

    job: str | None = None
    source: str | None = None
    tenant: str | None = None
    any_tenant: bool = False
    subject: str | None = None
    types: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it in words for people, not too many."""
        what = f"job {self.job}" if self.job is not None else ", ".join(self.types) or "everything"
        whose = f" of {self.tenant}" if self.tenant is not None else ""
        about = f" about {self.subject}" if self.subject is not None else ""
        return f"{what}{about}{whose}"[:_MOST_SAID]

    def takes(self, event: Event) -> bool:
        """Whether this is one of them."""
        if not self.any_tenant and event.tenant != self.tenant:
            return False
        if self.job is None:
            return self._wants(event.type, event.subject)
        return event.type in STATES and event.cause == self.job and self._is_source(event.causesource)

    def takes_progress(self, job_id: str, tenant: str | None, fields: Mapping[bytes, bytes]) -> bool:
        """Whether this is of one of them."""
        if not self.any_tenant and tenant != self.tenant:
            return False
        if self.job is None:
            return self._wants("progress", text(fields.get(b"subject")))
        return job_id == self.job and self._is_source(text(fields.get(b"source")))

    def _wants(self, event_type: str, subject: str | None) -> bool:
        return (self.subject is None or subject == self.subject) and (
            not self.types or _matcher(self.types).match(event_type) is not None
        )

    def _is_source(self, source: str | None) -> bool:
        return self.source is None or source in (None, self.source)


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to be told: of one job, or of all that there is of some types, about a subject."""

    job: str | None = None
    source: str | None = None
    subject: str | None = None
    types: tuple[str, ...] = ()
    tenant: str | None = None

    @classmethod
    def of_query(cls, query: Mapping[str, str]) -> Self:
        """Return what the parameters of an address ask for."""
        names = tuple(name for name in query.get("type", "").split(",") if name)
        return cls(subject=query.get("subject"), types=names, tenant=query.get("tenant"))

    def filtered(self, viewer: Viewer) -> Filter:
        """Return what a viewer is told, if it is of no job.

        Raises:
            Problem: 403 another tenant's, 400 too many types.
        """
        if self.tenant is not None and not viewer.may_see(self.tenant):
            whose = f"bound to tenant {viewer.tenant}" if viewer.tenant else "of no tenant"
            raise Problem(403, f"{viewer.name or 'whoever asks'} is {whose}")
        if len(self.types) > _MOST_TYPES:
            raise Problem(400, f"type: at most {_MOST_TYPES} of them")
        everything = viewer.all_tenants and self.tenant is None
        tenant = viewer.tenant if self.tenant is None else self.tenant
        return Filter(tenant=tenant, any_tenant=everything, subject=self.subject, types=self.types)

    def of_job(self, job: Job) -> Filter:
        """Return what is told of the job that it is about."""
        return Filter(job=self.job, source=self.source, tenant=job.tenant)


def text(value: bytes | None) -> str | None:
    """Return a field as text."""
    return None if value is None else value.decode(errors="replace")


@functools.lru_cache(maxsize=1_000)
def _matcher(types: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, types)))
