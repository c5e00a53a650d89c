"""The faulty receiver behind TLS, and one that asks for a token."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from tests.kit.certificates import Files
from tests.kit.faulty_receiver import FaultyReceiver, Turn
from tests.kit.processor.answers import Reply
from tests.kit.processor.listener import Listener


class TlsReceiver(FaultyReceiver):
    """Serves https with the given certificate; `clients`: asks for one of that authority."""

    def __init__(self, *, files: Files, clients: Path | None = None, **more: Any) -> None:
        super().__init__(**more)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(files.cert, files.key)
        if clients is not None:
            self._context.load_verify_locations(clients)
            self._context.verify_mode = ssl.CERT_REQUIRED

    @property
    def url(self) -> str:
        """The base URL, prefix included."""
        return f"https://{self.host}:{self.port}{self.prefix}"

    def listen(self) -> Listener:
        """Bind the port, with TLS before a thread waits at the socket: that becomes another one."""
        listener = super().listen()
        listener.socket = self._context.wrap_socket(listener.socket, server_side=True)
        return listener


class Guarded:
    """Answers what carries the token, and refuses the rest with a text that repeats its headers."""

    def __init__(self, token: str) -> None:
        self.token = token

    def play(self, turn: Turn) -> None:
        headers = turn.headers
        if headers.get("authorization") == f"Bearer {self.token}":
            turn.answer(turn.process())
            return
        echoed = "; ".join(f"{name}: {value}" for name, value in headers.items())
        turn.answer(Reply(status=401, body=echoed.encode(), content_type="text/plain", headers=()))
