"""Feels which spools have something new or have lost their writer; a few stat calls a spool.

A spool whose writer has ended is polled less and less often until it is deleted: what it writes all
the same refutes its end.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from spooler.spool.owner import Liveness
from spooler.spool.reader import Reader

log = logging.getLogger(__name__)

# Spools that are due within this time are felt together: waking up is not free either.
TOGETHER_SECONDS = 0.2
# A new spool is felt again after this time, then after twice as long and so on up to its interval:
# it is found when it is made, a moment before its first record.
YOUNG_SECONDS = 0.25
# A spool whose writer has ended: after its interval, then after twice as long and so on up to this.
ENDED_SECONDS = 60.0
# Of the interval that a record may wait, this part is left to read and send what was felt.
_LEFT = 0.05
_ALIVE = Liveness(alive=True)


def seconds_between(flush_seconds: float) -> float:
    """How often a spool is to be felt whose records may wait for so long."""
    return flush_seconds * (1 - _LEFT)


@dataclass(kw_only=True)
class _Felt:
    reader: Reader
    seconds: float
    due: float
    pause: float = YOUNG_SECONDS  # grows up to the interval, beyond it once its writer has ended
    verdict: Liveness = _ALIVE


class Pulse:
    """Calls `wake` with a spool's id when its files changed or its writer is gone."""

    def __init__(self, wake: Callable[[str], None], now: Callable[[], float]) -> None:
        self.woken = 0  # how often something was felt
        self._wake = wake
        self._now = now
        self._felt: dict[str, _Felt] = {}
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Let the thread go home."""
        self._ended = True
        self._changed.set()

    def add(self, reader: Reader, seconds: float) -> None:
        """Feel a spool every `seconds` from now on; the reader is this room's own."""
        with self._lock:
            self._felt[reader.spool] = _Felt(reader=reader, seconds=seconds, due=self._now())
        self._changed.set()

    def beat(self) -> float:
        """Feel every spool that is due; seconds until the next one is, infinity without any."""
        now = self._now()
        with self._lock:
            due = [one for one in self._felt.values() if one.due <= now]
        for one in due:
            with contextlib.suppress(OSError):  # whoever reads it will say what is wrong
                self._feel(one)
            one.due = _next(one, now)
        with self._lock:
            first = min((one.due for one in self._felt.values()), default=float("inf"))
        return first - self._now()

    def _feel(self, one: _Felt) -> None:
        known, news = one.verdict, one.reader.has_news()
        if known.is_final and not news:
            return
        one.verdict = one.reader.liveness()
        if not one.verdict.alive and not one.reader.changed_at():
            with self._lock:
                self._felt.pop(one.reader.spool, None)  # it has been deleted
        if news:
            one.pause = min(one.pause, one.seconds)
        if news or one.verdict != known:
            self.woken += 1
            self._wake(one.reader.spool)

    def _run(self) -> None:
        while not self._ended:
            self._changed.clear()
            wait = self.beat()
            self._changed.wait(min(max(wait, TOGETHER_SECONDS), threading.TIMEOUT_MAX))


def _next(one: _Felt, now: float) -> float:
    """When a spool is felt again; in step with the others: one wake-up for all, and warm caches."""
    in_step = (now // one.seconds + 1) * one.seconds
    alive = one.verdict.alive
    if alive and one.pause >= one.seconds:
        return in_step
    due = now + one.pause
    one.pause = min(2 * one.pause, max(one.seconds, ENDED_SECONDS))
    return min(in_step, due) if alive else due
