"""The HTTP routes of the gateway, described."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from penstock.jobs.record import Job
from penstock.mesh.status import MeshStatus, MeshWindows, OpenAlerts
from penstock.settings import Settings
from penstock.traces import Trace, TraceList
from penstock.web.common import COMMON
from penstock.web.openapi import JSON, TEXT, Api, Content, Operation, Parameter, answer, look
from penstock.web.tickets import Ticket
from penstock_services.gateway import cloudevents
from penstock_services.gateway.acceptance import Accepted, AcceptedBatch
from penstock_services.gateway.cloudevents import CloudEvent
from penstock_services.gateway.connections import ConnectionList, Told
from penstock_services.gateway.submission import MOST_EVENTS, Submission

_NOT_TAKEN = (400, 408, 413, 415, 422, 429, 503)
_HTML = "text/html"
_SOURCE = Parameter(name="source", place="path", description="Its name in streams.yaml.")
_TRACE = Parameter(name="id", place="path", description="The id of a trace, or of one of its events.")


class NamedJob(Job, frozen=True, kw_only=True):
    """What became of a job. Durations are in seconds, times RFC 3339."""

    job_id: str


_TAKING = (
    Operation(
        name="publish",
        method="post",
        path="/v1/events",
        scope="publish",
        summary="Publish an event, or several",
        description=(
            "The answer comes once Redis has them, or the gateway's spool, which it then says. As CloudEvents in "
            "binary mode the attributes are `ce-` headers and the body is the data. Unknown attributes are kept as "
            "text; objects and arrays belong into `data`."
        ),
        parameters=(
            Parameter(
                name="Idempotency-Key",
                place="header",
                description='A string such as "order-42": the same request sent again adds nothing.',
            ),
            Parameter(name="stream", description="Where they go, if not to `ingest`: any stream that carries work."),
            Parameter(name="traceparent", place="header", description="W3C trace context that the events belong to."),
        ),
        body=Content(
            description="One event or a list of them.",
            types={
                JSON: Submission | Annotated[list[Submission], msgspec.Meta(min_length=1, max_length=MOST_EVENTS)],
                cloudevents.MEDIA_TYPES[1]: CloudEvent,
                cloudevents.BATCH: Annotated[list[CloudEvent], msgspec.Meta(max_length=MOST_EVENTS)],
            },
        ),
        answers={202: answer((Accepted, AcceptedBatch), "Redis has them.")},
        errors=_NOT_TAKEN,
    ),
    Operation(
        name="receiveWebhook",
        method="post",
        path="/webhooks/{source}",
        scope="public",
        summary="Take a signed webhook of a source that streams.yaml declares",
        description=(
            "The source's scheme says which headers hold the signature. Handshakes are answered: GitHub's ping, "
            "Slack's url_verification, Event Grid's SubscriptionValidation."
        ),
        parameters=(_SOURCE,),
        body=Content(
            description="Whatever the source sends. What is not JSON becomes data as it was signed.",
            types={JSON: Any, "*/*": Any},
        ),
        answers={202: answer(Accepted, "Redis has it.")},
        errors=(401, 404, *_NOT_TAKEN),
    ),
    Operation(
        name="answerChallenge",
        path="/webhooks/{source}",
        scope="public",
        summary="Answer hub.challenge, if hub.verify_token is the source's",
        parameters=(_SOURCE,),
        answers={200: answer(str, "The challenge.", media_type=TEXT)},
        errors=(404, 405, 429),
    ),
    Operation(
        name="allowWebhook",
        method="options",
        path="/webhooks/{source}",
        scope="public",
        summary="Tell a sender of CloudEvents that it may send (HTTP webhook 1.0, abuse protection)",
        parameters=(_SOURCE,),
        answers={200: Content(description="It may; what it sends is verified all the same.", types={})},
        errors=(404, 405, 429),
    ),
)

_EVENTS = "text/event-stream"


class ServerSentEvent(msgspec.Struct, omit_defaults=True):
    """One event of a stream: `data` is JSON, `event` says of what kind (a message, if absent), `id` where to go on."""

    data: str
    event: str = "message"
    id: str = ""


_TICKET = Parameter(name="ticket", description="A ticket of giveTicket, instead of an Authorization header.")
_POSITION = Parameter(name="position", description="As Last-Event-ID, for a page that opens a new EventSource.")
_LAST_EVENT_ID = Parameter(
    name="Last-Event-ID", place="header", description="The last `id` of such a stream: it goes on behind it."
)
_TELLING = (
    look(
        "findJob",
        "/v1/jobs/{job_id}",
        "What became of a job",
        NamedJob,
        "Its state, and its result or error once there is one.",
        errors=(404, 409),
        parameters=(
            Parameter(name="job_id", place="path", description="The id that its publication answered with."),
            Parameter(
                name="source",
                description="Whose event, where several have the id; an id that the gateway made is one event's.",
            ),
        ),
    ),
    Operation(
        name="cancelJob",
        path="/v1/jobs/{job_id}/cancel",
        method="post",
        scope="operate",
        summary="Cancel a job that waits",
        description="One that runs goes on to its end, and one that is over stays what it is: 409 says which.",
        parameters=(
            Parameter(name="job_id", place="path", description="The id that its publication answered with."),
            Parameter(name="source", description="Whose event, where several have the id."),
        ),
        answers={200: answer(NamedJob, "It is cancelled, by this request or an earlier one.")},
        errors=(404, 409, 503),
    ),
    Operation(
        name="followJob",
        path="/v1/jobs/{job_id}/events",
        summary="What becomes of a job, as it happens (Server-Sent Events)",
        description=(
            "First an event `state` as findJob has it, then its job.* events as messages and `progress`, until `end`. "
            "With `resync`, what was told before is too old to go on from; `state` follows."
        ),
        parameters=(
            Parameter(name="job_id", place="path", description="The id that its publication answered with."),
            Parameter(name="source", description="Whose event, where several have the id."),
            _LAST_EVENT_ID,
            _POSITION,
            _TICKET,
        ),
        answers={
            200: answer(ServerSentEvent, "The stream.", media_type=_EVENTS),
            204: Content(description="The job is over, and all of it was told: do not come back.", types={}),
        },
        errors=(404, 409, 503),
    ),
    Operation(
        name="giveTicket",
        method="post",
        path="/v1/tickets",
        summary="A ticket that opens one live stream, for browsers: EventSource and WebSocket send no header",
        description=(
            "It goes into `?ticket=`, or for a WebSocket into a subprotocol `ticket.<ticket>` beside `penstock.live`. "
            "Whoever comes with it is who fetched it."
        ),
        answers={201: answer(Ticket, "The ticket. It is good for one connection.")},
        errors=(503,),
    ),
    Operation(
        name="openWebSocket",
        path="/v1/ws",
        summary="What happens, as it happens, for any number of topics (WebSocket)",
        description=(
            "The client sends `subscribe`, `resume` and `unsubscribe`; docs/live.md has all messages. Without an "
            "Upgrade this is 426."
        ),
        parameters=(_TICKET,),
        answers={101: Content(description="The connection is a WebSocket now.", types={})},
        errors=(426, 503),
    ),
    Operation(
        name="followMesh",
        path="/v1/stream",
        summary="What happens, as it happens (Server-Sent Events)",
        description=(
            "First an event `ready`, then the events of the streams on which work is reported, as messages, and "
            "`progress` of jobs. After `resync`, look at the state again of whatever you show."
        ),
        parameters=(
            Parameter(name="subject", description="Only what is about this."),
            Parameter(name="type", description="Only these types, or patterns such as `job.*`, separated by commas."),
            Parameter(name="tenant", description="Only this tenant's; a client that is bound to one has no other."),
            _LAST_EVENT_ID,
            _POSITION,
            _TICKET,
        ),
        answers={200: answer(ServerSentEvent, "The stream.", media_type=_EVENTS)},
        errors=(400, 503),
    ),
    look(
        "listConnections",
        "/v1/connections",
        "The live connections of all processes: who follows what, and since when",
        ConnectionList,
        "The connections, the oldest first.",
        scope="operate",
    ),
    Operation(
        name="tellConnection",
        method="post",
        path="/v1/connections/{id}/messages",
        scope="operate",
        summary="Tell one live connection something: an event `direct`",
        description="It is passed on within moments, once at most; nothing says that it was.",
        parameters=(Parameter(name="id", place="path", description="As listConnections has it."),),
        body=Content(description="Whatever it is to be told.", types={JSON: Any}),
        answers={202: answer(Told, "It is on its way.")},
        errors=(400, 404, 408, 413, 415, 422, 503),
    ),
    look(
        "listTraces",
        "/v1/traces",
        "Recent traces",
        TraceList,
        "The traces, the newest first.",
        errors=(404,),
    ),
    look(
        "findTrace",
        "/v1/traces/{id}",
        "A trace: what an event led to",
        Trace,
        "The trace.",
        errors=(404, 409),
        parameters=(_TRACE, Parameter(name="source", description="Whose event, where several have the id.")),
    ),
    Operation(
        name="showTraces",
        path="/traces",
        summary="A page that draws recent traces",
        answers={200: answer(str, "The page.", media_type=_HTML)},
        errors=(404,),
    ),
    Operation(
        name="showTrace",
        path="/traces/{id}",
        summary="A page that draws a trace",
        parameters=(_TRACE,),
        answers={200: answer(str, "The page.", media_type=_HTML)},
        errors=(404,),
    ),
)

_ORCHESTRATOR = (
    look(
        "meshStatus",
        "/api/v1/orchestrator/status",
        "The whole mesh: healthy or not, why, and how each stream, group and service stands",
        MeshStatus,
        "The state of the mesh, at most 2 s old.",
    ),
    look(
        "meshMetrics",
        "/api/v1/orchestrator/metrics",
        "The newest closed windows of 10 s and 60 s",
        MeshWindows,
        "The windows, at most 2 s old.",
    ),
    look(
        "meshAlerts",
        "/api/v1/orchestrator/alerts",
        "Alerts that fire or are about to",
        OpenAlerts,
        "The alerts, at most 2 s old.",
    ),
    Operation(
        name="describe",
        path="/openapi.json",
        summary="This document",
        answers={200: answer(dict[str, Any], "OpenAPI 3.1.")},
    ),
)

API: Final = Api(
    service="gateway",
    port=Settings().gateway_port,
    about="Takes events and webhooks, and tells what became of them.",
    operations=(*_TAKING, *_TELLING, *COMMON, *_ORCHESTRATOR),
)
