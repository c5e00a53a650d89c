"""Every variable of the training side. A variable is one field of a dataclass; nothing repeats it.

All settings come from the environment, because the hook starts before any code of the user. They
are read when a spool is opened, so a script may set them before its first `wandb.init`. A bad value
counts as not set, and callers that report it give a dict for it. Nothing here raises.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from spooler.async_exceptions import ours

OUTPUT_PATH = "PRIMUS_LENS_WANDB_OUTPUT_PATH"
HOOK = "PRIMUS_LENS_WANDB_HOOK"
TRACKERS = "PRIMUS_LENS_TRACKERS"
DEBUG = "PRIMUS_LENS_WANDB_DEBUG"
GROUP = "PRIMUS_LENS_SPOOL_GROUP"
MAX_BYTES = "PRIMUS_LENS_SPOOL_MAX_BYTES"
COLLECTORS = "PRIMUS_LENS_COLLECTORS"
LOG_FILE = "TRAINING_LOG_FILE"
LOG_PATTERN = "PRIMUS_LENS_LOG_PATTERN"
NODE_ERRORS = "FAILURE_NODE_ERRORS"
XPU_TIMER_PORT = "XPU_TIMER_PORT"
LOG_TRACKER = "log"  # of steps that the log collector found
SOLE_WRITER = "PRIMUS_LENS_SOLE_WRITER"
RUN_PREFIX = "PRIMUS_LENS_RUN_PREFIX"

# Segments are an eighth of this. A smaller segment would hold hardly a record.
_LEAST_BYTES = 1024 * 1024
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})
ALL_COLLECTORS = frozenset({"log", "metric", "stack"})
ALL_TRACKERS = frozenset({"wandb", "mlflow", "tensorboard", "transformers", LOG_TRACKER})


@dataclass(frozen=True)
class Variable:
    """How a field is read: the first of `names` with a value that `parse` accepts, else `default`.

    `meaning`, `why` (the reason for the default) and `shown` (the default as a user writes it) are
    for the documentation.
    """

    names: tuple[str, ...]
    default: Any
    parse: Callable[[str], Any]
    meaning: str = ""
    why: str = ""
    shown: str = ""


def variable(
    names: str | tuple[str, ...], default: Any, parse: Callable[[str], Any], *texts: str
) -> Any:
    """A dataclass field that `read` fills; `texts` are the texts of `Variable`."""
    names = (names,) if isinstance(names, str) else names
    return field(default=default, metadata={"variable": Variable(names, default, parse, *texts)})


def variables_of(cls: type) -> tuple[Variable, ...]:
    """The variables of a dataclass in the order of its fields."""
    return tuple(one.metadata["variable"] for one in fields(cls) if "variable" in one.metadata)


_known: dict[str, str] = {}


def environ() -> Mapping[str, str]:
    """The environment of this process, with what it knows better than that."""
    return {**os.environ, **_known} if _known else os.environ


def know(**variables: str) -> None:
    """Have `environ` show these values in this process, and not in its children."""
    if not _known:
        os.register_at_fork(after_in_child=_known.clear)
    _known.update(variables)


def read(
    cls: type, environ: Mapping[str, str], bad: dict[str, str] | None = None
) -> dict[str, Any]:
    """The values of the fields that have a variable, by the field's name.

    `bad` gets the variables of lens-ship with a value that cannot be used, and what to say of it.
    """
    return {
        one.name: _value(one.metadata["variable"], environ, bad)
        for one in fields(cls)
        if "variable" in one.metadata
    }


def _value(variable: Variable, environ: Mapping[str, str], bad: dict[str, str] | None) -> Any:
    for name in variable.names:
        text = environ.get(name, "").strip()  # a value from a file ends with its line end
        if not text:
            continue  # not by `parse`: CPython loses what a signal handler raises while that fails
        try:
            return variable.parse(text)
        except ours(ValueError):
            if bad is not None and name.startswith("PRIMUS_LENS_"):
                bad[name] = (
                    f"is {text[:40]!r}, which cannot be used and counts as not set."
                    " `lens-ship docs configuration` describes it."
                )
    return variable.default


# --- parsers: each raises ValueError for a value that counts as not set ---------------------------


def number(least: float) -> Callable[[str], float]:
    """A finite number that is not below `least`."""

    def parse(text: str) -> float:
        value = float(text)
        if not least <= value < float("inf"):
            raise ValueError("is out of range")
        return value

    return parse


def whole(least: float) -> Callable[[str], int]:
    """The same without the fraction."""
    parse = number(least)
    return lambda text: integer(parse(text))


def integer(text: str | float) -> int:
    """A whole number of at most 64 bits."""
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError("is out of range")
    return value


def positive(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError("is out of range")
    return value


def choice(off: Collection[str], on: Collection[str]) -> Callable[[str], bool]:
    """Whether the word is one of `on`; it must be one of these or of `off`."""

    def parse(text: str) -> bool:
        if text.lower() not in {*off, *on}:
            raise ValueError("is an unknown word")
        return text.lower() in on

    return parse


truth = choice(_FALSE, _TRUE)


def absolute(text: str) -> str:
    """An absolute path, from the folder that is the current one now."""
    path = os.path.expanduser(text)
    try:
        return os.path.abspath(path)
    except ours(OSError):  # that folder was removed
        return path


def words(text: str) -> frozenset[str]:
    """Lower-case words between commas."""
    return frozenset(name.strip() for name in text.lower().split(",") if name.strip())


@lru_cache(maxsize=1)
def _known_trackers(text: str) -> frozenset[str]:
    """The known ones of the trackers in a list. None: the list counts as not set."""
    return words(text) & (ALL_TRACKERS | _FALSE)


# --- the variables --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a segment ends, how much the spool may take, and who may read it."""

    segment_bytes: int = variable(
        "PRIMUS_LENS_SPOOL_SEGMENT_BYTES",
        8 * 1024 * 1024,
        whole(1),
        "Record bytes after which a new segment begins.",
        "Disk is freed in whole segments. 8 MiB are minutes to hours of most jobs.",
    )
    segment_records: int = variable(
        "PRIMUS_LENS_SPOOL_SEGMENT_RECORDS",
        16384,
        whole(1),
        "Records after which a new segment begins.",
        "Limits the write-ahead log to 23 MB. It takes about 1.4 kB a record until the segment is"
        " sealed.",
    )
    segment_seconds: float = variable(
        "PRIMUS_LENS_SPOOL_SEGMENT_SECONDS",
        3600.0,
        number(1),
        "Age in seconds at which a segment with records ends.",
        "A slow job keeps at most an hour of records from being deleted.",
    )
    max_bytes: int = variable(
        MAX_BYTES,
        4 * 1024**3,
        lambda text: max(_LEAST_BYTES, whole(1)(text)),
        "Maximum bytes of disk for one spool, at least 1048576.",
        "4 GiB are days of most jobs without a receiver, and a small part of a node's disk.",
    )
    drop_oldest: bool = variable(
        "PRIMUS_LENS_SPOOL_WHEN_FULL",
        False,
        choice({"drop-newest"}, {"drop-oldest"}),
        "What happens when the spool is full and no delivered segment is left. `drop-newest`"
        " rejects new records, `drop-oldest` deletes the oldest segment. Both are counted.",
        "Records that were accepted stay.",
        "drop-newest",
    )
    sync_seconds: float = 0.0  # of records that power loss may take; 0: no sync
    group: int | None = None  # group id that may read and delete; None: the owner alone

    @property
    def directory_mode(self) -> int:
        """Set-group-id gives the group to every file created inside."""
        return 0o700 if self.group is None else 0o2770

    @property
    def file_mode(self) -> int:
        """Of every file, its -wal included."""
        return 0o600 if self.group is None else 0o660


@dataclass(frozen=True, kw_only=True)
class Settings(Limits):
    """The variables of the hook and the spool."""

    root: Path | None = variable(
        OUTPUT_PATH,
        None,
        lambda text: Path(absolute(text)),
        "The spool root. Unset: the hook imports nothing and records nothing. `~` is the home"
        " directory. A relative path begins at the folder in which the process starts.",
        "A job that is not set up for lens-ship is left alone.",
    )
    hook: bool = variable(
        HOOK,
        True,
        truth,
        "`false` switches all hooks off.",
        "The root alone switches it on.",
    )
    trackers: frozenset[str] = variable(
        TRACKERS,
        frozenset(),
        words,
        "The trackers that are recorded, separated by commas: `wandb`, `mlflow`, `tensorboard`,"
        " `transformers`, `log` (lines of the training log). Each of those named is recorded."
        " Unset: all, but of those that log at the same time only the first in this order.",
        "Programs log the same numbers to several trackers.",
    )
    debug: bool = variable(
        DEBUG,
        False,
        truth,
        "`true` prints what the hook does to stderr.",
        "The output of a training job belongs to the job.",
    )
    sync_seconds: float = variable(
        "PRIMUS_LENS_SPOOL_SYNC_SECONDS",
        1.0,
        number(0),
        "Seconds of records that power loss may take. 0: the writer never syncs, and the kernel"
        " decides. Starts, detections, reports, failures and ends are synced at once.",
        "A background thread syncs once a second, only after new records. See"
        " `lens-ship docs decisions/0015` for the cost.",
    )
    group_name: str = variable(
        GROUP,
        "",
        str,
        "Group (name or number) that may read and delete spools, for a service that runs as"
        " another user. Unset: the group of a root that is set-group-id and writable by all,"
        " otherwise the owner alone (directories 0700, files 0600).",
        "Telemetry contains names and configurations. Others read it only where a job allows it.",
    )
    sole_writer: bool | None = variable(
        SOLE_WRITER,
        None,
        truth,
        "`true`: no other rank of the job logs, so that names have no `rank<R>/`. `false`: others"
        " do. Unset: known frameworks that log on one rank are recognised.",
        "Megatron-LM, Primus, Megatron-Bridge and torchtitan log on a rank that is not 0.",
    )
    run_prefix: bool | None = variable(
        RUN_PREFIX,
        None,
        truth,
        "`true`: names begin with `run-<ID>/`, so that runs of one workload stay apart. `false`:"
        " never. Unset: only trials of a sweep, and a run that repeats the steps of another run of"
        " the same process.",
        "A restart often has a new run id and continues the same curves. See"
        " `lens-ship docs decisions/0044`.",
    )


@dataclass(frozen=True, kw_only=True)
class CollectorSettings:
    """The variables of the collectors. Seconds of 0 mean never."""

    names: frozenset[str] = variable(
        COLLECTORS,
        frozenset(),
        lambda text: ALL_COLLECTORS if text.lower() in _TRUE else words(text),
        "What is collected without code from the beginning of training on: any of `log`, `metric`,"
        " `stack`, separated by commas, or `true` for all. Unset: nothing.",
        "Logs and stacks leave the process only on request.",
    )
    log_file: str = variable(
        LOG_FILE,
        "",
        str,
        "The training log to follow, for a program that names none.",
        "DLRover's variable.",
    )
    xpu_timer_port: str = variable(
        XPU_TIMER_PORT,
        "",
        str,
        "Local port of the XPU timer's metrics page. Unset: there is none.",
        "DLRover's variable.",
    )
    log_seconds: float = variable(
        "PRIMUS_LENS_LOG_SECONDS",
        5.0,
        number(0),
        "Seconds between two polls of the log file. 0: never.",
        "A poll without new lines takes a few system calls.",
    )
    log_from_end: bool = variable(
        "PRIMUS_LENS_LOG_START",
        False,
        choice({"beginning"}, {"end"}),
        "`end` skips what a log file holds when it is followed for the first time.",
        "The whole log of a job belongs to the job.",
        "beginning",
    )
    log_pattern: str = variable(
        LOG_PATTERN,
        "",
        str,
        "Lines of the training log that are recorded as steps, beside those of known frameworks:"
        " the text of a line with names in braces where numbers stand, such as"
        " `step {step}/{} | loss {train/loss}`. `{}` is any text. Several patterns stand on lines"
        " of their own.",
        "No regular expressions: such a one can take hours for a line, and stop the training.",
    )
    metric_seconds: float = variable(
        "PRIMUS_LENS_METRIC_SECONDS",
        60.0,
        number(0),
        "Seconds between two samples of the XPU timer. 0: never.",
        "DLRover's interval. Its master finds hangs in the samples.",
    )
    stack_seconds: float = variable(
        "PRIMUS_LENS_STACK_SECONDS",
        600.0,
        number(0),
        "Seconds between two periodic stack dumps. 0: never.",
        "A hang has a dump of its own. This one shows where time is spent.",
    )
    stack_signal: str = variable(
        "PRIMUS_LENS_STACK_SIGNAL",
        "",
        lambda text: text.strip().upper(),
        "A signal, such as `SIGUSR2`, that triggers a stack dump. An existing handler is called"
        " too. Unset: none.",
        "Signals belong to the program.",
    )
    hang_seconds: float = variable(
        "PRIMUS_LENS_HANG_SECONDS",
        300.0,
        number(0),
        "Seconds without a logged step after which the stacks are dumped once. 0: never.",
        "Longer than most checkpoints and evaluations. A dump too many takes milliseconds.",
    )
    hang_dump: bool = variable(
        "PRIMUS_LENS_HANG_DUMP",
        False,
        truth,
        "`true`: a timer in C dumps the main thread's stack even while a call holds the"
        " interpreter's lock.",
        "It takes a real-time signal of the program.",
    )
    max_restarts: int = variable(
        "PRIMUS_LENS_MAX_RESTARTS",
        3,
        whole(0),
        "Restarts of the process after a failure before the agent asks for another node.",
        "DLRover's default.",
    )
    max_repeats: int = variable(
        "PRIMUS_LENS_MAX_IDENTICAL_FAILURES",
        5,
        whole(0),
        "Identical failures in a row, without a step of progress, at which the agent advises to"
        " abort the job. At the one before it asks for another node. 0: never.",
        "The restarts of one node, another node, and one more failure there.",
    )
    node_errors: str = variable(
        NODE_ERRORS,
        "",
        str,
        "Texts between `#`, such as `#error code is 12345#device lost#`. A failure with one of them"
        " in its text or log is an error of the node: the agent asks for another node.",
        "DLRover's variable.",
    )
    node_error_patterns: str = variable(
        "PRIMUS_LENS_NODE_ERROR_PATTERNS",
        "",
        str,
        "The same with `{}` for any text: `#NPU{}gone#`. It is not a regular expression.",
        "No two sites have the same devices.",
    )
    node_error_codes: frozenset[int] = variable(
        "PRIMUS_LENS_NODE_ERROR_CODES",
        frozenset(),
        lambda text: frozenset(integer(code) for code in words(text)),
        "The same with exit codes of the process, separated by commas. A signal is 128 and its"
        " number.",
        "As above.",
    )

    @property
    def wanted(self) -> frozenset[str]:
        """The collectors that start without code."""
        return self.names & ALL_COLLECTORS


def from_environ(environ: Mapping[str, str], bad: dict[str, str] | None = None) -> Settings:
    values = read(Settings, environ, bad)
    _note_unknown(bad, TRACKERS, "trackers", values["trackers"], ALL_TRACKERS)
    # Disk is freed in whole segments: one must be a small part of the limit.
    values["segment_bytes"] = min(values["segment_bytes"], values["max_bytes"] // 8)
    return Settings(**values)


def collectors_from_environ(
    environ: Mapping[str, str], bad: dict[str, str] | None = None
) -> CollectorSettings:
    values = read(CollectorSettings, environ, bad)
    _note_unknown(bad, COLLECTORS, "collectors", values["names"], ALL_COLLECTORS)
    return CollectorSettings(**values)


def _note_unknown(
    bad: dict[str, str] | None,
    variable: str,
    kind: str,
    given: frozenset[str],
    known: frozenset[str],
) -> None:
    unknown = given - known - _FALSE
    if bad is not None and unknown:
        bad[variable] = (
            f"has unknown {kind}: {', '.join(sorted(unknown))}."
            f" Known are {', '.join(sorted(known))}."
            f" {'Only known ones are used.' if given - unknown else 'It counts as not set.'}"
        )


def is_hook_on(environ: Mapping[str, str]) -> bool:
    return environ.get(HOOK, "").strip().lower() not in _FALSE


def chosen_trackers(environ: Mapping[str, str]) -> frozenset[str]:
    """The known trackers that the user has listed, none without a usable list."""
    return _known_trackers(environ.get(TRACKERS, ""))


def is_tracker_on(environ: Mapping[str, str], tracker: str) -> bool:
    chosen = chosen_trackers(environ)
    return not chosen or tracker in chosen
