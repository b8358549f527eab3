"""TLS to a server: what went wrong, in words that say what to set.

With TLS 1.3 a server judges our certificate once the handshake is done for us. Its reason and the end of the connection
may overtake each other, so an end at that very moment is told as what it probably is.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Codes of X509_verify_cert (openssl/x509_vfy.h).
_EXPIRED = frozenset({9, 10})
_UNKNOWN_AUTHORITY = frozenset({18, 19, 20, 21})
_OTHER_NAME = frozenset({62, 64})
# Reasons of OpenSSL, with what they mean between a client and a Redis.
_REASONS = {
    "WRONG_VERSION_NUMBER": "the server speaks no TLS there: use redis://, or its TLS port",
    "RECORD_LAYER_FAILURE": "the server speaks no TLS there: use redis://, or its TLS port",
    "CERTIFICATE_REQUIRED": "the server asks for a client certificate: give ssl_certfile and ssl_keyfile in REDIS_URL",
    "UNKNOWN_CA": "the server does not accept our certificate: another authority has signed it",
    "BAD_CERTIFICATE": "the server does not accept our certificate",
    "CERTIFICATE_EXPIRED": "the server does not accept our certificate: it has expired",
}


_HUNG_UP = (
    "the server ends the connection right after the handshake: it probably asks for a client certificate, or does not "
    "accept ours (ssl_certfile and ssl_keyfile in REDIS_URL)"
)


class HungUp(Exception):
    """The server has ended a connection right after the TLS handshake, without a reason."""


async def greet(connection: Any) -> None:
    """Say the first words on a connection whose TLS handshake is done; it is what redis-py calls a connect function.

    Raises:
        redis.exceptions.RedisError: as redis-py does; caused by HungUp if that is all that came.
    """
    with _answering():
        await connection.on_connect()


def greet_blocking(connection: Any) -> None:
    """Say the first words on a connection of a thread, as `greet` does."""
    with _answering():
        connection.on_connect()


@contextmanager
def _answering() -> Iterator[None]:
    from redis.exceptions import ConnectionError  # noqa: A004, PLC0415 - see penstock.redis.connection

    try:
        yield
    except ConnectionError as error:
        # Its subclasses are answers, such as a wrong password.
        if type(error) is ConnectionError and not any(_known(cause) for cause in _causes(error)):
            raise ConnectionError(str(error)) from HungUp(_HUNG_UP)
        raise


def tls_problem(error: BaseException) -> str | None:
    """Return what is wrong with a TLS connection, if that is why there is none."""
    for cause in _causes(error):
        if isinstance(cause, HungUp):
            return f"TLS: {cause}"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS: {_unverified(cause)}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {_known(cause) or (cause.reason or '').replace('_', ' ').lower() or cause}"
    return None


def _known(error: BaseException) -> str | None:
    reason = (isinstance(error, ssl.SSLError) and error.reason) or ""
    return next((words for name, words in _REASONS.items() if name in reason), None)


def _unverified(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _OTHER_NAME:
        return "the server's certificate is for another name: use that one in REDIS_URL"
    if error.verify_code in _UNKNOWN_AUTHORITY:
        return "nobody we know has signed the server's certificate: give your authority's as ssl_ca_certs in REDIS_URL"
    if error.verify_code in _EXPIRED:
        return "the server's certificate is not valid now: has it expired, and are both clocks right?"
    return f"the server's certificate cannot be verified: {error.verify_message}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
