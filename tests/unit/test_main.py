"""What a person sees of an error, and what a script does."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from penstock.errors import ConfigurationError, InvalidEvent, Unavailable, UnsuitableRedis
from penstock.service.main import Negative, report_errors


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Negative("no such job"), 1, "no such job"),
        (ConfigurationError("streams.yaml: wrong"), 2, "streams.yaml: wrong"),
        (InvalidEvent("data is not JSON"), 2, "data is not JSON"),
        (UnsuitableRedis("too old"), 2, "too old"),
        (ResponseError("WRONGTYPE of key"), 2, "Redis refuses: WRONGTYPE of key"),
        (Unavailable("cannot connect"), 3, "Redis is unavailable: cannot connect"),
        (RedisConnectionError("gone"), 3, "Redis is unavailable: cannot connect"),
        (ResponseError("OOM command not allowed"), 3, "Redis is unavailable: out of memory"),
    ],
)
def test_a_known_error_is_a_sentence_and_an_exit_code(
    error: Exception, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited, report_errors():
        raise error
    assert exited.value.code == code
    assert capsys.readouterr().err == f"penstock: {said}\n"


def test_ctrl_c_exits_as_shells_have_it_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited, report_errors():
        raise KeyboardInterrupt
    assert exited.value.code == 130
    assert capsys.readouterr().err == ""


def test_a_bug_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), report_errors():
        raise ZeroDivisionError
