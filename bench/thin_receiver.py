"""A receiver that only reads, counts and answers: what is left to measure is the sender.

    python bench/thin_receiver.py       # prints its port, ends with its standard input

It speaks as much HTTP/1.1 as a kept-alive connection with a `Content-Length` needs. It gives the
count of metrics or logs back as the telemetry-processor does, and a run as MLflow does. Each
connection is one thread.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

_ANSWER = (
    b'{"meta":{"code":2000,"message":"success"},"data":{"success":true,"count":%d},'
    b'"experiment":{"experiment_id":"1","lifecycle_stage":"active"},'
    b'"runs":[{"info":{"run_id":"1"}}],"run":{"info":{"run_id":"1"}}}'
)


def main() -> None:
    """Listen on a free port of the loopback until standard input ends."""
    print(urlsplit(serve()).port, flush=True)
    sys.stdin.read()
    os._exit(0)


def serve(note: Callable[[bytes, bytes], None] = lambda head, body: None) -> str:
    """Listen on threads of this process; the URL. `note` is told the head and body of each."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    threading.Thread(target=_accept, args=(listener, note), daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def _accept(listener: socket.socket, note: Callable[[bytes, bytes], None]) -> None:
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_serve, args=(connection, note), daemon=True).start()


def _serve(connection: socket.socket, note: Callable[[bytes, bytes], None]) -> None:
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            more = connection.recv(1 << 20)
            if not more:
                return
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = _length(head)
        parts = [body]
        have = len(body)
        while have < length:
            more = connection.recv(1 << 20)
            if not more:
                return
            parts.append(more)
            have += len(more)
        whole = b"".join(parts)
        body, data = whole[:length], whole[length:]
        note(head, body)
        counted = body.count(b'"name":') if b"/wandb/metrics" in head else body.count(b'"data":')
        answer = _ANSWER % counted
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(answer), answer)
        )


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


if __name__ == "__main__":
    main()
