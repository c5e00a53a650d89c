"""Ports for servers that begin to listen later, or again after they were away."""

from __future__ import annotations

import socket
from collections import deque

# A bound socket that does not listen keeps its port from whom the kernel would give it to, and from
# the near end of a connection. Servers bind it all the same: they set SO_REUSEADDR, too.
_kept: dict[int, socket.socket] = {}
_free: deque[int] = deque()
# So many others are taken before a port is used again: until then its clients may be there.
_REST = 64


def reserved_port() -> int:
    """A port of this machine that nothing takes by chance while this process lives."""
    if len(_free) > _REST:
        return _free.popleft()
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("127.0.0.1", 0))
    port = int(one.getsockname()[1])
    _kept[port] = one
    return port


def give_back(port: int) -> None:
    """Nothing listens on a reserved port any more."""
    if port in _kept:
        _free.append(port)
