"""A Django project with one model, and Penstock beside it; the tests say where Redis and the database are."""

from __future__ import annotations

import os

SECRET_KEY = "of no use to anybody"
USE_TZ = True
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["penstock.django", "tests.integration.django_shop"]
MIDDLEWARE = ["penstock.django.TraceMiddleware"]
ROOT_URLCONF = "tests.integration.django_shop.urls"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE", ":memory:"),
        "OPTIONS": {"timeout": 20},
    }
}
PENSTOCK = {"source": "shop-web"}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
