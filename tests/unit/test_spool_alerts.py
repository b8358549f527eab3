"""The shipped rules tell of spools: while something waits in one or was put aside, and until it is over."""

from __future__ import annotations

import pytest

from tests.alerting import EPOCH, Mesh, gauge
from tests.processes import ROOT

WHERE = {"program": "gateway", "host": "a"}


@pytest.mark.parametrize(
    ("series", "bad", "rule"), [("spool_age", 61.0, "spool-waiting"), ("spool_aside", 1.0, "spool-aside")]
)
def test_a_spool_is_told_of_until_nothing_is_told_of_it_any_more(series: str, bad: float, rule: str) -> None:
    mesh = Mesh((ROOT / "alerts.yaml").read_text())
    alive = [gauge("consumers", 1, stream="events", group="metrics")]
    mesh.window(*alive, gauge(series, 0, **WHERE), start=EPOCH)
    assert mesh.told == []
    mesh.window(*alive, gauge(series, bad, **WHERE), start=EPOCH + 10)
    assert [line for line in mesh.told if rule in line] == [f"triggered {rule} gateway/a"]
    for later in range(2, 60):
        mesh.window(*alive, start=EPOCH + 10 * later)  # its field is gone with what it told of
    assert [line for line in mesh.told if rule in line][1:] == [f"resolved {rule} gateway/a"]
