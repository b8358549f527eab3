"""OTLP over gRPC, the extra `otlp-grpc`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from tests.processes import eventually, service_process
from tests.servers import Server


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.names: set[str] = set()

    def Export(self, request: Any, _: Any) -> Any:  # noqa: N802 - the protocol's name
        for resource in request.resource_spans:
            self.names.update(span.name for scope in resource.scope_spans for span in scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.mark.parametrize("of", ["", "TRACES_"])
def test_spans_arrive_over_grpc(server: Server, raw: Any, of: str) -> None:
    receiver = Receiver()
    listener = grpc.server(ThreadPoolExecutor(2))
    register: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server  # generated, without annotations
    register(receiver, listener)
    port = listener.add_insecure_port("127.0.0.1:0")
    listener.start()
    env = {
        "REDIS_URL": server.url,
        "PENSTOCK_JOBS": "tests.integration.otlp_jobs:jobs",
        f"OTEL_EXPORTER_OTLP_{of}ENDPOINT": f"http://127.0.0.1:{port}",
        f"OTEL_EXPORTER_OTLP_{of}PROTOCOL": "grpc",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    try:
        with service_process("-m", "penstock_services.worker", env=env):
            raw.xadd("ingest", {"type": "good"})
            eventually(lambda: receiver.names >= {"process ingest", "step add", "send events"})
    finally:
        listener.stop(0).wait()
