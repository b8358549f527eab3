"""TLS to Redis: it works, and what is wrong with it is said."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.redis.connection import blocking_client, client, unavailable
from tests.command_line import Cli
from tests.processes import DEADLINE
from tests.servers import BINARIES, Server, free_port, running_server


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def authority(folder: Path, name: str) -> None:
    openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name}")  # fmt: skip


def certificate(folder: Path, name: str, *, by: str, names: str, days: int = 2) -> None:
    (folder / f"{name}.ext").write_text(f"subjectAltName={names}\n")
    openssl(folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")  # fmt: skip
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{by}.crt", "-CAkey", f"{by}.key",
            "-CAcreateserial", "-days", str(days), "-out", f"{name}.crt", "-extfile", f"{name}.ext")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("openssl") or not BINARIES["redis-7"]:
        pytest.skip("needs openssl and redis-server")
    folder = tmp_path_factory.mktemp("tls")
    authority(folder, "ours")
    authority(folder, "theirs")
    certificate(folder, "server", by="ours", names="IP:127.0.0.1")
    certificate(folder, "expired", by="ours", names="IP:127.0.0.1", days=-1)
    certificate(folder, "client", by="ours", names="DNS:client")
    certificate(folder, "stranger", by="theirs", names="DNS:client")
    return folder


@pytest.fixture(scope="module")
def tls(folder: Path) -> Iterator[tuple[Server, int]]:
    """A server that speaks TLS on a port of its own, to clients that its authority has signed."""
    port = free_port()
    options: tuple[str, ...] = ("--tls-port", str(port), "--tls-cert-file", str(folder / "server.crt"))
    options += ("--tls-key-file", str(folder / "server.key"), "--tls-ca-cert-file", str(folder / "ours.crt"))
    with running_server("redis-7", *options) as server:
        yield server, port


def url(folder: Path, port: int, *, host: str = "127.0.0.1", ca: str = "ours", certificate: str = "client") -> str:
    own = f"&ssl_certfile={folder}/{certificate}.crt&ssl_keyfile={folder}/{certificate}.key" if certificate else ""
    return f"rediss://{host}:{port}/0?ssl_ca_certs={folder}/{ca}.crt{own}"


async def said(address: str) -> str:
    redis = client(address)
    try:
        await redis.ping()
    except Exception as error:
        found = unavailable(error)
        if found is None:
            raise
        return found.reason
    finally:
        await redis.aclose()
    return "PONG"


async def said_to_a_thread(address: str) -> str:
    redis = blocking_client(address, timeout=5.0)
    try:
        await asyncio.to_thread(redis.ping)
    except Exception as error:
        found = unavailable(error)
        if found is None:
            raise
        return found.reason
    finally:
        redis.close()
    return "PONG"


@contextlib.contextmanager
def hanging_up(folder: Path, *, reset: bool) -> Iterator[int]:
    """Listen as a server that ends every connection once its TLS handshake is done."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")

    def serve() -> None:
        with contextlib.suppress(OSError):  # the end of the test
            while True:
                connection = listening.accept()[0]
                if reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                context.wrap_socket(connection, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


async def test_a_server_with_its_own_authority_and_client_certificates_is_reached(
    folder: Path, tls: tuple[Server, int]
) -> None:
    assert await said(url(folder, tls[1])) == "PONG"


async def test_every_mistake_is_told_apart(folder: Path, tls: tuple[Server, int]) -> None:
    _, port = tls
    assert "ssl_ca_certs" in await said(f"rediss://127.0.0.1:{port}/0")
    assert "ssl_ca_certs" in await said(url(folder, port, ca="theirs"))
    assert "another name" in await said(url(folder, port, host="localhost"))
    # A server refuses our certificate after the handshake (TLS 1.3): its reason and its reset may overtake each other.
    for own, words in (
        ("", "the server asks for a client certificate"),
        ("stranger", "another authority has signed it"),
    ):
        address = url(folder, port, certificate=own)
        for ask in (said, said_to_a_thread):
            async with asyncio.timeout(DEADLINE):
                while words not in (reason := await ask(address)):
                    assert "certificate" in reason, "whoever reads only the first knows where to look"


@pytest.mark.parametrize("reset", [True, False])
async def test_an_end_right_after_the_handshake_is_told_as_what_it_probably_is(folder: Path, reset: bool) -> None:
    with hanging_up(folder, reset=reset) as port:
        assert "probably asks for a client certificate" in await said(url(folder, port))
        assert "probably asks for a client certificate" in await said_to_a_thread(url(folder, port))


async def test_an_answer_after_the_handshake_is_told_as_the_answer_it_is(folder: Path, tls: tuple[Server, int]) -> None:
    address = url(folder, tls[1]) + "&username=nobody&password=wrong"
    assert await said(address) == "wrong user name or password"
    assert await said_to_a_thread(address) == "wrong user name or password"


def test_a_command_tells_an_expired_certificate_another_name_and_an_unknown_authority(
    folder: Path, tls: tuple[Server, int], tmp_path: Path
) -> None:
    port = free_port()
    options: tuple[str, ...] = ("--tls-port", str(port), "--tls-cert-file", str(folder / "expired.crt"))
    options += ("--tls-key-file", str(folder / "expired.key"), "--tls-ca-cert-file", str(folder / "ours.crt"))
    with running_server("redis-7", *options):
        for address, words in (
            (url(folder, port), "has it expired"),
            (url(folder, tls[1], host="localhost"), "another name"),
            (url(folder, tls[1], ca="theirs"), "nobody we know has signed"),
        ):
            done = Cli(address, tmp_path)("status")
            assert (done.returncode, words in done.stderr) == (3, True), done.stderr
