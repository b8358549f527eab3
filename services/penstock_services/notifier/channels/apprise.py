"""The long tail: whatever the apprise library can reach (https://github.com/caronc/apprise), as an optional extra."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from typing import Any

from penstock_services.notifier.channels.base import Channel, Delivery, Receipt
from penstock_services.notifier.channels.credentials import url_secrets
from penstock_services.notifier.channels.wire import SendFailed, SendRefused

_KINDS = {"info": "info", "warning": "warning", "critical": "failure"}


class Apprise(Channel, frozen=True, kw_only=True, tag="apprise"):
    """Sends title and text through one apprise URL.

    apprise makes its own connections, so the addresses cannot be checked: such a channel has to be allowed
    private targets. It says only whether it worked: every failure may be tried again.
    """

    url: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if importlib.util.find_spec("apprise") is None:
            raise ValueError("the apprise library is not installed: pip install 'penstock[apprise]'")
        _service(self.url)

    @property
    def target(self) -> str:
        """The URL."""
        return self.url

    @property
    def secrets(self) -> tuple[str, ...]:
        """The URL and its parts."""
        return url_secrets(self.url)

    def payload(self, delivery: Delivery) -> dict[str, Any]:
        """Return what apprise is given."""
        kind = "success" if delivery.resolved else _KINDS[delivery.alert.severity]
        return {"title": delivery.message.title, "body": delivery.message.plain, "notify_type": kind}

    async def send(self, delivery: Delivery, *, allow_private: bool) -> Receipt:
        """Notify, without retries or redirects of apprise's own."""
        if not allow_private:
            raise SendRefused("apprise connects by itself, so the address cannot be checked")
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self.timeout):
                sent = await asyncio.to_thread(_notify, self.url, self.payload(delivery))
        except TimeoutError:
            raise SendFailed(f"no answer within {self.timeout:g} s", latency=self.timeout) from None
        except Exception as error:
            raise SendFailed(f"{type(error).__name__}: {error}", latency=time.perf_counter() - started) from error
        latency = time.perf_counter() - started
        if not sent:
            raise SendFailed("apprise could not deliver it; its log says why", latency=latency)
        return Receipt(answer="sent", latency=latency)


def _notify(url: str, payload: dict[str, Any]) -> bool:
    import apprise  # noqa: PLC0415 - as below

    hub = apprise.Apprise()
    hub.add(_service(url))
    return bool(hub.notify(**{**payload, "notify_type": apprise.NotifyType(payload["notify_type"])}))


def _service(url: str) -> Any:
    import apprise  # noqa: PLC0415 - an extra, and slow to import

    service = apprise.Apprise.instantiate(url, suppress_exceptions=True)
    if service is None:
        raise ValueError("apprise does not understand this URL; https://github.com/caronc/apprise/wiki lists the forms")
    service.retry = 0
    service.redirects = False
    return service
