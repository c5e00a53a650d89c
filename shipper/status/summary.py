"""The state of everything in one sentence, and whether somebody has to do something. Pure.

Three levels: ``ok``; ``waiting``, where something is behind that goes on by itself; ``attention``,
where a hand is needed. These need one:

- no service runs while records wait, or it runs and does not move;
- a receiver refuses in a way that no waiting ends (a token, an address, a certificate), or nothing
  has arrived for `PAUSED_SECONDS`;
- the spool root is full, and training's new records are refused;
- a spool cannot be read, or not to its end, or the root or a folder in it cannot be looked into;
- dead letters are kept that nobody has retried or dropped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from shipper.ledger.service_status import Trouble
from shipper.status.model import SinkStatus, SpoolStatus, Status

PAUSED_SECONDS = 900.0
# What is behind for less than this is only what was just written.
FRESH_SECONDS = 60.0

# What an operator reads for the short word of an outcome, and what to look at.
_SAID = {
    "not-allowed": ("refuses the token", "check the token"),
    "wrong-address": ("does not know this address", "check the URL"),
    "redirected": ("answers with a redirect", "check the URL"),
    "other-service": ("is another service", "check the URL"),
    "bad-url": ("has a URL that cannot be used", "check the URL"),
    "no-url": ("has no URL", "give --processor-url"),
    "tls": ("fails the TLS handshake", "check the certificates"),
    "refused": ("refuses connections", "check that the receiver runs"),
    "no-connection": ("cannot be reached", "check name and network"),
    "connect-timeout": ("cannot be reached in time", "check the network"),
    "connection-lost": ("cuts connections", "check the receiver's log"),
    "timeout": ("does not answer in time", "check the receiver's load"),
    "busy": ("asks to wait", "check the receiver's load"),
    "server-error": ("answers with errors", "check the receiver's log"),
    "unknown-workload": ("does not know the workload", "check WORKLOAD_UID and POD_NAME"),
    "not-stored": ("stores nothing", "check the receiver's log"),
    "miscounted": ("counts other than was sent", "check the proxy between"),
}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """`level` is ok, waiting or attention; `also` what is worth saying beside the sentence."""

    level: str
    headline: str
    also: tuple[str, ...] = ()

    @property
    def needs_a_hand(self) -> bool:
        """Whether somebody has to do something."""
        return self.level == "attention"


def summarize(overview: Status, *, dead_letters: int = 0) -> Summary:
    """The verdict; up to so many dead letters are put up with."""
    urgent = list(_urgent(overview, dead_letters))
    if urgent:
        return Summary(level="attention", headline=urgent[0], also=tuple(urgent[1:]))
    waiting = [
        _with_backlog(overview, _told(sink, trouble, overview.time))
        for sink, trouble in _present(overview)
    ]
    if waiting:
        return Summary(level="waiting", headline=waiting[0], also=tuple(waiting[1:]))
    return Summary(level="ok", headline=_calm(overview))


def _urgent(overview: Status, dead_letters: int) -> Iterator[str]:
    yield from _without_service(overview)
    for sink, trouble in _present(overview):
        if trouble.alarm or overview.time - trouble.since >= PAUSED_SECONDS:
            yield _with_backlog(overview, _told(sink, trouble, overview.time))
    if overview.disk.full:
        yield (
            "The spool root is full: new records of training are refused and counted; give it"
            " room, or raise root_bytes"
        )
    for folder, why in list(overview.closed.items())[:1]:
        left = len(overview.closed) - 1
        more = f" (and {counted(left, 'folder')} more)" if left else ""
        yield f"{folder} {why}{more}; what is recorded there is not shipped: see lens-ship check"
    broken = overview.unreadable
    if broken:
        problem = broken[0].problem.replace(f"{overview.root}/", "")
        more = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
        yield f"{counted(len(broken), 'spool')} cannot be read: {problem}{more}"
    if overview.dead > dead_letters:
        yield (
            f"{counted(overview.dead, 'record')} refused for good and kept:"
            " see lens-ship dead-letter list"
        )


def _without_service(overview: Status) -> Iterator[str]:
    sign = overview.sign
    if overview.stuck and sign is not None:
        yield (
            f"The service (pid {sign.pid}) does not move since"
            f" {clock(sign.beat, overview.time)}: restart it; nothing is lost"
        )
    if overview.running or not overview.pending:
        return
    verb = "waits" if overview.pending == 1 else "wait"
    waits = f"{counted(overview.pending, 'record')} {verb} and no service runs"
    if sign is None:
        yield f"{waits}: start it with lens-ship run"
    elif sign.stopped:
        yield f"{waits}: it was stopped at {clock(sign.stopped, overview.time)}"
    else:
        yield f"{waits}: it ended without a goodbye at {clock(sign.beat, overview.time)}"


def _present(overview: Status) -> Iterator[tuple[SinkStatus, Trouble]]:
    """What is wrong now, of a service that is there to say so."""
    if not overview.running:
        return
    for sink in overview.sinks:
        by_reason: dict[str, Trouble] = {}
        for trouble in sink.present:
            by_reason.setdefault(trouble.reason, trouble)
        for trouble in by_reason.values():
            yield sink, trouble


def _told(sink: SinkStatus, trouble: Trouble, now: float) -> str:
    text, advice = _SAID.get(trouble.reason, (f"says {trouble.reason}", "see its log"))
    same = [other for other in sink.present if other.reason == trouble.reason]
    whose = ""
    if trouble.workload:
        whose = f" (workload {trouble.workload}"
        whose += f" and {len(same) - 1} more)" if len(same) > 1 else ")"
    return f"{sink.sink} {text}{whose} since {clock(trouble.since, now)}: {advice}"


def _with_backlog(overview: Status, text: str) -> str:
    behind = overview.pending
    return f"{counted(behind, 'record')} behind, {text}" if behind else text[0].upper() + text[1:]


def _calm(overview: Status) -> str:
    missing = "" if overview.disk.size else ", which is not there yet"
    if not overview.spools and overview.sign is None:
        return f"Nothing recorded below {overview.root}{missing}, and no service has run yet"
    if not overview.running:
        return "Nothing waits, and no service runs"
    if not overview.spools:
        return f"Waiting for the first spool below {overview.root}{missing}"
    if not overview.pending:
        return "All delivered"
    age = overview.age(overview.oldest)
    since = f", the oldest {duration(age)} old" if age is not None else ""
    told = f"{counted(overview.pending, 'record')} on the way{since}"
    return f"All is well: {told}" if age is not None and age < FRESH_SECONDS else told


def badness(spool: SpoolStatus) -> tuple[object, ...]:
    """For sorting: what cannot be read, then what is furthest behind, then what has losses."""
    oldest = spool.oldest if spool.oldest is not None else float("inf")
    return (not spool.problem, -spool.pending, oldest, -spool.dead, -spool.lost, spool.spool)


def counted(number: int, what: str) -> str:
    """A number with its noun."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def clock(then: float, now: float) -> str:
    """A time of day, with the date when it was not today."""
    at = time.localtime(then)
    same = time.localtime(now)[:3] == at[:3]
    return time.strftime("%H:%M" if same else "%Y-%m-%d %H:%M", at)


def duration(seconds: float | None) -> str:
    """In the unit that says most in few characters: 45 s, 12 min, 3.5 h, 2.1 d."""
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d"


def short(number: int) -> str:
    """A count in few characters: exact below a million."""
    for unit, factor in (("G", 10**9), ("M", 10**6)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number:,}"
