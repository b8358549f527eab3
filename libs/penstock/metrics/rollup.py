"""From tallies to the series that others see."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.metrics.sketch import Distribution
from penstock.metrics.tally import ATTEMPTS, SeriesKey, Tallies, Tally
from penstock.schemas import Exemplar, Quantiles, Series

_LEAST_SKEW = 1.0  # seconds; less is the way from the producer to Redis
_SHARES = (0.5, 0.9, 0.95, 0.99)


def roll_up(tallies: Tallies, seconds: float) -> list[Series]:
    """Return the series of a window of `seconds`: `jobs`, then `events`, the most frequent first, then what is odd."""
    jobs = [
        _series("jobs", key, tally, seconds, [*_slowest(tally), *_failed(tally)])
        for key, tally in _ranked(_attempts(tallies))
    ]
    events = [_series("events", key, tally, seconds, _failed(tally)) for key, tally in _ranked(tallies.series)]
    return [*jobs, *events, *_measured(tallies)]


def _measured(tallies: Tallies) -> Iterator[Series]:
    """Yield what is wrong with what is counted."""
    for name, source in sorted(tallies.sources.items()):
        labels = {"service": name}
        if source.skew is not None and source.skew / 1000 >= _LEAST_SKEW:
            yield Series(name="skew", labels=labels, value=source.skew / 1000)
        if source.malformed:
            yield Series(name="malformed", labels=labels, value=source.malformed)
    if tallies.overflow:
        yield Series(name="overflow", value=tallies.overflow)


def _ranked(series: dict[SeriesKey, Tally]) -> list[tuple[SeriesKey, Tally]]:
    return sorted(series.items(), key=lambda item: (-item[1].count, item[0]))


def _attempts(tallies: Tallies) -> dict[SeriesKey, Tally]:
    """Join what became of attempts at jobs over how they ended."""
    jobs: dict[SeriesKey, Tally] = {}
    for key, tally in tallies.series.items():
        if key.type in ATTEMPTS:
            jobs.setdefault(key._replace(type=""), Tally()).merge(tally)
    return jobs


def _series(name: str, key: SeriesKey, tally: Tally, seconds: float, exemplars: list[Exemplar]) -> Series:
    return Series(
        name=name,
        labels={label: value for label, value in key._asdict().items() if value},
        count=tally.count,
        rate=_short(tally.count / seconds),
        errors=tally.errors,
        error_rate=_short(tally.errors / tally.count) if tally.count else 0.0,
        duration=_quantiles(tally.duration),
        queue_wait=_quantiles(tally.queue_wait),
        exemplars=exemplars,
    )


def _quantiles(distribution: Distribution | None) -> Quantiles | None:
    if distribution is None:
        return None
    p50, p90, p95, p99 = map(_short, distribution.quantiles(_SHARES))
    return Quantiles(p50=p50, p90=p90, p95=p95, p99=p99, max=distribution.longest)


def _short(value: float) -> float:
    """Round to six digits: far below the error of what is rounded, and half the size as JSON."""
    return float(f"{value:.6g}")


def _slowest(tally: Tally) -> list[Exemplar]:
    return [
        Exemplar(
            trace_id=one.trace_id, event_id=one.event_id, kind="slowest", duration=one.duration, span_id=one.span_id
        )
        for one in tally.slowest
    ]


def _failed(tally: Tally) -> list[Exemplar]:
    return [
        Exemplar(
            trace_id=one.trace_id,
            event_id=one.event_id,
            kind="failed",
            duration=one.duration,
            error=one.error,
            span_id=one.span_id,
        )
        for one in tally.failed
    ]
