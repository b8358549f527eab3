"""What the shop keeps."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """An order."""

    price = models.IntegerField()

    class Meta:
        """Whose it is."""

        app_label = "django_shop"
