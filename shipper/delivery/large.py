"""Bounds the memory that large records take, whatever their number and their receivers.

A record is large when it does not fit into one read. It is read, decoded and encoded while no other
one is, and only a few are on their way to receivers. Nothing waits here: a pipeline that gets no
place tries again later, and its worker serves others.
"""

from __future__ import annotations

import threading

READ_BYTES = 512 * 1024  # of bodies that are read at once; a body may take 80 times that decoded
# A request of the largest record that is sent takes up to 100 MiB with all its copies.
SENT_AT_ONCE = 2


class LargeRecordBusy(Exception):
    """Other pipelines have the places of large records."""


class LargeRecords:
    """The places that the pipelines of a service share."""

    def __init__(self) -> None:
        self.reading = threading.Lock()
        self.sending = threading.BoundedSemaphore(SENT_AT_ONCE)


class LargeRecordPlace:
    """The place of one pipeline; used by one thread at a time."""

    __slots__ = ("_reads", "_sends", "_shared")

    def __init__(self, shared: LargeRecords) -> None:
        self._shared = shared
        self._reads = self._sends = False

    def take(self) -> None:
        """Take a place to read, and to send.

        Raises:
            LargeRecordBusy: there is none now.
        """
        self._reads = self._reads or self._shared.reading.acquire(blocking=False)
        if not self._reads:
            raise LargeRecordBusy
        self._sends = self._sends or self._shared.sending.acquire(blocking=False)
        if not self._sends:
            self.is_read()
            raise LargeRecordBusy

    def is_read(self) -> None:
        """The record was encoded, or set aside: another one may be read."""
        if self._reads:
            self._reads = False
            self._shared.reading.release()

    def release(self) -> None:
        """The record was sent, or is not held any more."""
        self.is_read()
        if self._sends:
            self._sends = False
            self._shared.sending.release()
