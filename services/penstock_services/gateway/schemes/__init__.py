"""Signature schemes by the name that streams.yaml gives them: to add one, write its file and name it here."""

from penstock_services.gateway.schemes.base import BadSignature, Scheme, Signed, Verified
from penstock_services.gateway.schemes.github import GitHub
from penstock_services.gateway.schemes.gitlab import GitLab
from penstock_services.gateway.schemes.hmac_options import Hmac
from penstock_services.gateway.schemes.shopify import Shopify
from penstock_services.gateway.schemes.slack import SlackScheme
from penstock_services.gateway.schemes.standard_webhooks import StandardWebhooks, Svix
from penstock_services.gateway.schemes.stripe import Stripe
from penstock_services.gateway.schemes.token import Token
from penstock_services.gateway.schemes.twilio import Twilio

SCHEMES: dict[str, type[Scheme]] = {
    "standard-webhooks": StandardWebhooks,
    "svix": Svix,
    "github": GitHub,
    "stripe": Stripe,
    "slack": SlackScheme,
    "shopify": Shopify,
    "gitlab": GitLab,
    "twilio": Twilio,
    "hmac": Hmac,
    "token": Token,
}

__all__ = ["SCHEMES", "BadSignature", "Scheme", "Signed", "Verified"]
