r"""Metric files of the exporter: one JSON object a line for each call of `wandb.log`.

Layout: ``<root>/node_<N>/rank_<R>/wandb_metrics.jsonl``, appended to by the training process::

    {"timestamp": 1700000000.5, "step": 7, "data": {"loss": 2.5, "_primus_sys_cpu": 11.0}}\n

| member    | type          | meaning                                                            |
|-----------|---------------|--------------------------------------------------------------------|
| timestamp | number        | Unix seconds; where it is none, the time of the line before counts |
| step      | integer, null | what the call passed as `step`                                     |
| data      | map           | what the call logged, `_primus_lens_enabled` beside it as a mark   |

The file is written by Python's `json`: `NaN`, `Infinity` and `-Infinity` occur as tokens, text is
UTF-8, of a name that occurs twice the later value counts. Rules:

- A line without a step gets the number that wandb gives to it: a counter that begins at 0, moves
  up by one after such a line, and is put forward to the step of a line that has one. A step given
  stays open, so the line after it that has none belongs to it: steps 5, null, null are 5, 5, 6. A
  step given below the counter stays as it is. The file has no `commit`, so that parts logged with
  ``commit=False`` and no step count as steps of their own.
- The first whole line is preceded by a "run" record. There is no "finish": nothing marks the end.
- The file has no run id: it is the option's, or `import-<hash of the root>`, the same for all
  ranks. Node and local rank come from the path; the global rank does not.
- The key `_primus_lens_enabled` is left out, `_primus_sys_*` and `_primus_gpu_*` are metrics.
- What follows the last line end is not there yet, unless it is a whole object. An empty line is
  passed over. A line that cannot be read is damage; where a killed writer's line, half or whole,
  and the next writer's share a line, each counts for itself, and so does what follows an object.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from shipper.importers import SourceInfo, files_below, path_digest, source_id
from shipper.importers.scan import ImportedRecord, Item, ScannedFile, Unreadable, pack, run_item
from spooler.records import step
from spooler.spool import format as fmt
from spooler.spool import safe_open
from spooler.spool.identity import Identity

FILE_NAME = "wandb_metrics.jsonl"
MARKER = "_primus_lens_enabled"

_LINE_START = b'{"timestamp"'
_SPACE = " \t\r\n"
_DECODER = json.JSONDecoder()
_FIRST_BYTES = 4096
_PLACE = re.compile(r"node_([0-9]{1,9})/rank_([0-9]{1,9})")
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class JsonlState:
    """Where the next line begins, and what it depends on."""

    offset: int = 0
    number: int = 1  # of the line, for people
    announced: bool = False  # the "run" record has been given
    counter: int = 0  # step of the next line without one
    time: float = 0.0  # of the last line


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """One line: its bytes, or None when it is too long, and where the next one begins."""

    raw: bytes | None
    end: int
    ended: bool  # by a line end, not by that of the file


class _BadLine(ValueError):
    """A line is not one of this format; the text says why."""


class ExporterFile(ScannedFile[JsonlState]):
    """One rank's file; see the module."""

    def __init__(self, path: Path, origin: SourceInfo) -> None:
        super().__init__(path, origin, JsonlState())
        self.run = origin.run or f"import-{path_digest(_root(path))}"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether it has the exporter's name, or begins as its lines do."""
        if not path.is_file():
            return False
        if path.name == FILE_NAME:
            return True
        try:
            with safe_open.open_named(path) as file:
                head = file.read(_FIRST_BYTES).lstrip()
        except OSError:
            return False
        return head.startswith(_LINE_START)

    @classmethod
    def find(cls, folder: Path) -> Iterator[Path]:
        """See `shipper.importers.Format`."""
        return (path for path in files_below(folder) if path.name == FILE_NAME)

    @property
    def spool(self) -> str:
        """See `shipper.importers.Source`."""
        node, local = _place(self.path)
        name = self.path.stem if node is None else f"node{node}.rank{local}"
        return source_id("jsonl", name, self.path)

    def identity(self) -> Identity:
        """See `shipper.importers.Source`; `created` is the time of the first whole line."""
        return self.origin.identity(
            spool=self.spool, created=self.first_state().time, host="", place=_place(self.path)
        )

    def scan(self, file: BinaryIO, state: JsonlState) -> Iterator[tuple[Item, JsonlState]]:
        """See `ScannedFile`."""
        while True:
            line = _read_line(file, state.offset)
            if line is None:
                return
            if line.raw is not None and not line.raw.strip():
                state = replace(state, offset=line.end, number=state.number + 1)
                continue
            try:
                items = list(self._line(line, state))
            except _BadLine as error:
                if not line.ended:
                    return  # not written to its end yet, or never to be
                items = [_broken(line, state, f"{error}")]
            yield from items
            state = items[-1][1]

    def _line(self, line: _Line, state: JsonlState) -> Iterator[tuple[Item, JsonlState]]:
        """What a line that can be read holds."""
        values, rest = _parse(line.raw)
        after, body = self._step(values, state)
        number = state.number + (line.ended and not rest)
        after = replace(after, offset=line.end - rest, number=number)
        if not state.announced:
            state = replace(state, announced=True, time=after.time)
            yield run_item(run=self.run, time=after.time), state
        try:
            yield ImportedRecord(kind=step.NAME, body=pack(body)), replace(after, announced=True)
        except ValueError as error:
            raise _BadLine(f"{error}") from error

    def _step(self, values: dict[str, Any], state: JsonlState) -> tuple[JsonlState, dict[str, Any]]:
        """The body of a line, and the state after it but for the place."""
        data = values.get("data")
        if not isinstance(data, dict):
            raise _BadLine("data is no map")
        data.pop(MARKER, None)
        given = _given_step(values.get("step"))
        time = _time(values.get("timestamp"), state.time)
        number = state.counter if given is None else given
        counter = number + 1 if given is None else max(given, state.counter)
        body = step.encode(
            run=self.run,
            step=number,
            time=time,
            closed=given is None,
            data=data,
            step_given=given is not None,
        )
        return replace(state, counter=counter, time=time), body


def _broken(line: _Line, state: JsonlState, reason: str) -> tuple[Item, JsonlState]:
    """The damage of a line, up to a whole line that may follow a half one without a line end."""
    end, number = line.end, state.number + 1
    again = (line.raw or b"").rfind(_LINE_START, 1)
    if again > 0 and _is_readable((line.raw or b"")[again:]):
        end, number = state.offset + again, state.number
    place = f"line {state.number}, bytes {state.offset} to {end - 1}"
    return Unreadable(reason=f"{place}: {reason}"), replace(state, offset=end, number=number)


def _read_line(file: BinaryIO, offset: int) -> _Line | None:
    """The line at `offset`; None at the end, or when it is too long and has no end yet."""
    file.seek(offset)
    raw = file.readline(fmt.BODY_LIMIT + 1)
    if not raw:
        return None
    end = offset + len(raw)
    ended = raw.endswith(b"\n")
    if ended or len(raw) <= fmt.BODY_LIMIT:
        return _Line(raw=raw, end=end, ended=ended)
    while piece := file.readline(1024 * 1024):
        end += len(piece)
        if piece.endswith(b"\n"):
            return _Line(raw=None, end=end, ended=True)
    return None


def _parse(raw: bytes | None) -> tuple[dict[str, Any], int]:
    """The object that a line begins with, and how many bytes of the line follow it."""
    if raw is None:
        raise _BadLine(f"longer than {fmt.BODY_LIMIT} bytes")
    text, strange = _decode(raw)
    try:
        values, end = _DECODER.raw_decode(text, len(text) - len(text.lstrip(_SPACE)))
    except RecursionError as error:
        raise _BadLine("nested too deeply") from error
    except ValueError as error:
        reason = f"not JSON: {error}" if strange < 0 else f"not UTF-8 at its byte {strange}"
        raise _BadLine(reason[:200]) from error
    if not isinstance(values, dict):
        raise _BadLine("no JSON object")
    following = text[end:]
    rest = len(following.encode("utf-8", "surrogateescape")) if following.strip(_SPACE) else 0
    if 0 <= strange < len(raw) - rest:
        raise _BadLine(f"not UTF-8 at its byte {strange}")
    return values, rest


def _decode(raw: bytes) -> tuple[str, int]:
    """A line as text, and where its first byte that is not UTF-8 is, or -1."""
    try:
        return raw.decode("utf-8"), -1
    except UnicodeDecodeError as error:
        return raw.decode("utf-8", "surrogateescape"), error.start


def _is_readable(raw: bytes) -> bool:
    try:
        return isinstance(_parse(raw)[0].get("data"), dict)
    except _BadLine:
        return False


def _given_step(value: Any) -> int | None:
    """The step of a line; whole floats count, as numbers that JSON does not tell apart."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not _INT_MIN <= value < _INT_MAX:
        raise _BadLine("step is not a 64-bit integer")
    return value


def _time(value: Any, before: float) -> float:
    """Unix seconds of a line."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return before
    try:
        time = float(value)
    except OverflowError:
        return before
    return time if math.isfinite(time) else before


def _place(path: Path) -> tuple[int | None, int | None]:
    """Node and local rank that the two folders above the file name."""
    match = _PLACE.fullmatch("/".join(path.absolute().parts[-3:-1]))
    return (int(match[1]), int(match[2])) if match else (None, None)


def _root(path: Path) -> Path:
    """The folder that all ranks of the training share."""
    return path.parent if _place(path) == (None, None) else path.parent.parent.parent
