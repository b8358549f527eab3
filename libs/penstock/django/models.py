"""The outbox: events that are committed with whatever they are about, until the relay has published them."""

from __future__ import annotations

from django.db import models

from penstock.jobs.identities import Identities


def fresh_id() -> str:
    """Return a new event id."""
    return Identities.fresh()


class OutboxEvent(models.Model):
    """One event; its row is deleted once Redis has it.

    `due` is in seconds since the epoch. `refused` says why it can never be published; the relay passes over it.
    """

    event_id = models.CharField(max_length=64, unique=True, default=fresh_id)
    stream = models.CharField(max_length=255, blank=True, default="")
    type = models.CharField(max_length=255)
    data = models.TextField()
    subject = models.TextField(null=True, blank=True)
    tenant = models.TextField(null=True, blank=True)
    extra = models.JSONField(default=dict, blank=True)
    due = models.FloatField(null=True, blank=True)
    traceparent = models.CharField(max_length=64, blank=True, default="")
    tracestate = models.TextField(blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    refused = models.TextField(blank=True, default="")

    class Meta:
        """Where it lies."""

        db_table = "penstock_outbox"
        verbose_name = "event in the outbox"
        verbose_name_plural = "events in the outbox"

    def __str__(self) -> str:
        return f"{self.type} {self.event_id}"
