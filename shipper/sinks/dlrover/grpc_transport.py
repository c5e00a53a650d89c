"""Carries messages over gRPC; the only importer of grpcio, loaded when a gRPC master is met.

A channel here reconnects within two seconds (the default may wait two minutes after a long
outage), shares nothing with other channels, and goes past proxies unless told otherwise: grpcio
obeys `http_proxy` even for 127.0.0.1.

Whether a call that failed may have arrived is decided by states, not by the words of an error,
which differ between versions of grpcio: the first call waits until the channel is connected. Before
that nothing was sent. `UNAVAILABLE` later is a lost connection. The session asks the master just
before each report, over the same channel, and gives up a channel after any failure.
"""

from __future__ import annotations

import queue
import time
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
_FAILED = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)


class GrpcTransport:
    """One gRPC channel to one master.

    Raises:
        Unreachable: from every call, when no answer came.
    """

    def __init__(self, target: str, timeouts: Timeouts) -> None:
        self._target = target
        self._seconds = timeouts.answer_seconds
        self._connect_seconds = timeouts.connect_seconds
        self._is_connected = False
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

    def _connect(self) -> None:
        """Wait until the channel is connected; returns at once when it was before."""
        if self._is_connected:
            return
        states = queue.SimpleQueue[grpc.ChannelConnectivity]()
        self._channel.subscribe(states.put, try_to_connect=True)
        until = time.monotonic() + self._connect_seconds
        state = None
        try:
            while state is not grpc.ChannelConnectivity.READY:
                state = states.get(timeout=max(until - time.monotonic(), 0.0))
                if state in _FAILED:
                    raise self._unsent("it refuses connections, or its name is not known")
        except queue.Empty:
            raise self._unsent(f"no connection within {self._connect_seconds:g} s") from None
        finally:
            self._channel.unsubscribe(states.put)
        self._is_connected = True

    def _unsent(self, why: str) -> Unreachable:
        return Unreachable("no-connection", f"{self._target}: {why}", sent=False)

    def _call(self, method: Any, message: encode.Message, job_uid: str) -> bytes | Reply:
        self._connect()
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
            raise Unreachable("connection-lost", f"{self._target}: {detail}", sent=True) from error
        return Reply(status=name, detail=detail)
