"""Connections whose exchanges have a deadline as a whole; the other importer of urllib3.

A socket's own timeout is for one operation: an answer of a byte a second never ends by it. Here
every operation is given what is left of the exchange, and interim answers (102, 103) are read past.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
from typing import Any

import requests.adapters
import urllib3
import urllib3.connection

_exchange = threading.local()  # of this thread: seconds granted, monotonic end


def begin_exchange(seconds: float) -> None:
    """From now on this thread has `seconds` for sending and for the whole answer.

    They begin again once a connection is made, which has a timeout of its own.
    """
    _exchange.seconds = seconds
    _exchange.end = time.monotonic() + seconds


class DeadlineAdapter(requests.adapters.HTTPAdapter):
    """One kept connection to the last host; each exchange on it ends at its deadline."""

    def __init__(self) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **more)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **more)
        manager.pool_classes_by_scheme = _POOLS
        return manager


class _FinalResponse(http.client.HTTPResponse):
    """The final answer: those that only announce it are left out."""

    def begin(self) -> None:
        super().begin()
        while 100 < self.status < 200 and self.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
            self.headers = self.msg = None  # type: ignore[assignment]
            self.length = None
            super().begin()


class _PlainConnection(urllib3.connection.HTTPConnection):
    response_class = _FinalResponse

    def connect(self) -> None:
        super().connect()
        self.sock = _watched(self.sock)


class _TlsConnection(urllib3.connection.HTTPSConnection):
    response_class = _FinalResponse

    def connect(self) -> None:
        super().connect()
        self.sock = _watched(self.sock)


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS = {"http": _PlainPool, "https": _TlsPool}


def _watched(connected: Any) -> Any:
    begin_exchange(_exchange.seconds)
    return _DeadlineSocket(connected)


class _DeadlineSocket:
    """A connected socket; each of its operations has what is left of the exchange."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def sendall(self, data: Any) -> None:
        left = memoryview(data)
        while left:
            _hurry(self._socket)
            left = left[self._socket.send(left) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineReader(self._socket))


class _DeadlineReader(io.RawIOBase):
    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._file = connected.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        _hurry(self._socket)
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _hurry(connected: socket.socket) -> None:
    """Let the next operation take what is left.

    Raises:
        TimeoutError: nothing is.
    """
    left = _exchange.end - time.monotonic()
    if left <= 0:
        raise TimeoutError("the exchange has reached its deadline")
    connected.settimeout(left)
