"""Every exception of the local receiver, each saying when it is raised."""

from __future__ import annotations


class ReceiverError(Exception):
    """The root of what the receiver raises on purpose."""


class InvalidRequest(ReceiverError):
    """Raised while decoding a body that the telemetry-processor would refuse as a whole."""

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(f"{place}: {reason}" if place else reason)
        self.reason = reason
        self.place = place

    def within(self, outer: str) -> InvalidRequest:
        """Return the same complaint as seen from one level further out."""
        inner = f".{self.place}" if self.place else ""
        return InvalidRequest(self.reason, outer + inner)


class BadFraming(ReceiverError):
    """Raised when the headers of a request do not say where its body ends."""


class StoreFailed(ReceiverError):
    """Raised when SQLite refuses to open, read or commit."""


class CannotListen(ReceiverError):
    """Raised when the host and port cannot be bound."""
