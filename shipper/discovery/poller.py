"""Polls known spools: which have new records, which have lost their writer.

A poll costs a few stat calls a spool. A spool whose writer has ended is polled at a growing
interval until it is deleted: what it still writes refutes its end.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from spooler.spool.owner import Liveness
from spooler.spool.reader import Reader

# Spools that are due within this time are polled together: each wake-up has a cost.
TOGETHER_SECONDS = 0.2
# Of these, so many are polled before the queues of the first ones are woken.
_MOST_TOGETHER = 100
# The second poll of a new spool comes after this time, the next ones after twice as long each, up
# to its interval: a spool is found when it is made, a moment before its first record.
YOUNG_SECONDS = 0.25
# The longest interval for a spool whose writer has ended.
ENDED_SECONDS = 60.0
# Part of the flush interval that is left to read and send what a poll has found.
_MARGIN = 0.05
_ALIVE = Liveness(alive=True)


def poll_interval(flush_seconds: float) -> float:
    """Seconds between polls of a spool whose records may wait for `flush_seconds`."""
    return flush_seconds * (1 - _MARGIN)


@dataclass(kw_only=True, slots=True)
class _Polled:
    reader: Reader
    seconds: float
    due: float
    pause: float = YOUNG_SECONDS  # grows to the interval, beyond it once the writer has ended
    liveness: Liveness = _ALIVE


class SpoolPoller:
    """Calls `wake` with the ids of spools whose files changed or whose writer is gone.

    With an id comes the reader that has noticed it, if nothing but records is new.
    """

    def __init__(
        self, wake: Callable[[Mapping[str, Reader | None]], None], now: Callable[[], float]
    ) -> None:
        self.changes_seen = 0
        self._wake = wake
        self._now = now
        self._polled: dict[str, _Polled] = {}
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; does not wait for it."""
        self._stopped = True
        self._changed.set()

    def add(self, reader: Reader, seconds: float) -> None:
        """Poll a spool every `seconds`; nothing else may use this reader."""
        with self._lock:
            self._polled[reader.spool] = _Polled(reader=reader, seconds=seconds, due=self._now())
        self._changed.set()

    def keep(self, spools: Collection[str]) -> None:
        """Poll only these spools from now on."""
        with self._lock:
            self._polled = {name: one for name, one in self._polled.items() if name in spools}

    def poll(self) -> float:
        """Poll every spool that is due; seconds until the next one is, infinity without any."""
        now = self._now()
        with self._lock:
            due = [one for one in self._polled.values() if one.due <= now]
        for start in range(0, len(due), _MOST_TOGETHER):
            changed: dict[str, Reader | None] = {}
            for one in due[start : start + _MOST_TOGETHER]:
                with contextlib.suppress(OSError):  # the pipeline that reads it logs what is wrong
                    self._poll(one, changed)
                one.due = _next(one, now)
            self.changes_seen += len(changed)
            if changed:
                self._wake(changed)
        with self._lock:
            first = min((one.due for one in self._polled.values()), default=float("inf"))
        return first - self._now()

    def _poll(self, one: _Polled, changed: dict[str, Reader | None]) -> None:
        known, reader = one.liveness, one.reader
        folder = reader.folder_status()
        news = reader.has_news(folder)
        if known.is_final and not news:
            return
        one.liveness = reader.liveness(folder)
        if news:
            one.pause = min(one.pause, one.seconds)
        if news or one.liveness != known:
            changed[reader.spool] = reader if one.liveness == known else None

    def _run(self) -> None:
        while not self._stopped:
            wait = self.poll()
            self._changed.wait(min(max(wait, TOGETHER_SECONDS), threading.TIMEOUT_MAX))
            self._changed.clear()


def _next(one: _Polled, now: float) -> float:
    """When a spool is polled next: together with the others where possible."""
    in_step = (now // one.seconds + 1) * one.seconds
    alive = one.liveness.alive
    if alive and one.pause >= one.seconds:
        return in_step
    due = now + one.pause
    one.pause = min(2 * one.pause, max(one.seconds, ENDED_SECONDS))
    return min(in_step, due) if alive else due
