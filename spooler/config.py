"""Every setting of the training side: variable, default, meaning, and why that default. Pure.

All come from the environment, because the hook is there before any code of the user's. They are
read when a spool is opened, so a script may set them before its first `wandb.init`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spooler.spool.identity import MAX_BYTES, is_on

OUTPUT_PATH = "PRIMUS_LENS_WANDB_OUTPUT_PATH"
HOOK = "PRIMUS_LENS_WANDB_HOOK"
DEBUG = "PRIMUS_LENS_WANDB_DEBUG"
WHEN_FULL = "PRIMUS_LENS_SPOOL_WHEN_FULL"
SYNC_SECONDS = "PRIMUS_LENS_SPOOL_SYNC_SECONDS"

# Two empty segments with their shared memory take a tenth of this: below it nothing would fit.
_LEAST_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One row of the table below."""

    name: str
    default: str
    meaning: str
    why: str


VARIABLES = (
    Variable(
        name=OUTPUT_PATH,
        default="",
        meaning="The spool root. Unset: the hook stays out of the way entirely.",
        why="A job that nobody has set up is left alone.",
    ),
    Variable(
        name=HOOK,
        default="true",
        meaning="`false` switches the hook off.",
        why="The root alone is enough to switch it on.",
    ),
    Variable(
        name=DEBUG,
        default="false",
        meaning="`true` prints what the hook does to stderr.",
        why="The log of a training job belongs to the job.",
    ),
    Variable(
        name="PRIMUS_LENS_SPOOL_SEGMENT_BYTES",
        default="8388608",
        meaning="Record bytes after which a new segment begins.",
        why="A whole segment is the unit in which disk comes back; 8 MiB is minutes to hours of"
        " most jobs.",
    ),
    Variable(
        name="PRIMUS_LENS_SPOOL_SEGMENT_RECORDS",
        default="16384",
        meaning="Records after which a new segment begins.",
        why="Bounds the write-ahead log, which takes about 1.4 kB a record until the segment is"
        " sealed, to 23 MB.",
    ),
    Variable(
        name="PRIMUS_LENS_SPOOL_SEGMENT_SECONDS",
        default="3600",
        meaning="Age in seconds after which a segment that holds records ends.",
        why="What a slow job holds back from deletion is an hour's worth.",
    ),
    Variable(
        name=SYNC_SECONDS,
        default="1",
        meaning="How many seconds of records power loss may take; 0: what the system had not"
        " written back yet. Starts, detections, reports and ends are brought to the disk at once.",
        why="The background thread does it, once a second and only after new records: see"
        " docs/decisions/0015-synced-in-the-background.md for what it costs.",
    ),
    Variable(
        name=MAX_BYTES,
        default="4294967296",
        meaning="Bytes of disk that one spool may take, 1048576 at least.",
        why="4 GiB is days of most jobs without a receiver, and little of a node's disk.",
    ),
    Variable(
        name=WHEN_FULL,
        default="drop-newest",
        meaning="What gives way when nothing delivered is left to delete: `drop-newest` refuses"
        " new records, `drop-oldest` deletes the oldest segment. Both are counted.",
        why="What was promised to be kept stays.",
    ),
    Variable(
        name="PRIMUS_LENS_SPOOL_GROUP",
        default="",
        meaning="Group (name or number) that may read and delete spools, for a service that"
        " runs as another user. Unset: the group of a root that is set-group-id and open to all;"
        " else nobody: folders are 0700 and files 0600.",
        why="Telemetry holds names and configurations: nobody else reads it unless told so.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The variables above, read and checked; a malformed number counts as not set."""

    root: Path | None
    segment_bytes: int
    segment_records: int
    segment_seconds: float
    sync_seconds: float
    max_bytes: int
    drop_oldest: bool
    group: str
    debug: bool


def from_environ(environ: Mapping[str, str]) -> Settings:
    """Read the settings. Nothing here raises: a bad value falls back to its default."""
    root = environ.get(OUTPUT_PATH, "")
    return Settings(
        root=Path(root) if root else None,
        segment_bytes=int(_positive(environ, "PRIMUS_LENS_SPOOL_SEGMENT_BYTES")),
        segment_records=int(_positive(environ, "PRIMUS_LENS_SPOOL_SEGMENT_RECORDS")),
        segment_seconds=_positive(environ, "PRIMUS_LENS_SPOOL_SEGMENT_SECONDS"),
        sync_seconds=_positive(environ, SYNC_SECONDS, least=0),
        max_bytes=max(_LEAST_BYTES, int(_positive(environ, MAX_BYTES))),
        drop_oldest=environ.get(WHEN_FULL, "").strip().lower() == "drop-oldest",
        group=environ.get("PRIMUS_LENS_SPOOL_GROUP", ""),
        debug=environ.get(DEBUG, "").strip().lower() in {"true", "1", "yes", "on"},
    )


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether the hook is to be active in this process."""
    return bool(environ.get(OUTPUT_PATH)) and is_hook_on(environ)


def is_hook_on(environ: Mapping[str, str]) -> bool:
    """Whether the hook has not been switched off."""
    return is_on(environ, HOOK)


def _positive(environ: Mapping[str, str], name: str, *, least: float = 1) -> float:
    default = next(v.default for v in VARIABLES if v.name == name)
    try:
        value = float(environ.get(name, ""))
    except ValueError:
        return float(default)
    return value if least <= value < float("inf") else float(default)
