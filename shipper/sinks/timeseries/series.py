"""From records to points of time series and to log records, the same for every receiver. Pure.

- A number becomes a point of the series `<prefix><name>`, with the labels `run` and `rank`. Where a
  name has a character that receivers change, `lens.name` is the name itself: without it, `loss/a`
  and `loss.a` would be one series in Prometheus, and the receiver would refuse the whole request.
- The step is a series of its own, `<prefix>step`, with the same labels and times. As a label it
  would make a new series for each step. Of values with several axes it is the highest.
- `<prefix>run.status` is 0 when a run begins, 1 when it has finished, 2 when it has failed, 3 when
  its process exited uncleanly.
- NaN and infinities are left out and announced as `<name>/nonfinite` = 1.
- A time is in whole milliseconds and is the record's own. So a repetition is identical, and a
  receiver that keeps one value for a time keeps one.
- A log record has its time in nanoseconds: lines of one record differ in the last digits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import unquote

from shipper.sinks import PlanInput
from shipper.sinks.grouping import Collected, collected
from shipper.sinks.values import clean, clean_text, dump, milliseconds, sort_values
from shipper.steps import Block, Rejected, Skipped, Step, collect_steps, unsendable
from spooler.errors import BodyUnreadable
from spooler.records import REGISTRY, decision, failure, finish, gap, report, run
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.reader import Stored

KINDS = frozenset(REGISTRY)
POINT_KINDS = frozenset({"step", "run", "finish", "gap", "exit"})  # without log records
_LOGGED = KINDS - {"step"}
_WITH_STATUS = frozenset({run.NAME, finish.NAME})
ORIGINAL = "lens.name"
LATE = "lens-ship/late"  # a point of it asks whether a receiver takes data of a time
RUNNING, FINISHED, FAILED, CUT_OFF = 0, 1, 2, 3
INFO, WARN, ERROR, FATAL = 9, 13, 17, 21  # severity numbers of OpenTelemetry

CACHED = 8192  # series that are kept made, each less than a kilobyte
_KEPT_CHARACTERS = 128  # of the longest name among them
_NAME_CHARACTERS = 255
_LABEL_CHARACTERS = 512  # 2048 bytes at most, which every receiver takes
_CHANGED = re.compile(r"[^A-Za-z0-9_.\-/]")
_PLAIN = re.compile(r"[A-Za-z0-9_]+")
_OWN = frozenset({"step"})  # names that the sink itself gives
_LEVELS = (
    (re.compile(r"\b(ERROR|CRITICAL|FATAL|Traceback|\w+Error)\b"), ERROR),
    (re.compile(r"\bWARN(ING)?\b", re.IGNORECASE), WARN),
)
_SEVERITIES = {"failure": ERROR, "decision": ERROR, "gap": WARN}  # of other kinds: INFO
# By the action of a decision, or the level of a failure.
_OWN_SEVERITIES = {"NONE": INFO, "JOB_ABORT": FATAL, "info": INFO, "warning": WARN}
_DECODE = {kind: import_module(module).decode for kind, module in REGISTRY.items()}
_REPORTS = {"STACK_TRACE": "training.stack", "XPU_TIMER_METRIC": "training.xpu_timer"}
_INTEGERS = range(-(2**63), 2**63)
_NANOSECONDS = 10**6  # in a millisecond
Labels = tuple[tuple[str, str], ...]
_SAME_STEP: Mapping[Any, int] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesOptions:
    """What an operator may choose about points and log records."""

    prefix: str = "training."
    numbers: bool = True
    step_series: bool = True
    logs: bool = False


class SeriesKey(NamedTuple):
    """A time series: its name, and what tells it from others of the name, sorted."""

    name: str
    labels: Labels


class LoggingProcess(NamedTuple):
    """What tells the processes of a run apart; None where a label would say nothing."""

    rank: int | None
    # The pid of a process that logs to a run of another one, and counts its steps on its own.
    process: int | None = None


class Log(NamedTuple):
    """A log record; the time is in Unix nanoseconds."""

    time: int
    severity: int
    event: str
    body: str
    attributes: tuple[tuple[str, str | int], ...]


class Item(NamedTuple):
    """What one record, or the records of one step, become; the smallest part of a request."""

    seqs: tuple[int, ...]
    run: str
    time: int  # Unix milliseconds
    points: tuple[tuple[SeriesKey, float | int], ...]
    logs: tuple[Log, ...] = ()
    step: int | None = None
    values: int = 0  # of the user's, as far as they are sent
    nonfinite: int = 0
    left_out: int = 0
    other_steps: Mapping[SeriesKey, int] = _SAME_STEP  # of points in rows that have another step

    @property
    def size(self) -> int:
        """Points and log records in it."""
        return len(self.points) + len(self.logs)

    @property
    def times(self) -> tuple[int, ...]:
        return (self.time,)

    @property
    def length(self) -> int:
        return 1

    @property
    def text(self) -> int:
        return sum(len(log.body) for log in self.logs)

    def items(self) -> tuple[Item]:
        return (self,)

    def part(self, begin: int, end: int) -> Item:
        return self


class ItemBlock(NamedTuple):
    """Items of whole steps that differ in their numbers alone.

    `columns` has the values of each series. The first ones are the user's, `values` numbers in all.
    The others are whole numbers. `times` are in Unix milliseconds.
    """

    seqs: tuple[int, ...]
    run: str
    times: tuple[int, ...]
    steps: tuple[int, ...]
    series: tuple[SeriesKey, ...]
    columns: tuple[tuple[float | int, ...], ...]
    values: int
    nonfinite: int = 0
    left_out: int = 0
    text: int = 0

    @property
    def length(self) -> int:
        return len(self.seqs)

    @property
    def size(self) -> int:
        return len(self.series)

    @property
    def own(self) -> int:
        """How many of the series are the user's."""
        return self.values // len(self.seqs)

    def items(self) -> Iterator[Item]:
        """Each of them."""
        own = self.own
        rows = zip(self.seqs, self.times, self.steps, zip(*self.columns, strict=True), strict=True)
        for seq, time, step, row in rows:
            numbers = (*map(float, row[:own]), *row[own:])
            points = tuple(zip(self.series, numbers, strict=True))
            yield Item((seq,), self.run, time, points, step=step, values=own)

    def part(self, begin: int, end: int) -> ItemBlock:
        """Some of them."""
        some = slice(begin, end)
        seqs = self.seqs[some]
        return self._replace(
            seqs=seqs,
            times=self.times[some],
            steps=self.steps[some],
            columns=tuple(column[some] for column in self.columns),
            values=self.own * len(seqs),
        )


Items = Sequence[Item | ItemBlock]


def points_in(item: Item | ItemBlock) -> int:
    """How many points it has."""
    return len(item.points) if isinstance(item, Item) else len(item.seqs) * len(item.series)


def collect(chunk: PlanInput, options: SeriesOptions) -> Collected:
    """Steps and events of a chunk as items."""
    blocks = options.numbers and not options.logs
    steps = collect_steps(chunk.records, chunk.deleted, chunk.step_keys, in_blocks=blocks)
    due = steps.due(ended=chunk.ended, waited=chunk.waited)
    rejected = list(steps.rejected)
    items: list[Item | ItemBlock] = []
    for step in due.steps:
        if isinstance(step, Block):
            table = _of_block(step, chunk.identity, options)
            if len({series.name for series in table.series}) == len(table.series):
                items.append(table)
            else:  # points of one metric with other labels come between each other
                items += table.items()
            continue
        if step.step not in _INTEGERS:
            problem = f"step {step.step} is no integer of 64 bits"
            rejected += unsendable(step, chunk.records, problem)
            continue
        items.append(_of_step(step, chunk.identity, options))
    for stored in _events(chunk, due.skipped, options):
        try:
            event = _event(stored.kind, codec.unpack(stored.body))
        except BodyUnreadable as error:
            if stored.kind not in (finish.NAME, gap.NAME):  # `collect_steps` has judged these
                rejected.append(Rejected(stored=stored, reason=error.reason, detail=str(error)))
            continue
        items.append(_of_event(stored.seq, event, chunk.identity, options))
    return collected(items, due, rejected)


def _events(
    chunk: PlanInput, skipped: Iterable[Skipped], options: SeriesOptions
) -> Iterator[Stored]:
    """The records that become items beside the steps; `skipped` are those of no step."""
    kinds = _LOGGED if options.logs else _WITH_STATUS
    beside = {one.seq for one in skipped if chunk.deleted.get(one.seq, 1)}  # a gap may be none here
    for stored in chunk.records:
        if stored.kind in kinds and (stored.kind != gap.NAME or stored.seq in beside):
            yield stored


def cut_off_item(step: Step, identity: Identity, options: SeriesOptions) -> Item:
    """The end of a run whose process exited uncleanly, at the time of its last step."""
    text = f"process exited uncleanly after step {step.step}"
    logs = [(ERROR, "training.cut_off", text)]
    return _of_event(step.last, _Event(step.run, step.time, logs, CUT_OFF), identity, options)


def late_item(newest: Item, identity: Identity, options: SeriesOptions, *, logs: bool) -> Item:
    """What asks a receiver whether it takes points, or logs, of the time of `newest`.

    A point has a series of its own: after a point of a series, some receivers refuse what is older
    in it. Log records have no such order.
    """
    if logs:
        return newest._replace(points=())
    points = ((series_of(options.prefix, LATE, newest.run, LoggingProcess(identity.rank)), 1.0),)
    return newest._replace(points=points, logs=())


def service_name(identity: Identity, given: str) -> str:
    """The operator's, else what the job says of itself."""
    told = otel_attributes(identity).get("service.name", "")
    return given or identity.otel_service_name or told or "training"


def instance(identity: Identity, run: str) -> str:
    """What tells the processes of a service apart, the same after a restart."""
    who = identity.workload_uid or run or identity.pod_name or identity.host
    return who if identity.rank is None else f"{who}-rank{identity.rank}"


def otel_attributes(identity: Identity) -> dict[str, str]:
    """The job's OTEL_RESOURCE_ATTRIBUTES: `key=value`, with commas between, percent-encoded."""
    pairs = (one.partition("=") for one in identity.otel_resource_attributes.split(","))
    return {unquote(key.strip()): unquote(value.strip()) for key, _, value in pairs if key.strip()}


def series_of(prefix: str, name: str, run: str, who: LoggingProcess) -> SeriesKey:
    """The series of a name that a user has given."""
    find = _kept_series if len(name) <= _KEPT_CHARACTERS else _series
    return find(prefix, name, run, who)


def _series(prefix: str, name: str, run: str, who: LoggingProcess) -> SeriesKey:
    labels = {"run": _label(run)} if run else {}
    labels.update((key, str(number)) for key, number in who._asdict().items() if number is not None)
    full = _CHANGED.sub("_", prefix + name)
    if not _PLAIN.fullmatch(name) or name in _OWN or len(full) > _NAME_CHARACTERS:
        labels[ORIGINAL] = _label(name)
    return SeriesKey(full[:_NAME_CHARACTERS], tuple(sorted(labels.items())))


_kept_series = lru_cache(maxsize=CACHED)(_series)


# --- one record -----------------------------------------------------------------------------------


def _of_step(step: Step, identity: Identity, options: SeriesOptions) -> Item:
    if step.more:
        return _of_rows(step, identity, options)
    numbers, others, nonfinite, nulls = sort_values(step.data)
    for name in nonfinite:
        numbers.setdefault(f"{name}/nonfinite", 1)
    prefix, run = options.prefix, step.run
    who = LoggingProcess(identity.rank, identity.pid if step.own_count else None)
    points: list[tuple[SeriesKey, float | int]] = []
    if options.numbers and numbers:
        for name, value in numbers.items():
            points.append((series_of(prefix, name, run, who), float(value)))
        if options.step_series:
            points.append((_own(prefix, "step", run, who), step.step))
    time = milliseconds(step.time, identity)
    logs: tuple[Log, ...] = ()
    if options.logs and (numbers or others):
        names = {clean_text(name): value for name, value in {**numbers, **others}.items()}
        more = (("step", step.step), *_place(step.seqs[0], run, identity))
        logs = (Log(time * _NANOSECONDS, INFO, "training.step", dump(names).decode(), more),)
    values = len(numbers) * bool(points or logs) - len(nonfinite) + len(others) * bool(logs)
    left_out = nulls if logs else nulls + len(others)
    counts = (max(0, values), len(nonfinite), left_out)
    # As a plain tuple: this is done for every step, and the constructor takes twice as long.
    fields = (step.seqs, run, time, tuple(points), logs, step.step, *counts, _SAME_STEP)
    return tuple.__new__(Item, fields)


def _of_block(block: Block, identity: Identity, options: SeriesOptions) -> ItemBlock:
    """As `_of_step` of each step, without log records."""
    prefix, run, like = options.prefix, block.run, block.like
    who = LoggingProcess(identity.rank, identity.pid if like.own_count else None)
    steps, times, *columns = zip(*block.rows, strict=True)
    series = [series_of(prefix, name, run, who) for name in block.names]
    values = len(series) * len(steps)
    if options.step_series:
        series.append(_own(prefix, "step", run, who))
        columns.append(steps)
    stamps = tuple(round(time * 1000) for time in times)
    return ItemBlock(block.seqs, run, stamps, steps, tuple(series), tuple(columns), values)


def _of_rows(step: Step, identity: Identity, options: SeriesOptions) -> Item:
    """Rows of several steps at one time; the series of the step has the highest."""
    alone = (step._replace(step=number, data=data, more=()) for number, data in step.rows())
    first, *more = (_of_step(row, identity, options) for row in alone)
    points, other_steps = dict(first.points), dict[SeriesKey, int]()
    for item in more:
        new = {series: value for series, value in item.points if series not in points}
        other_steps |= dict.fromkeys(new, item.step or 0)
        points |= new
    logs = [log for item in (first, *more) for log in item.logs]
    return first._replace(
        points=tuple(points.items()),
        logs=tuple(log._replace(time=log.time + number) for number, log in enumerate(logs)),
        values=sum(item.values for item in (first, *more)),
        nonfinite=sum(item.nonfinite for item in (first, *more)),
        left_out=sum(item.left_out for item in (first, *more)),
        other_steps=other_steps,
    )


class _Event(NamedTuple):
    """A record that is no step: a status of its run, and log records of severity, event, text."""

    run: str
    time: float
    logs: Sequence[tuple[int, str, str]]
    status: int | None = None
    attributes: Mapping[str, str] = {}


def _event(kind: str, body: Mapping[str, Any]) -> _Event:
    """A record of any kind but a step.

    Raises:
        BodyUnreadable: it is not the body of this kind.
    """
    record = _DECODE[kind](body)
    if kind == report.NAME:
        return _of_report(record)
    severity, status = _SEVERITIES.get(kind, INFO), None
    if kind == run.NAME and not record.update:
        status = RUNNING
    elif kind == finish.NAME:
        severity, status = (ERROR, FAILED) if record.exit_code else (INFO, FINISHED)
    elif kind in (failure.NAME, decision.NAME):
        told = record.level if kind == failure.NAME else record.action
        severity = _OWN_SEVERITIES.get(told, severity)
    logs = [(severity, f"training.{kind}", _json(body))]
    return _Event(getattr(record, "run", ""), record.time, logs, status)


def _of_report(record: report.ReportRecord) -> _Event:
    more = {"lens.data_type": _label(record.data_type)}
    path = record.source.get("path") if record.source else None
    if isinstance(path, str):
        more["log.file.path"] = _label(path)
    text = clean_text(record.data_content)
    logs = [(INFO, _REPORTS.get(record.data_type, "training.report"), text)] if text else []
    if record.data_type == "TRAINING_LOG":
        logs = [(_severity(line), "", line) for line in text.splitlines() if line.strip()]
    elif report.HANG in text.partition("\n")[0]:
        logs = [(ERROR, "training.hang", text)]
    return _Event("", record.time, logs, None, more)


def _of_event(seq: int, event: _Event, identity: Identity, options: SeriesOptions) -> Item:
    begun = milliseconds(event.time, identity)
    points: tuple[tuple[SeriesKey, float | int], ...] = ()
    if event.status is not None and options.numbers:
        series = _own(options.prefix, "run.status", event.run, LoggingProcess(identity.rank))
        points = ((series, event.status),)
    attributes = (*event.attributes.items(), *_place(seq, event.run, identity))
    logs = tuple(
        Log(begun * _NANOSECONDS + number, severity, name, body, attributes)
        for number, (severity, name, body) in enumerate(event.logs if options.logs else ())
    )
    return Item((seq,), event.run, begun, points, logs)


@lru_cache(maxsize=CACHED)
def _own(prefix: str, name: str, run: str, who: LoggingProcess) -> SeriesKey:
    """A series that the sink itself names: without the original name it is no user's."""
    labels = [label for label in _series(prefix, name, run, who).labels if label[0] != ORIGINAL]
    return SeriesKey(_CHANGED.sub("_", prefix + name), tuple(labels))


def _place(seq: int, run: str, identity: Identity) -> Iterator[tuple[str, str | int]]:
    """What identifies a log record for a receiver that removes repetitions."""
    if run:
        yield "run", _label(run)
    if identity.rank is not None:
        yield "rank", str(identity.rank)
    yield "lens.spool", identity.spool
    yield "lens.seq", seq


def _json(body: Mapping[str, Any]) -> str:
    return dump(clean(dict(body))).decode()


def _severity(line: str) -> int:
    return next((number for words, number in _LEVELS if words.search(line)), INFO)


def _label(text: str) -> str:
    """Text as the value of a label; of longer text the beginning and a digest."""
    text = clean_text(text)
    if len(text) <= _LABEL_CHARACTERS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{text[: _LABEL_CHARACTERS - 13]}~{digest}"
