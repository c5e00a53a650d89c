"""What the ledger is told and asked for, one class for each kind of entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a sink is in a spool.

    Everything up to `seq` is settled. Where runs lie between each other in a spool, `ahead` says
    how far single runs are beyond that: run -> seq; `early` are those of their records that are
    settled and lie beyond `seq`: they stay settled when the file is lost that tells whose they are.
    """

    seq: int = 0
    ahead: Mapping[str, int] = field(default_factory=dict)
    early: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What one acknowledgement settles: counts of records, and of requests."""

    delivered: int = 0
    passed: int = 0  # records that the sink has no use for
    requests: int = 0
    points: int = 0  # values in the records delivered
    nonfinite: int = 0  # those of them that no number can tell
    left_out: int = 0  # values that the sink has no form for
    dropped: Mapping[str, int] = field(default_factory=dict)  # by a rule of the sink, by reason


@dataclass(frozen=True, kw_only=True)
class Life:
    """What is known of a receiver that forgets: its life by name, "" when none was met.

    `flight` is the seq of a record that must not arrive twice and was about to be sent to the life
    `flight_life`; 0 when there is none. Whether it arrived shows the position alone.
    """

    name: str = ""
    flight: int = 0
    flight_life: str = ""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of records without a gap, `first` to `last`, and a digest over them."""

    first: int
    last: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a finished replay has sent: records `first` to `last`, and a digest over them.

    The digests of `pieces` can be compared with what lies on disk later, whatever was selected.
    """

    spool: str
    entry: str
    directory: str
    first: int
    last: int
    records: int
    digest: str
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """One record that a sink refused for good, as it was in the spool, with the answer."""

    spool: str
    sink: str
    seq: int
    kind: str
    body: bytes
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Gap:
    """What a gap record tells; `first` and `last` are 0 where the records never had a seq."""

    spool: str
    seq: int
    reason: str
    count: int
    first: int = 0
    last: int = 0
