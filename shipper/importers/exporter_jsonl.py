r"""Metric files of the older exporter: one line of JSON for each call of `wandb.log`.

Layout: ``<root>/node_<N>/rank_<R>/wandb_metrics.jsonl``, appended to by the training process::

    {"timestamp": 1700000000.5, "step": 7, "data": {"loss": 2.5, "_primus_sys_cpu": 11.0}}\n

| member    | type          | meaning                                                            |
|-----------|---------------|--------------------------------------------------------------------|
| timestamp | number        | Unix seconds; the time of the line before if it is not a number    |
| step      | integer, null | what the call passed as `step`                                     |
| data      | map           | what the call logged, with the mark `_primus_lens_enabled`         |

Python's `json` wrote the file: `NaN`, `Infinity` and `-Infinity` are tokens, text is UTF-8, and of
a name that occurs twice the later value counts.

- A line without a step gets the number that wandb gives it: a counter that starts at 0, is
  incremented after such a line, and moves up to the step of a line that has one. That step stays
  open: steps 5, null, null are 5, 5, 6. A step below the counter stays as it is. The file does not
  have `commit`: parts logged with ``commit=False`` and no step become steps of their own.
- A "run" record precedes the first complete line. There is no "finish": the file has no end mark.
- The run id is `import-<hash of the root>`, the same for all ranks. Node and local rank come from
  the path, which does not have the global rank.
- The key `_primus_lens_enabled` is left out, `_primus_sys_*` and `_primus_gpu_*` are metrics.
- The text after the last line end is not written yet, unless it is a complete object. Empty lines
  are skipped. A line that cannot be read is damage. When a killed writer's line and the next
  writer's share a line, each is read on its own, and so is what follows an object.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from shipper.importers import SourceInfo, files_below, path_digest, source_id
from shipper.importers.scan import (
    ImportedRecord,
    Item,
    ScannedFile,
    Unreadable,
    apart,
    finite,
    next_data,
    pack,
    run_item,
)
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
    number: int = 1  # of the line, for messages
    announced: bool = False  # the "run" record has been given
    counter: int = 0  # step of the next line without one
    time: float = 0.0  # of the last line
    dated: float = 0.0  # what was made of it
    step: int | None = None  # the last one


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    raw: bytes | None  # None when it is too long
    end: int  # offset of the next line
    ended: bool  # by a line end, not by the end of the file


class _BadLine(ValueError):
    """A line is not one of this format; the text says why."""


class ExporterFile(ScannedFile[JsonlState]):
    """One rank's file."""

    FILES = f"the older exporter's {FILE_NAME}"

    def __init__(self, path: Path, origin: SourceInfo) -> None:
        super().__init__(path, origin, JsonlState())
        self.run = f"import-{path_digest(_root(path))}"

    @classmethod
    def recognises(cls, path: Path) -> bool:
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
        return (path for path in files_below(folder) if path.name == FILE_NAME)

    @property
    def spool(self) -> str:
        node, local = _place(self.path)
        name = self.path.stem if node is None else f"node{node}.rank{local}"
        return source_id("jsonl", name, self.path)

    def identity(self) -> Identity:
        # Created at the time of the first complete line.
        return self.origin.identity(
            spool=self.spool, created=self.first_state().time, host="", place=_place(self.path)
        )

    def scan(self, file: BinaryIO, state: JsonlState) -> Iterator[tuple[Item, JsonlState]]:
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
                    return  # not complete yet
                items = [_broken(line, state, f"{error}")]
            yield from items
            state = items[-1][1]

    def _line(self, line: _Line, state: JsonlState) -> Iterator[tuple[Item, JsonlState]]:
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
        """The state after a line, without the offset, and the body."""
        data = values.get("data")
        if not isinstance(data, dict):
            raise _BadLine("data is not a map")
        data.pop(MARKER, None)
        given = _given_step(values.get("step"))
        told = finite(values.get("timestamp"))
        time = state.time if told is None else told
        number = state.counter if given is None else given
        other = state.step is not None and number != state.step
        dated = apart(time, state.time, state.dated) if other else time
        counter = number + 1 if given is None else max(given, state.counter)
        body = step.encode(
            run=self.run,
            step=number,
            time=dated,
            closed=given is None,
            data=data,
            step_given=given is not None,
        )
        return replace(state, counter=counter, time=time, dated=dated, step=number), body


def _broken(line: _Line, state: JsonlState, reason: str) -> tuple[Item, JsonlState]:
    """The damage of a line, which ends where a second, complete one begins in it."""
    end, number = line.end, state.number + 1
    again = (line.raw or b"").rfind(_LINE_START, 1)
    with contextlib.suppress(_BadLine):
        if again > 0 and isinstance(_parse((line.raw or b"")[again:])[0].get("data"), dict):
            end, number = state.offset + again, state.number
    place = f"line {state.number}, bytes {state.offset} to {end - 1}"
    return Unreadable(reason=f"{place}: {reason}"), replace(state, offset=end, number=number)


def _read_line(file: BinaryIO, offset: int) -> _Line | None:
    """The line at `offset`; None at the end, or when it is too long and not complete yet."""
    file.seek(offset)
    raw = file.readline(fmt.BODY_LIMIT + 1)
    if not raw:
        return None
    end = offset + len(raw)
    ended = raw.endswith(b"\n")
    if ended or len(raw) <= fmt.BODY_LIMIT:
        return _Line(raw=raw, end=end, ended=ended)
    while True:
        end = next_data(file, end)
        file.seek(end)
        piece = file.readline(1024 * 1024)
        if not piece:
            return None
        end += len(piece)
        if piece.endswith(b"\n"):
            return _Line(raw=None, end=end, ended=True)


def _parse(raw: bytes | None) -> tuple[dict[str, Any], int]:
    """The object at the start of a line, and how many bytes of the line follow it."""
    if raw is None:
        raise _BadLine(f"longer than {fmt.BODY_LIMIT} bytes")
    try:
        text, strange = raw.decode("utf-8"), -1
    except UnicodeDecodeError as error:
        text, strange = raw.decode("utf-8", "surrogateescape"), error.start
    try:
        values, end = _DECODER.raw_decode(text, len(text) - len(text.lstrip(_SPACE)))
    except RecursionError as error:
        raise _BadLine("nested too deeply") from error
    except ValueError as error:
        reason = f"not JSON: {error}" if strange < 0 else f"not UTF-8 at its byte {strange}"
        raise _BadLine(reason[:200]) from error
    if not isinstance(values, dict):
        raise _BadLine("not a JSON object")
    following = text[end:]
    rest = len(following.encode("utf-8", "surrogateescape")) if following.strip(_SPACE) else 0
    if 0 <= strange < len(raw) - rest:
        raise _BadLine(f"not UTF-8 at its byte {strange}")
    return values, rest


def _given_step(value: Any) -> int | None:
    """The step of a line; a float that is a whole number is one."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not _INT_MIN <= value < _INT_MAX:
        raise _BadLine("step is not a 64-bit integer")
    return value


def _place(path: Path) -> tuple[int | None, int | None]:
    """Node and local rank, from the names of the two directories above the file."""
    match = _PLACE.fullmatch("/".join(path.absolute().parts[-3:-1]))
    return (int(match[1]), int(match[2])) if match else (None, None)


def _root(path: Path) -> Path:
    """The directory that all ranks of the training share."""
    return path.parent if _place(path) == (None, None) else path.parent.parent.parent
