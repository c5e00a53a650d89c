"""How old a report is, by no wall clock: the clocks of two processes differ, and jump.

- The monotonic clock is one for all processes of a host, from boot to boot. A record has its
  reading, and the identity of the spool has the boot.
- Of a record of another host or boot, only this is known: when this service first saw it.
- What the report's own timestamp lies before its record comes on top. Both are of one clock.
"""

from __future__ import annotations

import bisect
import time

from shipper.sinks.dlrover.report import Report
from spooler.spool import owner
from spooler.spool.identity import Identity

# Of a spool, so many moments are kept: what was seen with a forgotten one counts as younger.
_MOMENTS = 64


class Ages:
    """Ages of the reports of all spools; turns of one spool come from one thread at a time."""

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[int, float]]] = {}  # spool -> (seq, monotonic seconds)

    def note(self, identity: Identity, seq: int) -> None:
        """The records of this spool up to `seq` exist now."""
        if _is_of_this_boot(identity):
            return
        moments = self._seen.setdefault(identity.spool, [])
        if not moments or seq > moments[-1][0]:
            moments.append((seq, time.monotonic()))
            del moments[:-_MOMENTS]

    def recorded(self, report: Report, identity: Identity, seq: int) -> float:
        """Seconds since the record was made, at least."""
        exact = _elapsed(report, identity)
        if exact is not None:
            return exact
        now = time.monotonic()
        moments = self._seen.get(identity.spool, [])
        place = bisect.bisect_left(moments, (seq, 0.0))
        return now - moments[place][1] if place < len(moments) else 0.0

    def taken(self, report: Report, identity: Identity, seq: int) -> float:
        """Seconds since the data was taken, at least."""
        return self.recorded(report, identity, seq) + _before(report)


def exact(report: Report, identity: Identity) -> float | None:
    """Seconds since the data was taken, None without a clock that both processes share."""
    elapsed = _elapsed(report, identity)
    return None if elapsed is None else elapsed + _before(report)


def _elapsed(report: Report, identity: Identity) -> float | None:
    now = time.monotonic()
    if report.made is None or not _is_of_this_boot(identity) or not 0 <= report.made <= now:
        return None
    return now - report.made


def _before(report: Report) -> float:
    return max(0.0, report.time - report.timestamp)


def _is_of_this_boot(identity: Identity) -> bool:
    return bool(identity.boot_id) and identity.boot_id == owner.boot_id()
