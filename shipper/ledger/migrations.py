"""The tables of the service's own database, as the steps that led to them.

A database of version n has had the first n steps; opening it takes the ones that follow, all in one
transaction (`shipper.ledger.database`). What a step of a release says never changes any more.

To add a table or columns, append a step to `MIGRATIONS`. A table that is there keeps its rows and
gets the columns it lacks, with NULL in them (SQLite lets a new column have no other default here);
`statements` run after that, for indexes and for what is to be computed from old rows. All counts
are of records unless named otherwise; times are Unix seconds. Counters only grow, and change in the
transaction that moves the position they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns with their types, and the primary key; a key of an older table stays as it is."""

    columns: Mapping[str, type]
    key: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Migration:
    """One step: tables to make or to complete, then SQL to run. Done twice, it is done once."""

    what: str
    tables: Mapping[str, Table] = field(default_factory=dict)
    statements: tuple[str, ...] = ()


_FIRST = {
    "spool": Table(
        columns={
            "id": str,
            "directory": str,
            "identity": str,  # JSON map
            "workload": str,  # its uid, where it had to be asked for
            "found": float,
            "deleted": float,
        },
        key=("id",),
    ),
    "position": Table(
        columns={
            "spool": str,
            "sink": str,
            "seq": int,
            "ahead": str,  # JSON map
            "early": str,  # JSON list of ranges
            "delivered": int,
            "passed": int,
            "requests": int,
            "cut_off_told": int,  # 1 once the sink knows that the process died
            "updated": float,
        },
        key=("spool", "sink"),
    ),
    "dead_letter": Table(
        columns={
            "id": int,
            "spool": str,
            "sink": str,
            "seq": int,
            "kind": str,
            "body": bytes,
            "reason": str,
            "detail": str,
            "time": float,
            "state": str,  # kept, delivered (by a later try), dropped (by an operator or a limit)
        },
        key=("id",),
    ),
    "damage": Table(
        columns={
            "spool": str,
            "sink": str,
            "first": int,
            "last": int,
            "path": str,
            "reason": str,  # `dropped:<why>` for what this service has deleted undelivered
            "time": float,
        },
        key=("spool", "sink", "first"),
    ),
    "replay": Table(
        columns={
            "spool": str,
            "entry": str,  # the name of its position: sink, or sink~selection~number
            "directory": str,
            "begun": float,
            "ended": float,
            "first": int,
            "last": int,
            "records": int,
            "digest": str,
        },
        key=("spool", "entry"),
    ),
    "gap": Table(
        columns={
            "spool": str,
            "seq": int,
            "reason": str,
            "count": int,
            "first": int,  # seqs of what the writer has deleted; 0 where there never were any
            "last": int,
            "time": float,
        },
        key=("spool", "seq"),
    ),
}
_DEAD_LETTER_ONCE = (
    'CREATE UNIQUE INDEX IF NOT EXISTS "idx_dead_letter_spool_sink_seq"'
    ' ON "dead_letter" ("spool", "sink", "seq")'
)

_TOLD = {
    # What the running service tells of itself; `shipper.ledger.service_status`.
    "service": Table(
        columns={
            "id": int,  # 1: the service of this directory
            "pid": int,
            "version": str,
            "address": str,  # of its HTTP port, or ""
            "problem": str,  # why it has none although it should, or ""
            "started": float,
            "beat": float,  # when it last said that it is there
            "stopped": float,
            "rates": str,  # JSON map: sink -> records delivered per second
        },
        key=("id",),
    ),
    # The present or else the last trouble of a sink (workload "") or of a workload.
    "trouble": Table(
        columns={
            "sink": str,
            "workload": str,
            "reason": str,
            "detail": str,
            "alarm": int,
            "since": float,
            "until": float,  # NULL while it lasts
        },
        key=("sink", "workload"),
    ),
    # What was counted of spools that are forgotten, so that sums over all never shrink.
    "forgotten": Table(
        columns={"sink": str, "what": str, "reason": str, "count": int},
        key=("sink", "what", "reason"),
    ),
    "position": Table(
        columns={
            "points": int,  # values that were delivered
            "nonfinite": int,  # values told as `<name>/nonfinite` instead
            "left_out": int,  # values that this sink has no form for
        },
        key=("spool", "sink"),
    ),
}
# Counting must not read the bodies, which lie between the other columns.
_DEAD_LETTER_COUNT = (
    'CREATE INDEX IF NOT EXISTS "idx_dead_letter_counts"'
    ' ON "dead_letter" ("sink", "reason", "state", "spool")'
)
_FORGETFUL = {
    "dropped": Table(  # given up by a rule of a sink
        columns={"spool": str, "sink": str, "reason": str, "count": int},
        key=("spool", "sink", "reason"),
    ),
    "life": Table(
        columns={
            "spool": str,
            "sink": str,  # the name of a position
            "life": str,  # of the receiver that has what was delivered
            "flight": int,  # seq of a record that must not arrive twice and was about to be sent
            "flight_life": str,
        },
        key=("spool", "sink"),
    ),
    "instance": Table(
        columns={"name": str},  # of this state directory, for receivers that keep something of it
        key=("name",),
    ),
}

MIGRATIONS: tuple[Migration, ...] = (
    Migration(what="the first version", tables=_FIRST, statements=(_DEAD_LETTER_ONCE,)),
    Migration(
        what="columns and tables that the first version got while it was being developed",
        tables=_FIRST,
        statements=(_DEAD_LETTER_ONCE,),
    ),
    Migration(
        what="digests of the pieces of what a replay has sent",
        tables={"replay": Table(columns={"pieces": str}, key=("spool", "entry"))},  # JSON list
    ),
    Migration(
        what="what the service tells of itself, and counters that outlive their spools",
        tables=_TOLD,
        statements=(_DEAD_LETTER_COUNT,),
    ),
    Migration(what="receivers that keep data in memory, and what sinks drop", tables=_FORGETFUL),
    Migration(
        what="the sinks that are configured",
        tables={"sink": Table(columns={"name": str, "type": str}, key=("name",))},
    ),
    Migration(
        what="how far spools were written, for when their files are gone",
        # The last seq that was seen; 0 once the service has deleted all of it as delivered.
        tables={"spool": Table(columns={"written": int}, key=("id",))},
    ),
    Migration(
        what="values that receivers reject in requests that they acknowledge",
        tables={"position": Table(columns={"rejected": int}, key=("spool", "sink"))},
    ),
    Migration(
        what="which kinds of records a replay has sent",
        tables={"replay": Table(columns={"kinds": str}, key=("spool", "entry"))},  # JSON, null: all
    ),
)
STATE_VERSION = len(MIGRATIONS)
