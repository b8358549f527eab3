"""OpenTelemetry's own variables, read strictly: what is exported, where to and by which protocol.

Its SDK reads most of them itself and goes on with a default if it does not understand one. Here a slip stops the
start, as it does for every other setting. Source of names and values:
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and
https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

import math
import os
from typing import Final, Literal, cast
from urllib.parse import urlsplit

from penstock.errors import ConfigurationError

Signal = Literal["traces", "metrics"]
Protocol = Literal["http/protobuf", "grpc"]
_PROTOCOLS: Final = ("http/protobuf", "grpc")
_COMPRESSIONS: Final = ("none", "gzip", "deflate")
_SAMPLER, _SHARE = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
_SAMPLERS: Final = ("always_on", "always_off", "traceidratio")


def protocol(signal: Signal) -> Protocol | None:
    """Return how a signal is exported, None if it is not: nobody wants it, or no receiver is named.

    Raises:
        ConfigurationError: a variable asks for what is not there; the message names it.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or not _is_exported(signal):
        return None
    name, value = _setting("PROTOCOL", signal)
    chosen = value or _PROTOCOLS[0]
    if chosen not in _PROTOCOLS:
        raise _refusal(name, f"{value!r} is not supported; use http/protobuf or grpc")
    _check_endpoint(signal, needs_scheme=chosen != "grpc")
    name, value = _setting("COMPRESSION", signal)
    if value and value not in _COMPRESSIONS:
        raise _refusal(name, f"{value!r} is not supported; use gzip, deflate or none")
    name, value = _setting("TIMEOUT", signal)
    if value and not 0 < _number(value) < math.inf:
        raise _refusal(name, f"{value!r} is no number of seconds; for example 10")
    return cast(Protocol, chosen)


def sampled_share() -> float:
    """Return the share of the traces that begin here and are sampled.

    Raises:
        ConfigurationError: there is no such sampler, or no such share.
    """
    name = os.environ.get(_SAMPLER, "").strip().lower() or "parentbased_always_on"
    sampler = name.removeprefix("parentbased_")
    if sampler not in _SAMPLERS:
        choices = ", ".join((*_SAMPLERS, *(f"parentbased_{one}" for one in _SAMPLERS)))
        raise _refusal(_SAMPLER, f"there is no sampler {name!r}; there are {choices}")
    if sampler != "traceidratio":
        return float(sampler == "always_on")
    share = _number(os.environ.get(_SHARE) or "1")
    if not 0 <= share <= 1:
        raise _refusal(_SHARE, "give a share from 0 to 1, such as 0.1")
    return share


def forget_empty() -> None:
    """Unset OTEL_ variables that are empty: that is what they mean, and the SDK's exporters do not all know it."""
    for name in [name for name, value in os.environ.items() if name.startswith("OTEL_") and not value]:
        del os.environ[name]


def _is_exported(signal: Signal) -> bool:
    """Return whether OTEL_…_EXPORTER has a signal exported; where it says nothing, an endpoint does."""
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    named = {one.strip().lower() for one in os.environ.get(variable, "").split(",")} - {""}
    if unknown := sorted(named - {"otlp", "none"}):
        pulled = "; for Prometheus every service has /metrics" if "prometheus" in unknown else ""
        raise _refusal(variable, f"there is no exporter {unknown[0]!r}; use otlp or none{pulled}")
    if len(named) > 1:
        raise _refusal(variable, "none stands alone; use otlp or none")
    return "otlp" in named if named else bool(_setting("ENDPOINT", signal)[1])


def _setting(name: str, signal: Signal) -> tuple[str, str]:
    """Return the variable that holds for a signal and its value: its own, else the one for all."""
    own, common = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", f"OTEL_EXPORTER_OTLP_{name}"
    used = own if os.environ.get(own) else common
    value = os.environ.get(used, "").strip()
    return used, value if name == "ENDPOINT" else value.lower()


def _check_endpoint(signal: Signal, *, needs_scheme: bool) -> None:
    name, value = _setting("ENDPOINT", signal)
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if value and needs_scheme and not good:
        raise _refusal(name, "it is no address over HTTP; for example http://localhost:4318")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _refusal(variable: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"environment: {variable}: {why}")
