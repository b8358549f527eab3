"""The long tail, through the apprise library: one of its services stands for all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock_services.notifier.channels import Apprise
from penstock_services.notifier.channels.wire import SendFailed, SendRefused
from tests.alerts import make_delivery
from tests.standins import Reply, StandIn

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # apprise tries it


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as running:
        yield running


def channel_for(server: StandIn) -> Apprise:
    return Apprise(url=server.url.replace("http://", "json://"), allow_private=True)


async def test_a_message_goes_out_through_apprise(server: StandIn) -> None:
    await channel_for(server).send(make_delivery(), allow_private=True)

    sent = server.payloads[0]
    assert sent["title"] == "🔴 CRITICAL: Error rate of ticket.created is 12 %"
    assert "Labels: job_type=ticket.created, service=worker" in sent["message"]
    assert sent["type"] == "failure"


async def test_apprise_itself_tries_once_and_follows_nothing(server: StandIn) -> None:
    channel = channel_for(server)
    server.script.extend([Reply(500), Reply(302, "", {"Location": server.base})])
    for _ in range(2):
        with pytest.raises(SendFailed) as failure:
            await channel.send(make_delivery(), allow_private=True)
        assert not isinstance(failure.value, SendRefused)

    assert len(server.requests) == 2


async def test_apprise_is_not_used_where_private_targets_are_refused(server: StandIn) -> None:
    with pytest.raises(SendRefused, match="cannot be checked"):
        await channel_for(server).send(make_delivery(), allow_private=False)

    assert server.requests == []
