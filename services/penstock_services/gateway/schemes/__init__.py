"""Signature schemes by the name that streams.yaml gives them: to add one, write its file and name it here."""

from penstock_services.gateway.schemes.base import BadSignature, Scheme
from penstock_services.gateway.schemes.github import GitHub
from penstock_services.gateway.schemes.standard_webhooks import StandardWebhooks

SCHEMES: dict[str, type[Scheme]] = {
    "standard-webhooks": StandardWebhooks,
    "github": GitHub,
}

__all__ = ["SCHEMES", "BadSignature", "Scheme"]
