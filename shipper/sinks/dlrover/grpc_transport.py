"""Carries messages over gRPC; the only importer of grpcio, loaded when a gRPC master is met.

A channel here reconnects within two seconds (the default may wait two minutes after a long
outage), shares nothing with other channels, and goes past proxies unless told otherwise: grpcio
obeys `http_proxy` even for 127.0.0.1.
"""

from __future__ import annotations

from typing import Any

import grpc

from shipper.errors import Unreachable
from shipper.sinks.dlrover import encode
from shipper.sinks.dlrover.classify import Reply
from shipper.sinks.dlrover.session import Timeouts

_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", encode.ANSWER_LIMIT),
)
# Words of a failure that happened before anything was sent.
_UNSENT = ("failed to connect", "connections to all backends failing", "resolution", "resolver")


class GrpcTransport:
    """One gRPC channel to one master.

    Raises:
        Unreachable: from every call, when no answer came.
    """

    def __init__(self, target: str, timeouts: Timeouts) -> None:
        self._target = target
        self._seconds = timeouts.answer_seconds
        options: list[tuple[str, Any]] = [
            *_OPTIONS,
            ("grpc.enable_http_proxy", int(bool(timeouts.proxy))),
            # By its name a pause between tries; it also ends a try that gets no answer.
            ("grpc.min_reconnect_backoff_ms", int(timeouts.connect_seconds * 1000)),
        ]
        if timeouts.proxy not in ("", "environment"):
            options.append(("grpc.http_proxy", timeouts.proxy))
        self._channel = grpc.insecure_channel(target, options=options)
        self._report = self._channel.unary_unary(encode.REPORT_METHOD)
        self._get = self._channel.unary_unary(encode.GET_METHOD)

    def report(self, message: encode.Message, job_uid: str) -> Reply:
        """Have the master store something."""
        answer = self._call(self._report, message, job_uid)
        if isinstance(answer, Reply):
            return answer
        return Reply(status="OK", success=encode.stored(answer), detail=repr(answer[:100]))

    def get(self, message: encode.Message, job_uid: str) -> Reply:
        """Ask the master for something."""
        answer = self._call(self._get, message, job_uid)
        if isinstance(answer, Reply):
            return answer
        return Reply(status="OK", data=encode.message_data(answer) or b"")

    def close(self) -> None:
        """Let go of the connection; what is under way is cancelled."""
        self._channel.close()

    def _call(self, method: Any, message: encode.Message, job_uid: str) -> bytes | Reply:
        try:
            answer: bytes = method(
                encode.to_protobuf(message),
                timeout=self._seconds,
                metadata=((encode.JOB_UID, job_uid),) if job_uid else None,
            )
        except grpc.RpcError as error:
            return self._judge(error)
        return answer

    def _judge(self, error: Any) -> Reply:
        code, detail = error.code(), str(error.details() or "")
        name = code.name
        if name == "DEADLINE_EXCEEDED":
            raise Unreachable("timeout", f"{self._target}: {detail}", sent=True) from error
        if name in ("UNAVAILABLE", "CANCELLED"):
            unsent = any(word in detail.lower() for word in _UNSENT)
            reason = "no-connection" if unsent else "connection-lost"
            raise Unreachable(reason, f"{self._target}: {detail}", sent=not unsent) from error
        return Reply(status=name, detail=detail)
