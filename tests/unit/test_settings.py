"""Settings: environment variables in, one frozen struct out, and a sentence for whatever does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest

from penstock.config import read_secret
from penstock.errors import ConfigurationError
from penstock.settings import Settings, redis_url, unknown_variables

FIELDS = {field.encode_name: field for field in msgspec.structs.fields(Settings)}
# What deployments that exist count on.
FIXED = {
    "REDIS_URL": None,
    "TASK_CHECKPOINT_ENABLED": True,
    "TASK_CHECKPOINT_TTL": 604_800,
    "DLQ_ENABLED": True,
    "DLQ_RETENTION_DAYS": 30,
    "DLQ_MAX_ENTRIES": 10_000,
    "CIRCUIT_BREAKER_FAILURE_THRESHOLD": 5,
    "CIRCUIT_BREAKER_FAILURE_WINDOW": 60,
    "CIRCUIT_BREAKER_RECOVERY_TIMEOUT": 60,
    "CIRCUIT_BREAKER_HALF_OPEN_MAX_CALLS": 3,
    "PENSTOCK_GATEWAY_HOST": "127.0.0.1",
    "PENSTOCK_GATEWAY_PORT": 8080,
    "PENSTOCK_REDIS_PORT": 6379,
}


def sample(variable: str) -> tuple[str, Any]:
    """Return a value other than the default that the variable may have, as written and as read."""
    field = FIELDS[variable]
    if get_origin(field.type) is Literal:
        other = next(choice for choice in get_args(field.type) if choice != field.default)
        return other, other
    if bool in {field.type, *get_args(field.type)}:
        return str(not field.default).lower(), not field.default
    if isinstance(field.default, float) and 0 < field.default < 1:  # a share
        return "0.25", 0.25
    if isinstance(field.default, int | float) or variable == "TASK_QUEUE_WORKERS":
        return "17", 17
    if variable == "PENSTOCK_ALLOWED_TARGETS":
        return "10.1.0.0/16", "10.1.0.0/16"
    return "text", "text"


@pytest.mark.parametrize("variable", FIELDS)
def test_every_variable_is_read(variable: str) -> None:
    written, expected = sample(variable)
    settings = Settings.from_env({variable: written})

    assert expected != FIELDS[variable].default
    assert getattr(settings, FIELDS[variable].name) == expected


@pytest.mark.parametrize("variable", FIELDS)
def test_every_variable_may_come_from_a_file(variable: str, tmp_path: Path) -> None:
    written, expected = sample(variable)
    file = tmp_path / "secret"
    file.write_text(f"{written}\n")

    assert getattr(Settings.from_env({f"{variable}_FILE": str(file)}), FIELDS[variable].name) == expected


@pytest.mark.parametrize(
    "variable", [name for name, field in FIELDS.items() if not isinstance(field.default, str | None)]
)
def test_a_bad_value_is_refused_by_the_name_of_its_variable(variable: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^environment: {variable}: "):
        Settings.from_env({variable: "-nonsense-"})


@pytest.mark.parametrize(("variable", "default"), FIXED.items())
def test_names_and_defaults_that_deployments_count_on_stay(variable: str, default: object) -> None:
    assert getattr(Settings.from_env({}), FIELDS[variable].name) == default


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PENSTOCK_GATEWAY_PORT", "65536"),
        ("PENSTOCK_GATEWAY_PORT", "-1"),
        ("DLQ_MAX_ENTRIES", "0"),
        ("DLQ_RETENTION_DAYS", "nan"),
        ("PENSTOCK_DRAIN_TIMEOUT", "0"),
        ("PENSTOCK_LOG_LEVEL", "loud"),
        ("PENSTOCK_DURABILITY", "disk"),
        ("TASK_CHECKPOINT_ENABLED", "perhaps"),
        ("PENSTOCK_PREFIX", "a b"),
        ("PENSTOCK_PREFIX", "{tag}"),
        ("PENSTOCK_BACKEND", "sqlite"),
        ("TASK_QUEUE_BACKEND", "celery"),
        ("TASK_QUEUE_MAX_SIZE", "0"),
        ("TASK_QUEUE_WORKERS", "0"),
        ("TASK_QUEUE_WORKERS", "5001"),
        ("REDIS_ENABLED", "perhaps"),
        ("REDIS_CONNECT_TIMEOUT_SECONDS", "0"),
        ("REDIS_RETRY_SECONDS", "-1"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_the_name_of_its_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=variable):
        Settings.from_env({variable: value})


def test_an_empty_variable_is_an_unset_one() -> None:
    empty = ("PENSTOCK_GATEWAY_PORT", "REDIS_URL", "REDIS_ENABLED", "TASK_QUEUE_BACKEND", "PENSTOCK_BACKEND")
    assert Settings.from_env(dict.fromkeys(empty, "")) == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "name", "means"),
    [
        ("TASK_QUEUE_BACKEND", "memory", "backend", "memory"),
        ("REDIS_ENABLED", "false", "backend", "memory"),
        ("REDIS_ENABLED", "0", "backend", "memory"),
        ("REDIS_ENABLED", "true", "backend", "redis"),
        ("TASK_QUEUE_MAX_SIZE", "17", "gateway_max_backlog", 17),
    ],
)
def test_names_that_deployments_have_for_our_settings_are_obeyed(
    variable: str, value: str, name: str, means: object, tmp_path: Path
) -> None:
    file = tmp_path / "value"
    file.write_text(value)
    ours = next(field.encode_name for field in FIELDS.values() if field.name == name)

    for environ in ({variable: value}, {f"{variable}_FILE": str(file)}, {variable: value, ours: str(means)}):
        assert getattr(Settings.from_env(environ), name) == means


@pytest.mark.parametrize(
    ("environ", "both"),
    [
        ({"TASK_QUEUE_BACKEND": "memory", "PENSTOCK_BACKEND": "redis"}, ("TASK_QUEUE_BACKEND", "PENSTOCK_BACKEND")),
        ({"REDIS_ENABLED": "false", "PENSTOCK_BACKEND": "redis"}, ("REDIS_ENABLED", "PENSTOCK_BACKEND")),
        ({"REDIS_ENABLED": "true", "TASK_QUEUE_BACKEND": "memory"}, ("REDIS_ENABLED", "TASK_QUEUE_BACKEND")),
        (
            {"TASK_QUEUE_MAX_SIZE": "5", "PENSTOCK_GATEWAY_MAX_BACKLOG": "6"},
            ("TASK_QUEUE_MAX_SIZE", "PENSTOCK_GATEWAY_MAX_BACKLOG"),
        ),
    ],
)
def test_two_names_of_a_setting_that_do_not_agree_stop_the_start(
    environ: dict[str, str], both: tuple[str, str]
) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"{both[0]} and {both[1]} .* do not agree .* take one of the two away"
    ):
        Settings.from_env(environ)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("PENSTOCK_DURABILITY", "aof", "PENSTOCK_DURABILITY=aof is Redis's to give"),
        ("PENSTOCK_SPOOL_DIR", "spool", "PENSTOCK_SPOOL_DIR keeps events until Redis is back"),
    ],
)
def test_a_process_keeps_nothing_as_redis_or_a_disk_can(variable: str, value: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{says}, and PENSTOCK_BACKEND=memory has none"):
        Settings.from_env({"REDIS_ENABLED": "false", variable: value})


def test_whatever_needs_redis_refuses_where_there_is_none() -> None:
    assert redis_url(Settings(redis_url="redis://db:1/0")) == "redis://db:1/0"
    with pytest.raises(ConfigurationError, match="this needs Redis, and PENSTOCK_BACKEND=memory"):
        redis_url(Settings(backend="memory", redis_url="redis://db:1/0"))


def test_the_real_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_PREFIX", "mesh:")
    assert Settings.from_env().prefix == "mesh:"


def test_an_empty_variable_beside_a_file_leaves_it_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("whsec\n")

    assert read_secret("SECRET", {"SECRET": "", "SECRET_FILE": str(file)}) == "whsec"
    assert read_secret("SECRET", {"SECRET": "given", "SECRET_FILE": str(file)}) == "given"
    assert read_secret("SECRET", {"SECRET": "given", "SECRET_FILE": ""}) == "given"
    assert read_secret("SECRET", {}) is None


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"REDIS_URL_FILE: cannot read .*missing: No such file"):
        Settings.from_env({"REDIS_URL_FILE": str(tmp_path / "missing")})


def test_a_secret_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "binary"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"REDIS_URL_FILE: .*binary is not UTF-8 text"):
        Settings.from_env({"REDIS_URL_FILE": str(file)})


def test_a_variable_that_nothing_reads_is_pointed_out_with_what_was_meant() -> None:
    found = unknown_variables(
        {
            "PENSTOCK_GATEWAY_PROT": "1",
            "PENSTOCK_XYZZY": "1",
            "PENSTOCKTOPOLOGY": "streams.yaml",
            "PENSTOCK_JOBS": "a:b",
            "PENSTOCK_JOBS_FILE": "x",
            "HOME": "/",
        }
    )

    assert found == [
        "PENSTOCKTOPOLOGY is not a setting; did you mean PENSTOCK_TOPOLOGY?",
        "PENSTOCK_GATEWAY_PROT is not a setting; did you mean PENSTOCK_GATEWAY_PORT?",
        "PENSTOCK_XYZZY is not a setting",
    ]


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("redis://redis:6379/0", "redis://:p%40ss%2F@redis:6379/0"),
        (
            "rediss://worker@redis:6379/0?ssl_ca_certs=ca.pem",
            "rediss://worker:p%40ss%2F@redis:6379/0?ssl_ca_certs=ca.pem",
        ),
        ("unix://worker@/run/redis.sock", "unix://worker:p%40ss%2F@/run/redis.sock"),
        ("redis://worker:own@redis:6379/0", "redis://worker:own@redis:6379/0"),
        ("unix:///run/redis.sock?username=a&password=own", "unix:///run/redis.sock?username=a&password=own"),
        ("", "redis://127.0.0.1:6379/0"),
    ],
)
def test_a_password_of_its_own_goes_into_a_url_without_one(url: str, whole: str) -> None:
    assert redis_url(Settings.from_env({"REDIS_URL": url, "REDIS_PASSWORD": "p@ss/"})) == whole
