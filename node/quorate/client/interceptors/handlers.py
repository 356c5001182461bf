"""The handlers of an RPC: one behaviour, of one of four kinds.

Owns putting another behaviour in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc

Behaviour = Callable[[Any, Any], Any]

_KINDS: Final[dict[tuple[bool, bool], tuple[str, Callable[..., Any]]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


def behaviour_of(handler: grpc.RpcMethodHandler[Any, Any]) -> Behaviour:
    """What the service has to be done."""
    name, _ = _KINDS[bool(handler.request_streaming), bool(handler.response_streaming)]
    behaviour: Behaviour = getattr(handler, name)
    return behaviour


def with_behaviour(
    handler: grpc.RpcMethodHandler[Any, Any], behaviour: Behaviour
) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler of the same kind that does something else."""
    _, make = _KINDS[bool(handler.request_streaming), bool(handler.response_streaming)]
    made: grpc.RpcMethodHandler[Any, Any] = make(
        behaviour, handler.request_deserializer, handler.response_serializer
    )
    return made
