"""What is delivered, what is pending and why, at one moment.

`lens-ship status`, the page and the metrics all read this model. `collect` makes it, `summary` puts
it into a sentence, `terminal` prints it. Counts are of records, times are Unix seconds.
`pending_bytes` is an estimate: whole segments as they lie on disk, and of a segment that is
acknowledged in part the share of its records. Everything else is counted. A damaged record that no
sink has reached yet counts as pending: only `lens-ship audit` reads every record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from shipper.humanize import most_frequent
from shipper.ledger.service_status import Heartbeat, OutageRow
from shipper.status.shared_names import SharedNames

# The service writes a heartbeat every few seconds. Without one for so long, it is stuck.
STUCK_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SpoolSinkStatus:
    """One spool and one sink."""

    sink: str
    delivered: int = 0
    skipped: int = 0  # of kinds that the sink does not take
    pending: int = 0
    pending_bytes: int = 0
    oldest: float | None = None  # time of the first pending record
    newest_acknowledged: float | None = None  # time of the last record that is not pending
    waiting_since: float | None = None  # what is pending was written, and nothing delivered since
    dead_letters: int = 0  # kept
    corrupt: int = 0
    dropped: int = 0  # deleted undelivered to keep a limit, or by a rule of the sink


@dataclass(frozen=True, kw_only=True, slots=True)
class SpoolStatus:
    """One spool; `state` is writing, ended, disabled (reporting is off) or unreadable."""

    spool: str
    directory: str
    state: str
    written: int = 0
    bytes: int = 0
    newest: float | None = None  # time of the last record
    workload: str = ""
    host: str = ""
    pid: int = 0
    rank: int | None = None
    problem: str = ""
    flush_interval: float = 0.0  # seconds
    producer_dropped: Mapping[str, int] = field(default_factory=dict)  # never written, by reason
    sinks: tuple[SpoolSinkStatus, ...] = ()
    unconfigured: Mapping[str, int] = field(default_factory=dict)  # removed sink -> unsent records

    @property
    def pending(self) -> int:
        """Pending records of the sink with the largest backlog."""
        return max((one.pending for one in self.sinks), default=0)

    @property
    def oldest(self) -> float | None:
        return _least(one.oldest for one in self.sinks)

    @property
    def dead_letters(self) -> int:
        return sum(one.dead_letters for one in self.sinks)

    @property
    def dropped(self) -> int:
        """Records that some sink will never get: corrupt, dropped, or never written."""
        never = max((one.corrupt + one.dropped for one in self.sinks), default=0)
        return never + sum(self.producer_dropped.values())

    @property
    def severity_key(self) -> tuple[object, ...]:
        """Sort key: unreadable spools first, then the largest backlog, then losses."""
        oldest = float("inf") if self.oldest is None else self.oldest
        losses = (-self.dead_letters, -self.dropped)
        return (not self.problem, -self.pending, oldest, *losses, self.spool)


@dataclass(frozen=True, kw_only=True)
class SinkStatus:
    """One sink over all spools; what only grows includes spools that are deleted."""

    sink: str
    delivered: int = 0
    skipped: int = 0
    requests: int = 0
    values: int = 0  # delivered
    nonfinite_values: int = 0  # sent as `<name>/nonfinite`
    skipped_values: int = 0  # of types that the sink has no form for
    rejected_values: int = 0  # acknowledged by the receiver, and not stored
    pending: int = 0
    pending_bytes: int = 0
    oldest: float | None = None
    newest: float | None = None  # time of the last record in any spool
    newest_acknowledged: float | None = None
    rate: float | None = None  # records per second over the last minute; None: no service runs
    dead_letters: Mapping[str, int] = field(default_factory=dict)  # kept, by reason
    rejected: Mapping[str, int] = field(default_factory=dict)  # every dead letter ever, by reason
    dead_letters_discarded: int = 0  # by an operator or a limit
    dropped: Mapping[str, int] = field(default_factory=dict)  # by reason, `corrupt` among them
    outages: tuple[OutageRow, ...] = ()  # ongoing ones first, then what is over

    @property
    def ongoing(self) -> tuple[OutageRow, ...]:
        return tuple(outage for outage in self.outages if outage.until is None)

    @property
    def paused(self) -> OutageRow | None:
        """The outage that pauses the whole sink, if there is one."""
        return next((outage for outage in self.ongoing if not outage.workload), None)

    @property
    def state(self) -> str:
        """`ok`, `partly paused` (workloads wait), `paused`, or `action required`."""
        if self.paused is not None:
            return "action required" if self.paused.alarm else "paused"
        return "partly paused" if self.ongoing else "ok"


@dataclass(frozen=True, kw_only=True)
class DiskStatus:
    """The spool root on its file system, in bytes; `limit` 0: none; `full`: writers drop."""

    used: int = 0  # by spools
    limit: int = 0
    free: int = 0
    size: int = 0
    full: bool = False


@dataclass(frozen=True, kw_only=True)
class Status:
    """Everything at one moment; `running` and `heartbeat` are of the service of `state`."""

    time: float
    root: str
    state: str  # the state directory
    running: bool
    heartbeat: Heartbeat | None
    disk: DiskStatus
    spools: tuple[SpoolStatus, ...]
    sinks: tuple[SinkStatus, ...]
    producer_dropped: Mapping[str, int] = field(default_factory=dict)  # by reason
    unreadable_directories: Mapping[str, str] = field(default_factory=dict)  # path -> why
    # Directory of a spool whose files are gone -> records that a sink should still have got.
    missing: Mapping[str, int] = field(default_factory=dict)
    other_state: str = ""  # of another service that runs on this root
    shared_names: tuple[SharedNames, ...] = ()  # at most one pair of runs of each workload

    @property
    def pending(self) -> int:
        """Records in the backlog: a record that several sinks wait for counts once."""
        return sum(spool.pending for spool in self.spools)

    @property
    def pending_bytes(self) -> int:
        return sum(max((s.pending_bytes for s in one.sinks), default=0) for one in self.spools)

    @property
    def oldest(self) -> float | None:
        return _least(spool.oldest for spool in self.spools)

    @property
    def dead_letters(self) -> int:
        return sum(sum(sink.dead_letters.values()) for sink in self.sinks)

    @property
    def unconfigured(self) -> dict[str, int]:
        """Unsent records of sinks that the configuration no longer has."""
        names = {name for spool in self.spools for name in spool.unconfigured}
        return {n: sum(one.unconfigured.get(n, 0) for one in self.spools) for n in sorted(names)}

    @property
    def writing(self) -> int:
        """Spools that a training process writes now."""
        return sum(spool.state == "writing" for spool in self.spools)

    @property
    def worst_first(self) -> list[SpoolStatus]:
        return sorted(self.spools, key=lambda spool: spool.severity_key)

    @property
    def stuck(self) -> bool:
        """Whether the service holds its lock and writes no heartbeat."""
        if not self.running or self.heartbeat is None:
            return False
        return self.time - self.heartbeat.beat > STUCK_SECONDS

    def age(self, time: float | None) -> float | None:
        """Seconds since `time`; never below 0, as clocks of jobs may run ahead."""
        return None if time is None else max(0.0, self.time - time)

    def to_map(self, most_spools: int | None = None) -> dict[str, Any]:
        """For JSON, with every spool or only the worst ones."""
        spools = self.spools if most_spools is None else tuple(self.worst_first[:most_spools])
        found = asdict(replace(self, spools=spools)) | {
            "producer_dropped": most_frequent(self.producer_dropped),
            "pending": self.pending,
            "pending_bytes": self.pending_bytes,
            "oldest_age_seconds": self.age(self.oldest),
            "dead_letters": self.dead_letters,
            "unconfigured": self.unconfigured,
            "spools_total": len(self.spools),
            "spools_writing": self.writing,
            "stuck": self.stuck,
        }
        for made, sink in zip(found["sinks"], self.sinks, strict=True):
            made |= {"oldest_age_seconds": self.age(sink.oldest), "state": sink.state}
            for outage in made["outages"]:
                outage["action_required"] = outage.pop("alarm")
        for made, spool in zip(found["spools"], spools, strict=True):
            made |= {
                "producer_dropped": most_frequent(spool.producer_dropped),
                "pending": spool.pending,
                "oldest_age_seconds": self.age(spool.oldest),
                "dead_letters": spool.dead_letters,
                "dropped": spool.dropped,
            }
        return found


def _least(times: Iterable[float | None]) -> float | None:
    return min((time for time in times if time is not None), default=None)
