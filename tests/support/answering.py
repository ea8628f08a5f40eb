"""A server for tests of the command line: it answers with what the test says."""

from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from grpc_status import rpc_status

from tokenomics.operations.v1 import operations_pb2
from tokenomics.quota.v1 import quota_pb2

Answer = Callable[[Any, grpc.ServicerContext], Any]
"""Gives the answer to a request, or the answers of a stream."""

_METHODS: dict[str, MethodDescriptor] = {
    method.name: method
    for file, service in ((quota_pb2, "QuotaService"), (operations_pb2, "OperationsService"))
    for method in file.DESCRIPTOR.services_by_name[service].methods
}


@contextmanager
def answering(monkeypatch: pytest.MonkeyPatch, answers: Mapping[str, Answer]) -> Iterator[None]:
    """Serve these methods of quota, by name, to commands, whose token is `the-token`."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    for name, answer in answers.items():
        method = _METHODS[name]
        handler_of = (
            grpc.unary_stream_rpc_method_handler
            if method.server_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        handler = handler_of(
            answer,
            GetMessageClass(method.input_type).FromString,
            GetMessageClass(method.output_type).SerializeToString,
        )
        service = method.containing_service.full_name
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {name: handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("TOKENOMICS_QUOTA_ADDRESS", f"127.0.0.1:{port}")
    monkeypatch.setenv("TOKENOMICS_TOKEN", "the-token")
    try:
        yield
    finally:
        server.stop(None)


def refuse(context: grpc.ServicerContext, code: int, message: str, *details: Message) -> NoReturn:
    """End a call with a rich error."""
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        packed = Packed()
        packed.Pack(detail)
        status.details.append(packed)
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort raises")
