"""Every setting of the training side: variable, default, meaning, and why that default. Pure.

All come from the environment, because the hook is there before any code of the user's. They are
read when a spool is opened, so a script may set them before its first `wandb.init`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spooler import async_exceptions
from spooler.spool.identity import MAX_BYTES, is_on

OUTPUT_PATH = "PRIMUS_LENS_WANDB_OUTPUT_PATH"
HOOK = "PRIMUS_LENS_WANDB_HOOK"
DEBUG = "PRIMUS_LENS_WANDB_DEBUG"
WHEN_FULL = "PRIMUS_LENS_SPOOL_WHEN_FULL"
SYNC_SECONDS = "PRIMUS_LENS_SPOOL_SYNC_SECONDS"
COLLECTORS = "PRIMUS_LENS_COLLECTORS"
LOG_FILE = "TRAINING_LOG_FILE"
XPU_TIMER_PORT = "XPU_TIMER_PORT"
LOG_SECONDS = "PRIMUS_LENS_LOG_SECONDS"
LOG_START = "PRIMUS_LENS_LOG_START"
METRIC_SECONDS = "PRIMUS_LENS_METRIC_SECONDS"
STACK_SECONDS = "PRIMUS_LENS_STACK_SECONDS"
STACK_SIGNAL = "PRIMUS_LENS_STACK_SIGNAL"
HANG_SECONDS = "PRIMUS_LENS_HANG_SECONDS"
HANG_DUMP = "PRIMUS_LENS_HANG_DUMP"
MAX_RESTARTS = "PRIMUS_LENS_MAX_RESTARTS"

# Segments are an eighth of this: below it one would hold hardly a record.
_LEAST_BYTES = 1024 * 1024
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})
_ALL_COLLECTORS = frozenset({"log", "metric", "stack"})


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
        " docs/decisions/0015-background-sync.md for what it costs.",
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
    Variable(
        name=COLLECTORS,
        default="",
        meaning="What the process collects from `wandb.init` on, without code: any of `log`,"
        " `metric`, `stack`, separated by commas, or `true` for all. Unset: nothing.",
        why="Logs and stacks leave the process only when somebody wants them.",
    ),
    Variable(
        name=LOG_FILE,
        default="",
        meaning="The training log to follow, for a program that names none.",
        why="DLRover's variable.",
    ),
    Variable(
        name=XPU_TIMER_PORT,
        default="",
        meaning="Local port of the XPU timer's metrics page. Unset: there is none.",
        why="DLRover's variable.",
    ),
    Variable(
        name=LOG_SECONDS,
        default="5",
        meaning="Seconds between two looks at the log file; 0: none.",
        why="A look without news is a handful of system calls.",
    ),
    Variable(
        name=LOG_START,
        default="beginning",
        meaning="`end` passes over what a log file holds when it is followed for the first time.",
        why="What is in the log of a job belongs to the job.",
    ),
    Variable(
        name=METRIC_SECONDS,
        default="60",
        meaning="Seconds between two samples of the XPU timer; 0: none.",
        why="As DLRover samples it, whose master finds hangs in the samples.",
    ),
    Variable(
        name=STACK_SECONDS,
        default="600",
        meaning="Seconds between two periodic looks at the stacks; 0: none.",
        why="A hang has its own look; this one shows where time goes.",
    ),
    Variable(
        name=STACK_SIGNAL,
        default="",
        meaning="A signal, such as `SIGUSR2`, that has the stacks taken; a handler that is there"
        " already is called too. Unset: none.",
        why="Signals belong to the program.",
    ),
    Variable(
        name=HANG_SECONDS,
        default="300",
        meaning="When no step has been logged for so long, the stacks are taken, once; 0: never.",
        why="Longer than most checkpoints and evaluations; a look too many costs milliseconds.",
    ),
    Variable(
        name=HANG_DUMP,
        default="false",
        meaning="`true`: a timer in C writes the stacks even while a call holds the interpreter's"
        " lock.",
        why="Python has one such timer, and the program may use it itself.",
    ),
    Variable(
        name=MAX_RESTARTS,
        default="3",
        meaning="How many restarts may answer a failure before the node is given up for it.",
        why="As DLRover has it.",
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


@dataclass(frozen=True, kw_only=True)
class CollectorSettings:
    """The variables of the collectors, read and checked; seconds of 0 mean never."""

    wanted: frozenset[str]  # names of collectors that start without code
    unknown: frozenset[str]  # names given that are none
    log_seconds: float
    log_from_end: bool
    metric_seconds: float
    stack_seconds: float
    stack_signal: str
    hang_seconds: float
    hang_dump: bool
    max_restarts: int


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
        debug=_is_true(environ, DEBUG),
    )


def collectors_from_environ(environ: Mapping[str, str]) -> CollectorSettings:
    """Read the settings of the collectors; as `from_environ`, nothing raises."""
    return CollectorSettings(
        wanted=_wanted(environ) & _ALL_COLLECTORS,
        unknown=_wanted(environ) - _ALL_COLLECTORS - _FALSE,
        log_seconds=_positive(environ, LOG_SECONDS, least=0),
        log_from_end=environ.get(LOG_START, "").strip().lower() == "end",
        metric_seconds=_positive(environ, METRIC_SECONDS, least=0),
        stack_seconds=_positive(environ, STACK_SECONDS, least=0),
        stack_signal=environ.get(STACK_SIGNAL, "").strip().upper(),
        hang_seconds=_positive(environ, HANG_SECONDS, least=0),
        hang_dump=_is_true(environ, HANG_DUMP),
        max_restarts=int(_positive(environ, MAX_RESTARTS, least=0)),
    )


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether the hook is to be active in this process."""
    return bool(environ.get(OUTPUT_PATH)) and is_hook_on(environ)


def is_hook_on(environ: Mapping[str, str]) -> bool:
    """Whether the hook has not been switched off."""
    return is_on(environ, HOOK)


def _is_true(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").strip().lower() in _TRUE


def _wanted(environ: Mapping[str, str]) -> frozenset[str]:
    if _is_true(environ, COLLECTORS):
        return _ALL_COLLECTORS
    names = environ.get(COLLECTORS, "").lower().split(",")
    return frozenset(name.strip() for name in names if name.strip())


def _positive(environ: Mapping[str, str], name: str, *, least: float = 1) -> float:
    default = next(v.default for v in VARIABLES if v.name == name)
    text = environ.get(name, "")
    if not text:
        return float(default)  # not by `float`, see `identity.first_int`
    try:
        value = float(text)
    except ValueError as error:
        if async_exceptions.is_async(error):
            raise
        return float(default)
    return value if least <= value < float("inf") else float(default)
