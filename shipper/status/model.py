"""Where everything stands: what `lens-ship status`, the page and the metrics tell, in one form.

`survey` looks, `verdict` puts it into a sentence, `screen` shows it in a terminal. Counts are of
records, times Unix seconds. `pending_bytes` is an estimate: whole segments as they lie on disk, and
of a segment that is delivered in part its share of records. Everything else is exact, as far as the
service has got: what a look cannot see without reading every record (a damaged record that no sink
has come to) `lens-ship audit` tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from shipper.ledger.service_status import Sign, Trouble

# Without a sign of life for so long, the service does not move: it gives one every few seconds.
STUCK_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class SpoolSinkStatus:
    """One spool on its way to one sink; `oldest` is the time of its first pending record."""

    sink: str
    delivered: int = 0
    passed: int = 0  # the sink has no use for them
    pending: int = 0
    pending_bytes: int = 0
    oldest: float | None = None
    settled: float | None = None  # time of the last record that is settled
    dead: int = 0  # dead letters that are kept
    corrupt: int = 0
    evicted: int = 0  # deleted undelivered, to keep a limit, or given up by a rule of the sink


@dataclass(frozen=True, kw_only=True)
class SpoolStatus:
    """One spool; `state` is writing, ended, withheld (not to be shipped) or unreadable."""

    spool: str
    directory: str
    state: str
    written: int = 0
    bytes: int = 0
    newest: float | None = None  # time of its last record
    workload: str = ""
    host: str = ""
    pid: int = 0
    rank: int | None = None
    problem: str = ""
    dropped: Mapping[str, int] = field(default_factory=dict)  # never written, by reason
    ways: tuple[SpoolSinkStatus, ...] = ()

    @property
    def pending(self) -> int:
        """Records that the sink that is furthest behind has not got."""
        return max((way.pending for way in self.ways), default=0)

    @property
    def oldest(self) -> float | None:
        """Time of the first record that some sink has not got."""
        return min((way.oldest for way in self.ways if way.oldest is not None), default=None)

    @property
    def dead(self) -> int:
        """Dead letters of all sinks."""
        return sum(way.dead for way in self.ways)

    @property
    def lost(self) -> int:
        """Records that some sink will never get, or that were never written."""
        lost = max((way.corrupt + way.evicted for way in self.ways), default=0)
        return lost + sum(self.dropped.values())


@dataclass(frozen=True, kw_only=True)
class SinkStatus:
    """One sink over all spools, deleted and forgotten ones included in what only grows."""

    sink: str
    delivered: int = 0
    passed: int = 0
    requests: int = 0
    points: int = 0  # values delivered
    nonfinite: int = 0  # values told as `<name>/nonfinite`
    left_out: int = 0  # values that it has no form for
    pending: int = 0
    pending_bytes: int = 0
    oldest: float | None = None
    seen: float | None = None  # time of the last record in any spool
    settled: float | None = None  # time of the last record that is settled for this sink
    rate: float | None = None  # records per second over the last minute; None: nobody ships
    dead: Mapping[str, int] = field(default_factory=dict)  # kept dead letters, by reason
    refused: Mapping[str, int] = field(default_factory=dict)  # all there ever were, by reason
    given_up: int = 0  # dead letters dropped by an operator or a limit
    lost: Mapping[str, int] = field(default_factory=dict)  # corrupt, or deleted, by reason
    troubles: tuple[Trouble, ...] = ()  # present ones first, then what is over

    @property
    def present(self) -> tuple[Trouble, ...]:
        """What is wrong now."""
        return tuple(trouble for trouble in self.troubles if trouble.until is None)

    @property
    def paused(self) -> Trouble | None:
        """What keeps the whole sink waiting, if anything does."""
        return next((trouble for trouble in self.present if not trouble.workload), None)


@dataclass(frozen=True, kw_only=True)
class DiskStatus:
    """The spool root on its disk: `used` by spools, `limit` 0 for none; `full`: writers pause."""

    used: int = 0
    limit: int = 0
    free: int = 0
    size: int = 0
    full: bool = False


@dataclass(frozen=True, kw_only=True)
class Status:
    """Everything at one time. `running` and `sign` tell of the service of the state directory."""

    time: float
    root: str
    state: str
    running: bool
    sign: Sign | None
    disk: DiskStatus
    spools: tuple[SpoolStatus, ...]
    sinks: tuple[SinkStatus, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)  # by training processes, by reason
    closed: Mapping[str, str] = field(default_factory=dict)  # folder that may hold spools -> why

    @property
    def pending(self) -> int:
        """Records behind: those of the sink that is furthest behind, spool by spool."""
        return sum(spool.pending for spool in self.spools)

    @property
    def pending_bytes(self) -> int:
        """About how many bytes of disk those take."""
        return sum(
            max((way.pending_bytes for way in spool.ways), default=0) for spool in self.spools
        )

    @property
    def oldest(self) -> float | None:
        """Time of the oldest pending record."""
        return min((s.oldest for s in self.spools if s.oldest is not None), default=None)

    @property
    def dead(self) -> int:
        """Dead letters that are kept."""
        return sum(sum(sink.dead.values()) for sink in self.sinks)

    @property
    def unreadable(self) -> tuple[SpoolStatus, ...]:
        """Spools of which something cannot be read."""
        return tuple(spool for spool in self.spools if spool.problem)

    @property
    def stuck(self) -> bool:
        """Whether the service holds its lock and gives no sign of life."""
        if not self.running or self.sign is None:
            return False
        return self.time - self.sign.beat > STUCK_SECONDS

    def age(self, time: float | None) -> float | None:
        """Seconds since then; never below 0, as clocks of jobs may run ahead."""
        return None if time is None else max(0.0, self.time - time)

    def to_map(self) -> dict[str, Any]:
        """For machines."""
        whole = asdict(self)
        whole["pending"], whole["pending_bytes"] = self.pending, self.pending_bytes
        whole["oldest_age_seconds"] = self.age(self.oldest)
        whole["dead"], whole["stuck"] = self.dead, self.stuck
        for made, one in zip(whole["sinks"], self.sinks, strict=True):
            made["oldest_age_seconds"] = self.age(one.oldest)
        for made, spool in zip(whole["spools"], self.spools, strict=True):
            made["pending"], made["dead"] = spool.pending, spool.dead
            made["oldest_age_seconds"] = self.age(spool.oldest)
        return whole
