"""The table of the outbox."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations, models

from penstock.django.models import fresh_id


class Migration(migrations.Migration):
    """Creates it."""

    initial = True
    dependencies: ClassVar[list[Any]] = []
    operations: ClassVar[list[Any]] = [
        migrations.CreateModel(
            name="OutboxEvent",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("event_id", models.CharField(default=fresh_id, max_length=64, unique=True)),
                ("stream", models.CharField(blank=True, default="", max_length=255)),
                ("type", models.CharField(max_length=255)),
                ("data", models.TextField()),
                ("subject", models.TextField(blank=True, null=True)),
                ("tenant", models.TextField(blank=True, null=True)),
                ("extra", models.JSONField(blank=True, default=dict)),
                ("due", models.FloatField(blank=True, null=True)),
                ("traceparent", models.CharField(blank=True, default="", max_length=64)),
                ("tracestate", models.TextField(blank=True, default="")),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("refused", models.TextField(blank=True, default="")),
            ],
            options={
                "verbose_name": "event in the outbox",
                "verbose_name_plural": "events in the outbox",
                "db_table": "penstock_outbox",
            },
        ),
    ]
