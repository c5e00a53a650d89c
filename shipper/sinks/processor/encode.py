"""The telemetry-processor's wire contract, as the service relies on it, and its encoding. Pure.

Requests are JSON, `POST {base}/wandb/{metrics,logs,detection}`::

    metrics    {source, workload_uid, pod_uid, pod_name, run_id, timestamp,
                metrics: [{name, value, step, timestamp, tags}]}
    logs       {source, workload_uid, pod_uid, pod_name, run_id, timestamp,
                logs: [{step, timestamp, data}]}
    detection  {source, type, version, workload_uid, pod_uid, pod_name, namespace, timestamp,
                evidence, hints}

What the receiver does with them decides how they are built:

- Its row key is (workload, step). A second write to a step is merged, at the price of a history
  entry; two writers at once lose updates. So a step travels whole, in order, and one request of a
  workload is in flight at a time.
- The step is that of the row as its user draws it: values with several axes are several elements,
  with a step each (`spooler.records.axes`).
- One bad field refuses the whole request, and `null` is stored as 0: only finite numbers,
  whole steps of 0 … 2**31-1, texts without U+0000 and times that it can hold are ever sent.
  NaN and infinities are left out and announced as `<name>/nonfinite` = 1; None is left out.
- Some names would overwrite a row's own fields: they get an underscore (`step` -> `step_`), and
  so does a name that already ends in such a way (`step_` -> `step__`), so that no two collide.
- It works through the steps of a request one by one, 5 to 15 ms each, and stops when the client
  hangs up: at most about 100 steps and 512 KiB a request, and a patient timeout.
- All ranks of a workload share its rows: ranks other than 0 send `rank<R>/<name>`, unless they are
  the sole writer of their job. So do its runs: those that repeat the steps of another one send
  `run-<ID>/<name>` (`spooler.hooks.names`).
- A process that logs to a run of another process, and names no step, counts on its own: it sends
  `process<PID>/<name>`.
- Success is HTTP 200 and `meta.code` 2000 (`shipper.sinks.outcome`).

Every request carries `Lens-Ship-Records: <spool id>/<sink>/<first seq>-<last seq>`; the same
records get the same value when they are sent again, so a receiver can tell a repetition.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, chain, islice, repeat
from typing import NamedTuple

import orjson

from shipper.sinks.values import (
    clean,
    clean_text,
    dump,
    interleaved,
    rows_of,
    sane_time,
    sort_values,
)
from shipper.steps import Block, Step
from spooler.records.detection import DetectionRecord
from spooler.spool.identity import Identity

RECORDS_HEADER = "Lens-Ship-Records"
STEP_MAX = 2**31 - 1
ID_LIMIT = 256  # characters of source, workload_uid and pod_uid

# The empty name is none that a reader could ask for.
_RESERVED = ("step", "run_id", "source", "history", "created_at", "updated_at", "iteration", "")
_METRICS = "/wandb/metrics"
_AT_ONCE = 4096  # values that are encoded together, each with objects of its own
_KEPT_NAMES = 16384  # characters of the names of one step; of longer ones nothing is kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What an operator may choose about the encoding."""

    drop_non_numeric: bool = False  # leave out other values instead of sending them to /logs
    rank_prefix: bool = True  # `rank<R>/` before the names of ranks other than 0
    run_prefix: bool = True  # `run-<ID>/` before the names of runs that ask for it


class EncodedStep(NamedTuple):
    """A step as it stands inside a request, or several that follow one another.

    `step` and `time` are those of the last one.
    """

    path: str  # "/wandb/metrics" or "/wandb/logs"
    run: str
    step: int
    time: float
    fragment: bytes  # the elements of the list, joined by commas
    items: int  # how many elements that is
    points: int  # how many values are in them
    seqs: tuple[int, ...]
    nonfinite: int  # points left out because they are NaN or infinite
    left_out: int  # values left out because they are no numbers
    tracker: str
    steps: int = 1

    def cut(self, begin: int, steps: int, most: int) -> EncodedStep:
        """As of `EncodedBlock`; one step is not cut."""
        return self

    def apart(self) -> Iterator[EncodedStep]:
        """Each of its steps."""
        if self.steps == 1:
            yield self
            return
        points, size = orjson.loads(b"[%b]" % self.fragment), self.items // self.steps
        for place, seq in enumerate(self.seqs):
            some = points[place * size : (place + 1) * size]
            yield self._replace(
                step=some[0]["step"],
                time=some[0]["timestamp"],
                fragment=dump(some)[1:-1],
                items=size,
                points=size,
                seqs=(seq,),
                steps=1,
            )


class EncodedBlock(NamedTuple):
    """The steps of a block. Of each step there are as many parts, and the last ends in a comma."""

    block: Block
    parts: list[bytes]
    path: str
    run: str
    tracker: str
    steps: int

    def cut(self, begin: int, steps: int, most: int) -> EncodedStep:
        """The steps from `begin` on that fit: at most so many, and bytes with their commas.

        At least one step.
        """
        block, parts, each = self.block, self.parts, len(self.parts) // self.steps
        end = min(begin + steps, self.steps)
        fragment = b"".join(parts[begin * each : end * each])
        if len(fragment) > most:
            sizes = (sum(map(len, parts[at * each : (at + 1) * each])) for at in range(begin, end))
            fitting = sum(1 for size in accumulate(sizes) if size <= most)
            end = begin + max(1, fitting)
            fragment = b"".join(parts[begin * each : end * each])
        step, time, *_ = block.rows[end - 1]
        points = (end - begin) * len(block.names)
        return EncodedStep(
            path=self.path,
            run=self.run,
            step=step,
            time=time,
            fragment=fragment[:-1],
            items=points,
            points=points,
            seqs=block.seqs[begin:end],
            nonfinite=0,
            left_out=0,
            tracker=self.tracker,
            steps=end - begin,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request to be: consecutive steps of one run for one path."""

    path: str
    run: str
    parts: tuple[EncodedStep, ...]
    mark: str = ""  # sets the header of a notice apart from that of the records it is about

    @property
    def steps(self) -> tuple[EncodedStep, ...]:
        """Each of its steps."""
        return tuple(chain.from_iterable(part.apart() for part in self.parts))

    @property
    def count(self) -> int:
        """Number of steps."""
        return sum(part.steps for part in self.parts)

    @property
    def items(self) -> int:
        """Number of list elements, which the receiver counts back."""
        return sum(part.items for part in self.parts)

    def halves(self) -> tuple[Request, Request]:
        """Split by steps, in order; there must be two at least."""
        steps = self.steps
        middle = len(steps) // 2
        return replace(self, parts=steps[:middle]), replace(self, parts=steps[middle:])


def encode_step(
    step: Step, identity: Identity, options: Options, *, as_log: bool = False
) -> EncodedStep:
    """Encode one step for the path that fits its values, all of its rows for one path."""
    if step.more:
        return _encode_rows(step, identity, options)
    numbers, others, nonfinite, nulls = sort_values(step.data)
    prefix = _prefix(step, identity, options)
    time = sane_time(step.time, identity)
    for name in nonfinite:
        numbers.setdefault(f"{name}/nonfinite", 1)
    if (others and not options.drop_non_numeric) or (numbers and as_log):
        path, items, values = "/wandb/logs", 1, len(numbers) + len(others)
        data = {_name(prefix, name): value for name, value in {**numbers, **others}.items()}
        fragment = dump({"step": step.step, "timestamp": time, "data": data})
    else:
        path, items, values = _METRICS, len(numbers), len(numbers)
        fragment = _points(prefix, numbers, step.step, time)
    left_out = nulls + (len(others) if options.drop_non_numeric else 0)
    # As a plain tuple: this is done for every step, and the constructor takes twice as long.
    fields = (path, step.run, step.step, time, fragment, items, values, step.seqs)
    return tuple.__new__(EncodedStep, (*fields, len(nonfinite), left_out, step.tracker, 1))


def encode_block(block: Block, identity: Identity, options: Options) -> EncodedBlock:
    """Encode the steps of a block, as `encode_step` encodes each of them."""
    columns = len(block.names) + 2
    numbers = rows_of(dump(block.rows))
    places = zip(numbers[::columns], numbers[1::columns], strict=True)
    tails = [b',"step":%b,"timestamp":%b,"tags":{}},' % place for place in places]
    del numbers[::columns]
    del numbers[:: columns - 1]
    heads = _heads_of(_prefix(block.like, identity, options), block.names)
    parts = interleaved(heads, numbers, tails)
    return EncodedBlock(block, parts, _METRICS, block.run, block.like.tracker, len(block.rows))


def _encode_rows(step: Step, identity: Identity, options: Options) -> EncodedStep:
    rows = [step._replace(step=number, data=data, more=()) for number, data in step.rows()]
    encoded = [encode_step(row, identity, options) for row in rows]
    if len({row.path for row in encoded}) > 1:
        encoded = [encode_step(row, identity, options, as_log=True) for row in rows]
    sums = {
        name: sum(getattr(row, name) for row in encoded)
        for name in ("items", "points", "nonfinite", "left_out")
    }
    full = [row for row in encoded if row.items] or encoded[:1]
    return full[0]._replace(fragment=b",".join(row.fragment for row in full), **sums)


def _points(prefix: str, numbers: Mapping[str, int | float], step: int, time: float) -> bytes:
    """The elements of a metrics list.

    The names of a run recur together, so their JSON is kept; the values and the time are encoded as
    one list, which is cut at its commas: numbers hold none.
    """
    if len(numbers) <= _AT_ONCE:
        return _some_points(prefix, tuple(numbers), numbers.values(), step, time)
    left, parts = iter(numbers.items()), []
    while some := tuple(islice(left, _AT_ONCE)):
        names, values = zip(*some, strict=True)
        parts.append(_some_points(prefix, names, values, step, time))
    return b",".join(parts)


def _some_points(
    prefix: str,
    names: tuple[str, ...],
    numbers: Iterable[int | float],
    step: int,
    time: float,
) -> bytes:
    if not names:
        return b""
    *values, stamp = dump([*numbers, time])[1:-1].split(b",")
    tail = b',"step":%d,"timestamp":%b,"tags":{}},' % (step, stamp)
    parts = zip(_heads_of(prefix, names), values, repeat(tail))
    return b"".join(chain.from_iterable(parts))[:-1]


def _heads_of(prefix: str, names: tuple[str, ...]) -> tuple[bytes, ...]:
    kept = len("".join(names)) <= _KEPT_NAMES
    return (_kept_heads if kept else _heads)(prefix, names)


def _heads(prefix: str, names: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(b'{"name":%b,"value":' % dump(_name(prefix, name)) for name in names)


_kept_heads = lru_cache(maxsize=64)(_heads)


def problem(step: Step) -> str:
    """Why a step can never be sent, or nothing."""
    if not step.more and 0 <= step.step <= STEP_MAX:
        return ""
    for number, _ in step.rows():
        if not 0 <= number <= STEP_MAX:
            return f"step {number} is outside 0 … {STEP_MAX}, the range of the receiver's key"
    return ""


def group(
    steps: Iterable[EncodedStep | EncodedBlock], *, max_steps: int, max_bytes: int
) -> list[Request]:
    """Cut encoded steps, given in order, into requests of one run, tracker and path.

    Requests stay within the limits. Steps of different runs may lie between each other. Each run
    keeps its own order, and requests come in the order of their first record. A single step above
    `max_bytes` travels alone.
    """
    requests: list[_Growing] = []
    latest: dict[str, _Growing] = {}
    for one in steps:
        at, count = 0, one.steps
        while at < count:
            current = latest.get(one.run)
            if current is None or not current.takes(one, max_steps):
                current = latest[one.run] = _Growing()
                requests.append(current)
            part = one.cut(at, max_steps - current.count, max_bytes - current.bytes)
            size = len(part.fragment) + 1
            if current.count and current.bytes + size > max_bytes:
                del latest[one.run]  # and once more, into another request
                continue
            current.add(part, size)
            at += part.steps
    return [
        Request(path=one.parts[0].path, run=one.parts[0].run, parts=tuple(one.parts))
        for one in requests
    ]


class _Growing:
    """A request to which steps are added."""

    __slots__ = ("bytes", "count", "parts")

    def __init__(self) -> None:
        self.parts: list[EncodedStep] = []
        self.count = self.bytes = 0

    def takes(self, one: EncodedStep | EncodedBlock, max_steps: int) -> bool:
        """Whether it has a place for steps of this path and tracker."""
        first = self.parts[0]
        return (first.path, first.tracker) == (one.path, one.tracker) and self.count < max_steps

    def add(self, part: EncodedStep, size: int) -> None:
        self.parts.append(part)
        self.count += part.steps
        self.bytes += size


def body(request: Request, identity: Identity) -> bytes:
    """The JSON of a request."""
    head = {
        "source": request.parts[0].tracker[:ID_LIMIT],
        "workload_uid": identity.workload_uid[:ID_LIMIT],
        "pod_uid": identity.pod_uid[:ID_LIMIT],
        "pod_name": identity.pod_name,
        "run_id": clean_text(request.run),
        "timestamp": request.parts[-1].time,
    }
    list_name = b"logs" if request.path.endswith("logs") else b"metrics"
    begin = b'%s,"%s":[' % (dump(clean(head))[:-1], list_name)
    # In one go: what a large step takes is copied once.
    commas = chain.from_iterable((b",", step.fragment) for step in request.parts[1:])
    return b"".join((begin, request.parts[0].fragment, *commas, b"]}"))


def detection_body(record: DetectionRecord, identity: Identity) -> bytes:
    """The JSON of a detection request."""
    return dump(
        clean(
            {
                "source": record.tracker[:ID_LIMIT],
                "type": "framework_detection_raw",
                "version": "1.0",
                "workload_uid": identity.workload_uid[:ID_LIMIT],
                "pod_uid": identity.pod_uid[:ID_LIMIT],
                "pod_name": identity.pod_name,
                "namespace": identity.namespace,
                "timestamp": sane_time(record.time, identity),
                "evidence": record.evidence,
                "hints": record.hints,
            }
        )
    )


def records_header(
    identity: Identity, sink: str, first: int, last: int, mark: str = ""
) -> dict[str, str]:
    """The header that identifies the records of a request across repetitions."""
    return {RECORDS_HEADER: f"{identity.spool}/{sink}/{first}-{last}{mark}"}


def _prefix(step: Step, identity: Identity, options: Options) -> str:
    """What sets the names of a step apart from those of other ranks, runs and processes."""
    prefix = ""
    if identity.rank and options.rank_prefix and not step.sole_writer:
        prefix = f"rank{identity.rank}/"
    if step.run_prefix and options.run_prefix:
        prefix += f"run-{clean_text(step.run)}/"
    return f"{prefix}process{identity.pid}/" if step.own_count else prefix


def _name(prefix: str, name: str) -> str:
    if "\0" in name or not name.isascii():
        name = clean_text(name)
    if prefix:
        return f"{prefix}{name}"
    if name.rstrip("_") in _RESERVED:
        return f"{name}_"
    return name
