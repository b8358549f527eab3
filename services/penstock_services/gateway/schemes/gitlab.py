"""GitLab: https://docs.gitlab.com/user/project/integrations/webhooks/#validate-payloads-by-using-a-secret-token.

Its signing tokens are Standard Webhooks: use that scheme for them.
"""

from __future__ import annotations

from penstock_services.gateway.schemes.base import Plain, Signed, Verified, compare, header


class GitLab(Plain):
    """`X-Gitlab-Token` is the secret itself: whoever has it may say anything, the id in Idempotency-Key too."""

    def verify(self, request: Signed) -> Verified:
        """Verify the sender."""
        compare(self._key, header(request.headers, "X-Gitlab-Token"))
        delivery = request.headers.get("Idempotency-Key") or request.headers.get("X-Gitlab-Event-UUID")
        return Verified(key=delivery or None, delivery=delivery)

    def sign(self, body: bytes, now: float) -> Signed:
        """Return a push."""
        headers = {
            "X-Gitlab-Token": self._key.decode(),
            "X-Gitlab-Event": "Push Hook",
            "Idempotency-Key": f"trial-{round(now)}",
        }
        return Signed(headers=headers, body=body, now=now)
