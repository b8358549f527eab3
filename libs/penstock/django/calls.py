"""What views and models call."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from django.apps import apps
from django.db import transaction

from penstock.client.client import NewJob, delay_of
from penstock.errors import InvalidEvent
from penstock.event import encode, encode_data
from penstock.sync import Penstock
from penstock.telemetry.current import parent
from penstock.times import check_delay


def mesh() -> Penstock:
    """Return the client, which all threads share.

    Raises:
        ConfigurationError: the setting PENSTOCK, the environment or streams.yaml is wrong.
    """
    found: Penstock = apps.get_app_config("penstock").mesh
    return found


def submit_on_commit(
    type: str,  # noqa: A002 - the attribute's name
    data: Any = None,
    *,
    stream: str | None = None,
    subject: str | None = None,
    tenant: str | None = None,
    idempotency_key: str | None = None,
    delay: float | None = None,
    at: datetime | str | None = None,
    extra: Mapping[str, str] | None = None,
    using: str | None = None,
) -> None:
    """Submit a job as soon as the transaction is committed, and not at all if it is rolled back.

    It is submitted at most once: if Redis is away then, or the process dies between the commit and the submission,
    the job is lost (Django logs the error). `submit_in_transaction` loses none. `using` is the database; the rest is
    as for `penstock.Penstock.submit`.

    Raises:
        InvalidEvent: the data cannot be written as JSON, or another attribute is senseless.
    """
    text, _ = _checked(type, data, subject=subject, tenant=tenant, extra=extra, delay=delay, at=at)
    # The data is as it is now, whatever becomes of it until the commit.
    job = NewJob(type, msgspec.Raw(text.encode()), stream, subject, tenant, idempotency_key, delay, at, extra)
    context = contextvars.copy_context()

    def submit() -> None:
        context.run(mesh().submit_all, [job])

    transaction.on_commit(submit, using=using, robust=True)


def submit_in_transaction(
    type: str,  # noqa: A002 - the attribute's name
    data: Any = None,
    *,
    stream: str | None = None,
    subject: str | None = None,
    tenant: str | None = None,
    delay: float | None = None,
    at: datetime | str | None = None,
    extra: Mapping[str, str] | None = None,
    using: str | None = None,
) -> str:
    """Put an event into the outbox, as part of the transaction; return its id, which is the job's.

    `manage.py penstock_relay` publishes it once the transaction is committed, exactly once, whatever dies meanwhile.
    It goes to `stream`, which may carry facts, else where jobs go. `using` is the database; the rest is as for
    `penstock.Penstock.submit`.

    Raises:
        InvalidEvent: the data cannot be written as JSON, or another attribute is senseless.
    """
    from penstock.django.models import OutboxEvent  # noqa: PLC0415 - models are there once all apps are

    text, wait = _checked(type, data, subject=subject, tenant=tenant, extra=extra, delay=delay, at=at)
    above = parent()
    row = OutboxEvent(
        type=type,
        data=text,
        stream=stream or "",
        subject=subject,
        tenant=tenant,
        extra=dict(extra or {}),
        due=time.time() + wait if wait else None,
        traceparent=above.trace.traceparent if above else "",
        tracestate=(above and above.tracestate) or "",
    )
    row.save(using=using, force_insert=True)
    event_id: str = row.event_id
    return event_id


def _checked(
    type: str,  # noqa: A002 - the attribute's name
    data: Any,
    *,
    subject: str | None,
    tenant: str | None,
    extra: Mapping[str, str] | None,
    delay: float | None,
    at: datetime | str | None,
) -> tuple[str, float]:
    """Return the data as JSON, and the seconds to wait.

    What is senseless is told here, to whoever wrote it, and not once the transaction is committed.

    Raises:
        InvalidEvent: with what is wrong.
    """
    if not type:
        raise InvalidEvent("the event has no type")
    text = encode_data(data)
    encode(type, text, subject=subject, tenant=tenant, extra=extra)
    wait = delay_of(delay, at)
    try:
        check_delay("delay", wait)
    except ValueError as error:
        raise InvalidEvent(str(error)) from None
    return text, wait
