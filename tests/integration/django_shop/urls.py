"""Views that submit with a transaction, or after it."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from penstock.django import submit_in_transaction, submit_on_commit
from tests.integration.django_shop.models import Order


def place(request: HttpRequest) -> HttpResponse:
    """Take an order; the job goes with it."""
    price = int(request.GET["price"])
    with transaction.atomic():
        Order.objects.create(price=price)
        job = submit_in_transaction("order.placed", {"price": price}, subject=f"o-{price}", tenant="acme")
        if price < 0:
            raise ValueError("no such price")
    return JsonResponse({"job": job})


def after(request: HttpRequest) -> HttpResponse:
    """Take an order; the job comes after it."""
    data: dict[str, Any] = {"price": int(request.GET["price"])}
    with transaction.atomic():
        Order.objects.create(**data)
        submit_on_commit("order.placed", data)
        if data["price"] < 0:
            raise ValueError("no such price")
        data["price"] = "changed"
    return JsonResponse({})


urlpatterns = [path("place", place), path("after", after)]
