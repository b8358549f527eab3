"""Which errors mean that Redis cannot take a command now, so that trying again later can help."""

from __future__ import annotations

import socket

import pytest
import redis.exceptions
from redis._parsers.base import BaseParser  # what turns a server's answer into an exception

from penstock.errors import ConfigurationError
from penstock.redis.connection import check_url, client, hide_password, unavailable

ANSWERS = {
    "OOM command not allowed when used memory > 'maxmemory'.": "out of memory",
    "OOM command not allowed when used memory > 'maxmemory'. script: on @user_script:1.": "out of memory",
    "LOADING Redis is loading the dataset in memory": "loading its data",
    "READONLY You can't write against a read only replica.": "a read-only replica",
    "MISCONF Errors writing to the AOF file: No space left on device": "cannot persist to disk",
    "NOREPLICAS Not enough good replicas to write.": "too few replicas",
    "MASTERDOWN Link with MASTER is down": "its primary is down",
    "CLUSTERDOWN The cluster is down": "the cluster is down",
    "TRYAGAIN Multiple keys request during rehashing of slot": "a slot is moving",
    "BUSY Redis is busy running a script.": "running a long script",
    "UNBLOCKED force unblock from blocking operation": "changing roles",
    "NOAUTH Authentication required.": "it asks for a password",
    "WRONGPASS invalid username-password pair": "wrong user name or password",
    "ERR max number of clients reached": "cannot connect",
}


def parsed(answer: str) -> redis.exceptions.RedisError:
    error: redis.exceptions.RedisError = BaseParser.parse_error(answer)  # type: ignore[no-untyped-call]
    return error


@pytest.mark.parametrize(("answer", "reason"), ANSWERS.items())
def test_what_a_server_answers_while_it_takes_no_writes_is_put_into_words(answer: str, reason: str) -> None:
    found = unavailable(parsed(answer))

    assert found is not None
    assert found.reason == reason
    assert str(found) == f"Redis is unavailable: {reason}"


DENIALS = {  # as Redis 7.0 and Valkey 9 word them
    "NOPERM this user has no permissions to run the 'xadd' command": "run xadd",
    "NOPERM User worker has no permissions to run the 'client|list' command": "run client|list",
    "NOPERM this user has no permissions to access one of the keys used as arguments": "use a key that is needed",
    "NOPERM No permissions to access a key": "use a key that is needed",
    "NOPERM No permissions to access a channel": "use a channel that is needed",
    "ERR The user executing the script can't run this command or subcommand script: 7a5a0f56, on @user_script:1.": (
        "run a command that is needed"
    ),
    "ERR The user executing the script can't access at least one of the keys mentioned in the command arguments "
    "script: 7a5a0f56, on @user_script:1.": "use a key that is needed",
    "ERR ACL failure in script: User worker has no permissions to run the 'xadd' command script: on @user_script:1.": (
        "run xadd"
    ),
    "ERR ACL failure in script: No permissions to access a key script: on @user_script:1.": "use a key that is needed",
}


@pytest.mark.parametrize(("answer", "what"), DENIALS.items())
def test_a_denial_names_the_user_and_the_right(answer: str, what: str) -> None:
    client("redis://worker:secret@localhost:1/0")  # this is who speaks
    try:
        found = unavailable(parsed(answer))
    finally:
        client("redis://localhost:1/0")

    assert found is not None
    assert found.reason == f"user worker may not {what}: give it that right with ACL SETUSER"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (redis.exceptions.TimeoutError("Timeout reading from socket"), "no reply in time"),
        (redis.exceptions.ConnectionError("Connection closed by server."), "cannot connect"),
        (ConnectionRefusedError(), "cannot connect"),
        (TimeoutError(), "cannot connect"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "cannot connect"),
    ],
)
def test_a_server_that_cannot_be_reached_is_unavailable(error: Exception, reason: str) -> None:
    found = unavailable(error)

    assert found is not None
    assert found.reason == reason


@pytest.mark.parametrize(
    "error",
    [
        *map(
            parsed,
            [
                "WRONGTYPE Operation against a key holding the wrong kind of value",
                "BUSYGROUP Consumer Group name already exists",
                "NOGROUP No such key 'ingest' or consumer group 'worker'",
                "NOSCRIPT No matching script.",
                "ERR unknown command 'OOM '",
                "ERR value OOM is not an integer or out of range",
            ],
        ),
        ValueError("OOM"),
        KeyError("x"),
        FileNotFoundError(2, "No such file or directory", "report.csv"),
        PermissionError(13, "Permission denied"),
        OSError(28, "No space left on device"),
    ],
    ids=str,
)
def test_what_waiting_cannot_mend_is_not(error: Exception) -> None:
    assert unavailable(error) is None


@pytest.mark.parametrize("url", ["redis://localhost:6379/0", "rediss://u:p@host/1", "unix:///run/redis.sock"])
def test_urls_of_the_known_forms_are_taken(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://host", "redis-sentinel://h", "/run/redis.sock"])
def test_other_urls_are_refused_with_the_forms_that_are_known(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"REDIS_URL: .* use redis://host:port/db"):
        check_url(url)


def test_a_password_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_url("http://user:hunter2@host")

    assert "hunter2" not in str(caught.value)
    assert hide_password("redis://:hunter2@host:1/0") == "redis://:***@host:1/0"
    assert hide_password("redis://host:1/0") == "redis://host:1/0"
