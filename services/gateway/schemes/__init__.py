"""Signature schemes by the name that streams.yaml gives them: to add one, write its file and name it here."""

from services.gateway.schemes.base import BadSignature, Scheme
from services.gateway.schemes.github import GitHub
from services.gateway.schemes.standard_webhooks import StandardWebhooks

SCHEMES: dict[str, type[Scheme]] = {
    "standard-webhooks": StandardWebhooks,
    "github": GitHub,
}

__all__ = ["SCHEMES", "BadSignature", "Scheme"]
