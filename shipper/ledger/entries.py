"""The values that the ledger stores, one class for each kind of entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_NONE: frozenset[int] = frozenset()  # one for all: an empty set takes 216 bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """How far a sink has acknowledged a spool.

    Every record up to `seq` is acknowledged. The runs of a spool advance independently: beyond
    `seq`, `acked_by_run` holds the last acknowledged seq of single runs, and `acked_seqs` exactly
    which records are acknowledged, as the file that tells their runs may be lost.
    """

    seq: int = 0
    acked_by_run: Mapping[str, int] = field(default_factory=dict)
    acked_seqs: frozenset[int] = _NONE

    def beyond(self, seq: int) -> Position:
        """This position, moved forward to `seq`."""
        return Position(
            seq=seq,
            acked_by_run={run: last for run, last in self.acked_by_run.items() if last > seq},
            acked_seqs=frozenset(acked for acked in self.acked_seqs if acked > seq) or _NONE,
        )


@dataclass(frozen=True, kw_only=True)
class CommitDelta:
    """What one commit adds to the counters of a position: records, requests and values."""

    delivered: int = 0
    skipped: int = 0  # records of kinds that the sink does not take
    requests: int = 0
    points: int = 0  # values in the records delivered
    nonfinite: int = 0  # values among them that are not finite
    left_out: int = 0  # values that the sink cannot represent
    rejected: int = 0  # values that the receiver acknowledged and does not store
    dropped: Mapping[str, int] = field(default_factory=dict)  # records by reason


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiverEpoch:
    """The epoch of a volatile receiver that has what was acknowledged; `name` is "" for none.

    `in_flight` is the seq of a record that must not arrive twice and was about to be sent in the
    epoch `in_flight_epoch`; 0 for none. Only the position shows whether it was acknowledged.
    """

    name: str = ""
    in_flight: int = 0
    in_flight_epoch: str = ""


@dataclass(frozen=True, kw_only=True)
class DigestRange:
    """Consecutive records `first` to `last`, and a digest over them."""

    first: int
    last: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a finished replay has sent: records `first` to `last`, and a digest over them.

    The digests of `pieces` can be compared with what is on disk later, whatever was selected.
    """

    spool: str
    entry: str
    directory: str
    first: int
    last: int
    records: int
    digest: str
    pieces: tuple[DigestRange, ...] = ()
    kinds: frozenset[str] | None = None  # that were sent; None: all


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """One record that a receiver rejected permanently, as it was in the spool, and the answer."""

    spool: str
    sink: str
    seq: int
    kind: str
    body: bytes
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Gap:
    """What a gap record reports; `first` and `last` are 0 where the records never had a seq."""

    spool: str
    seq: int
    reason: str
    count: int
    first: int = 0
    last: int = 0
