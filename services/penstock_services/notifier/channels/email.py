"""E-mail, through an SMTP server (RFC 5321): each recipient is a delivery of its own.

With one recipient in each transaction nobody's refusal concerns another, and nobody gets a message twice
because of somebody else. Codes 4yz are tried again, 5yz are final (RFC 5321, 4.2.1).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Literal

import aiosmtplib
import msgspec

from penstock.config import Duration
from penstock.net import AddressGuard, TargetRefused
from penstock.settings import Port
from penstock_services.notifier.channels.base import Channel, Delivery, Limit, Receipt
from penstock_services.notifier.channels.credentials import login_secrets
from penstock_services.notifier.channels.mail import Envelope, check_address, envelope, readable, write
from penstock_services.notifier.channels.wire import SendFailed, SendRefused

_QUIT = 2.0  # seconds for a farewell; the message is accepted by then


class Email(Channel, frozen=True, kw_only=True, tag="email"):
    """Sends one mail to each recipient. All messages about an alert form one thread.

    `tls` is how the connection is encrypted: `tls` from the start, `starttls` after the greeting, `none`, or
    `auto`: tls on port 465, else starttls, which a server may lack only if there is no password to protect.
    """

    give_up_after: Duration = Duration(12 * 3_600)  # greylisting takes hours at times
    host: str
    port: Port = 587
    username: str | None = None
    password: str | None = None
    sender: str = msgspec.field(name="from")
    to: tuple[str, ...]
    tls: Literal["auto", "starttls", "tls", "none"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.to:
            raise ValueError("to must name at least one address")
        for address in (self.sender, *self.to):
            check_address(address)
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together: set both or neither")

    @property
    def target(self) -> str:
        """Server and sender."""
        return f"{self.host}:{self.port}/{self.sender}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The password."""
        return login_secrets(self.username, self.password)

    @property
    def recipients(self) -> tuple[str | None, ...]:
        """The addresses, each once."""
        return tuple(dict.fromkeys(self.to))

    @property
    def usual_limits(self) -> tuple[Limit, ...]:
        """A rate no mail server minds."""
        return (Limit(self.scope, 10, 1.0),)

    def payload(self, delivery: Delivery) -> str:
        """Return the mail for people to look at: its headers and both of its parts, not encoded."""
        return readable(self._envelope(delivery))

    async def send(self, delivery: Delivery, *, allow_private: bool) -> Receipt:
        """Hand the mail to the server."""
        mail = self._envelope(delivery)
        started = time.perf_counter()
        try:
            code, said = await self._deliver(mail, AddressGuard(allow_private=allow_private))
        except Exception as error:
            failure = _failure(error, time.perf_counter() - started)
            if failure is None:
                raise
            raise failure from error
        latency = time.perf_counter() - started
        return Receipt(code=code, answer=said, latency=latency, reference=mail.reference)

    def _envelope(self, delivery: Delivery) -> Envelope:
        return envelope(delivery, sender=self.sender, to=self.to, recipient=delivery.recipient or self.to[0])

    async def _deliver(self, mail: Envelope, guard: AddressGuard) -> tuple[int, str]:
        client: aiosmtplib.SMTP | None = None
        try:
            async with asyncio.timeout(self.timeout):
                connected = await guard.connect(self.host, self.port)
                try:
                    client = self._client(connected)
                    await client.connect()
                except BaseException:  # such as a certificate that does not fit: then nobody has taken the socket
                    connected.close()
                    raise
                refused, said = await client.send_message(
                    write(mail), sender=mail.sender_address, recipients=[mail.recipient_address]
                )
            for code, why in refused.values():
                raise aiosmtplib.SMTPRecipientRefused(code, why, mail.recipient_address)
            with contextlib.suppress(aiosmtplib.SMTPException, TimeoutError):
                await client.quit(timeout=_QUIT)
            return 250, said
        finally:
            if client is not None:
                client.close()

    def _client(self, connected: Any) -> aiosmtplib.SMTP:
        direct = self.tls == "tls" or (self.tls == "auto" and self.port == 465)
        upgrade: bool | None = not (direct or self.tls == "none")
        if self.tls == "auto" and not direct and self.password is None:
            upgrade = None  # if the server offers it
        return aiosmtplib.SMTP(
            hostname=self.host,
            sock=connected,
            timeout=self.timeout,
            use_tls=direct,
            start_tls=upgrade,
            username=self.username,
            password=self.password,
        )


def _failure(error: Exception, latency: float) -> SendFailed | None:
    """Return what an error means for the delivery, None if it is none of SMTP or the network."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused) and error.recipients:
        error = error.recipients[0]
    if isinstance(error, aiosmtplib.SMTPResponseException):
        kind = SendRefused if error.code >= 500 else SendFailed
        return kind(f"{error.code} {error.message}", code=error.code, answer=error.message, latency=latency)
    if isinstance(error, TimeoutError):
        return SendFailed("the mail server did not answer in time", latency=latency)
    if isinstance(error, OSError) and not isinstance(error, TargetRefused):  # a certificate that does not fit is one
        return SendFailed(f"{type(error).__name__}: {error}", latency=latency)
    lacking = type(error) in (aiosmtplib.SMTPException, aiosmtplib.SMTPNotSupported)  # STARTTLS, AUTH, UTF-8
    if lacking or isinstance(error, TargetRefused | ValueError):
        return SendRefused(str(error), latency=latency)
    if isinstance(error, aiosmtplib.SMTPException):
        return SendFailed(f"{type(error).__name__}: {error}", latency=latency)
    return None
