"""wandb's own run files: everything that a run logged, as wandb keeps it to synchronise later.

Layout: ``wandb/offline-run-<start>-<run id>/run-<run id>.wandb``, and ``wandb/run-…`` the same for
a run that was online. The file is a header of 7 bytes, ``:W&B``, 0xBEE1 (little-endian), version 0,
and then a log (`shipper.importers.wandb_datastore`) of protobuf messages. Fields that are read,
with the numbers of `wandb_internal.proto` and `wandb_telemetry.proto` (wandb 0.16 to 0.31)::

    Record         history 2, config 5, metric 12, run 17, exit 18, final 20, header 21, footer 22
    HistoryRecord  item 1 (repeated), step 2 {num 1}
    HistoryItem    key 1 or nested_key 2 (repeated), value_json 16, and from 0.31 on, on request:
                   none 3, boolean 4, integer 5 (zigzag), number 6, text 7, json 8
    MetricRecord   name 1 or glob_name 2, step_metric 4, options 6 {step_sync 1, defined 3},
                   _control 9 {overwrite 1}
    ConfigRecord   update 1 (repeated): items as in HistoryRecord, JSON only
    RunRecord      run_id 1, entity 2, project 3, config 4, run_group 6, job_type 7, display_name 8,
                   tags 10 (repeated), sweep_id 12, host 13, starting_step 14, start_time 17
                   {seconds 1, nanos 2}, resumed 18, telemetry 19 {cli_version 5}
    RunExitRecord  exit_code 1
    HeaderRecord   version_info 1: written by wandb-core, not by the service before it

- Each history record is one whole step: wandb has merged parts logged with ``commit=False``.
  Summaries and requests for parts of a step repeat the history and are skipped.
- A step's number is its `_step`, else the record's, else the one after the last step. Its time is
  its `_timestamp`, else start and `_runtime`, else the time of the step before.
- The first run record is the "run". Later ones only change its description. If it cannot be read,
  the run id is the one in the file's name.
- "finish" is at the run's exit. In files of the service before wandb-core, known by a header
  record without a version, the last step may follow the exit: there, "finish" is at the record
  that ends the file.
- A metric record that is `defined` is a call of `define_metric`. Others are what wandb made of one
  for a name. Steps carry their axes as in a spool. wandb has added the last value of an axis to
  rows that lack it.
- wandb-core writes a logged map as one item for each leaf, named by `nested_key`. The older
  service writes it whole. Both become the map again. `NaN` and infinities are JSON tokens.
- The configuration of the run record, and each change of it, is recorded as the hook records it.
- Media are maps with `_type` and become the placeholders of `spooler.records.values`. The file
  says only that they were logged. System metrics and console output are skipped.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from shipper.importers import SourceInfo, files_below, source_id
from shipper.importers.scan import (
    ImportedRecord,
    Item,
    ScannedFile,
    Unreadable,
    apart,
    finite,
    pack,
    run_item,
)
from shipper.importers.wandb_datastore import CorruptEntry, LogEntry, LogOffset, entries
from shipper.protobuf import MalformedMessage, double, fields, message, signed, text, zigzag
from spooler.errors import BodyUnreadable, NewerFormat, NotASpool
from spooler.records import finish, run_config, step
from spooler.records.axes import AxesOfStep, Definitions
from spooler.spool import safe_open
from spooler.spool.identity import Identity

SUFFIX = ".wandb"

_HEADER = struct.Struct("<4sHB")
_IDENT = (b":W&B", 0xBEE1)
_VERSION = 0
_FILE_NAME = re.compile(r"run-(.+)\.wandb")
_MODES = {"offline-run-": "offline", "run-": "online"}
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_KEY, _NESTED_KEY, _VALUE_JSON = 1, 2, 16
_TEXTS = {1: "run", 2: "entity", 3: "project", 6: "group", 7: "job_type", 8: "name"}
_TEXTS |= {12: "sweep", 13: "host"}
_CONFIG = 4  # of a run record
_TAGS, _STARTING_STEP, _START_TIME, _RESUMED, _TELEMETRY, _CLI_VERSION = 10, 14, 17, 18, 19, 5
_METRIC_TEXTS = {1: "name", 2: "name", 4: "step_metric"}
_OPTIONS, _STEP_SYNC, _DEFINED, _CONTROL, _OVERWRITE = 6, 1, 3, 9, 1
_DEPTH_LIMIT = 32

# `_type` in the file -> the placeholder of the object that was logged.
_MEDIA = {
    kind: {"_type": logged, "class": f"wandb.sdk.data_types.{name}"}
    for kind, logged, name in (
        ("audio-file", "audio-file", "audio.Audio"),
        ("bokeh-file", "bokeh-file", "bokeh.Bokeh"),
        ("graph-file", "graph-file", "graph.Graph"),
        ("histogram", "histogram", "histogram.Histogram"),
        ("html-file", "html-file", "html.Html"),
        ("image-file", "image-file", "image.Image"),
        ("molecule-file", "molecule-file", "molecule.Molecule"),
        ("object3D-file", "object3D-file", "object_3d.Object3D"),
        ("plotly-file", "plotly-file", "plotly.Plotly"),
        ("table-file", "table", "table.Table"),
        ("video-file", "video-file", "video.Video"),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class WandbState:
    """The offset in the log, and what later records depend on."""

    place: LogOffset
    run: str
    mode: str = ""  # "offline" or "online", as the folder's name has it
    announced: bool = False  # the "run" record has been given
    host: str = ""
    start: float = 0.0
    time: float = 0.0  # of the last record
    dated: float = 0.0  # what was made of it
    step: int | None = None  # the last one
    following: int = 0  # number of the next step, if it has none
    exits_early: bool = False  # the last step comes after the exit
    definitions: Definitions | None = None  # of axes, as far as there are any
    exit_code: int | None = None  # of an exit that has not been given yet
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the run record


class WandbFile(ScannedFile[WandbState]):
    """One run's file."""

    FILES = f"wandb's run-*{SUFFIX}"

    def __init__(self, path: Path, origin: SourceInfo) -> None:
        folder = path.absolute().parent.name
        mode = next((name for start, name in _MODES.items() if folder.startswith(start)), "")
        place = LogOffset(offset=_HEADER.size)
        super().__init__(path, origin, WandbState(place=place, run=_run_in_name(path), mode=mode))

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if not path.is_file():
            return False
        if path.suffix == SUFFIX:
            return True
        try:
            with safe_open.open_named(path) as file:
                return file.read(len(_IDENT[0])) == _IDENT[0]
        except OSError:
            return False

    @classmethod
    def find(cls, folder: Path) -> Iterator[Path]:
        return (path for path in files_below(folder) if _FILE_NAME.fullmatch(path.name))

    @property
    def spool(self) -> str:
        return source_id("wandb", _run_in_name(self.path), self.path)

    def identity(self) -> Identity:
        known = self.first_state()
        return self.origin.identity(
            spool=self.spool, created=known.start, host=known.host, place=(None, None)
        )

    def scan(self, file: BinaryIO, state: WandbState) -> Iterator[tuple[Item, WandbState]]:
        """As in the base class.

        Raises:
            NotASpool, NewerFormat: the header is not that of a run file.
        """
        if not _has_header(self.path, file):
            return
        for entry in entries(file, state.place):
            item, state = _read(entry, state)
            if item is not None:
                yield item, state


def _read(entry: LogEntry | CorruptEntry, state: WandbState) -> tuple[Item | None, WandbState]:
    """The item that an entry of the log becomes, if any, and the state after it."""
    after = replace(state, place=entry.then)
    if isinstance(entry, CorruptEntry):
        return Unreadable(reason=f"record at byte {entry.start}: {entry.reason}"), after
    found = None
    try:
        for number, value in fields(entry.data):
            if number in _READERS:
                found = _READERS[number], message(value)
        return found[0](found[1], after) if found else (None, after)
    except MalformedMessage as error:
        return Unreadable(
            reason=f"record at byte {entry.start}: not a message of wandb's: {error}"
        ), after
    except ValueError as error:
        return Unreadable(reason=f"record at byte {entry.start}: {error}"), after


def _header(body: bytes, state: WandbState) -> tuple[Item | None, WandbState]:
    has_version = any(number == 1 for number, _ in fields(body))
    return None, replace(state, exits_early=not has_version)


def _run(body: bytes, state: WandbState) -> tuple[Item | None, WandbState]:
    if state.announced:
        return None, state
    texts = dict.fromkeys(_TEXTS.values(), "")
    tags: list[str] = []
    config: dict[str, Any] = {}
    starting_step = resumed = 0
    start, version = 0.0, ""
    for number, value in fields(body):
        if number in _TEXTS:
            texts[_TEXTS[number]] = text(value)
        elif number == _CONFIG:
            config = _config_in(message(value))
        elif number == _TAGS:
            tags.append(text(value))
        elif number == _STARTING_STEP:
            starting_step = signed(value)
        elif number == _RESUMED:
            resumed = signed(value)
        elif number == _START_TIME:
            parts = {part: signed(one) for part, one in fields(message(value))}
            start = float(parts.get(1, 0)) + parts.get(2, 0) / 1e9
        elif number == _TELEMETRY:
            versions = [text(one) for part, one in fields(message(value)) if part == _CLI_VERSION]
            version = versions[-1] if versions else ""
    run, host = texts.pop("run") or state.run, texts.pop("host")
    told = {"tags": tags, "resumed": bool(resumed), "step": starting_step, "mode": state.mode}
    facts = {**texts, **told, "tracker_version": version}
    state = replace(
        state,
        run=run,
        announced=True,
        host=host,
        start=start,
        time=state.time or start,
        following=max(state.following, starting_step),
        facts=facts,
    )
    return run_item(run=run, time=start, **facts, config=config), state


def _config(body: bytes, state: WandbState) -> tuple[Item | None, WandbState]:
    """A change of the configuration; what comes before the run is also in its own record."""
    changed = _config_in(body)
    if not changed or not state.announced:
        return None, state
    found = run_item(run=state.run, time=state.time, **state.facts, config=changed, update=True)
    return found, state


def _config_in(body: bytes) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for number, value in fields(body):
        if number == 1:
            path, given = _item(message(value))
            if not path[0].startswith("_"):  # wandb's own
                _put(config, path, given)
    return run_config.flat(config)


def _history(body: bytes, state: WandbState) -> tuple[Item | None, WandbState]:
    data: dict[str, Any] = {}
    number: int | None = None
    for field_number, value in fields(body):
        if field_number == 1:
            path, logged = _item(message(value))
            _put(data, path, logged)
        elif field_number == 2:
            number = sum(signed(one) for part, one in fields(message(value)) if part == 1)
    own, time, runtime = (data.pop(name, None) for name in ("_step", "_timestamp", "_runtime"))
    if isinstance(own, int) and not isinstance(own, bool):
        number = own
    number = state.following if number is None else number
    time, runtime = finite(time), finite(runtime)
    if time is None:
        time = state.time if runtime is None else state.start + runtime
    data = {name: _without_media(value, 0) for name, value in data.items()}
    axes, state = _axes(data, state)
    other = state.step is not None and number != state.step
    dated = apart(time, state.time, state.dated) if other else time
    made = step.encode(
        run=state.run,
        step=number,
        time=dated,
        closed=True,
        data=data,
        axes=axes,
        run_prefix=bool(state.facts.get("sweep")),  # as `spooler.hooks.names` decides
    )
    state = replace(state, step=number, following=number + 1, time=time, dated=dated)
    return ImportedRecord(kind=step.NAME, body=pack(made)), state


def _metric(body: bytes, state: WandbState) -> tuple[Item | None, WandbState]:
    texts: dict[str, str] = {}
    flags: dict[tuple[int, int], bool] = {}
    for number, value in fields(body):
        if number in _METRIC_TEXTS:
            texts[_METRIC_TEXTS[number]] = text(value)
        elif number in (_OPTIONS, _CONTROL):
            flags.update(((number, part), bool(one)) for part, one in fields(message(value)))
    if not flags.get((_OPTIONS, _DEFINED)) or not texts.get("name"):
        return None, state
    sync, overwrite = flags.get((_OPTIONS, _STEP_SYNC)), flags.get((_CONTROL, _OVERWRITE))
    definitions = (state.definitions or Definitions()).define(
        **texts, step_sync=bool(sync), overwrite=bool(overwrite)
    )
    return None, replace(state, definitions=definitions)


def _axes(data: dict[str, Any], state: WandbState) -> tuple[AxesOfStep | None, WandbState]:
    """What the record of a step carries, see `spooler.records.axes`."""
    if state.definitions is None:
        return None, state
    try:
        flat = step.flatten(data)
    except BodyUnreadable:
        return None, state  # as every reader of the record will find
    groups, definitions = state.definitions.after(flat).groups(flat)
    return definitions.of_step(groups, flat, {}), replace(state, definitions=definitions)


def _exit(body: bytes, state: WandbState) -> tuple[Item | None, WandbState]:
    state = replace(state, exit_code=sum(signed(one) for part, one in fields(body) if part == 1))
    return (None, state) if state.exits_early else _end(b"", state)


def _end(_body: bytes, state: WandbState) -> tuple[Item | None, WandbState]:
    """The exit that was read before, if there was one."""
    if state.exit_code is None:
        return None, state
    made = finish.encode(run=state.run, time=state.time, step=state.step, exit_code=state.exit_code)
    return ImportedRecord(kind=finish.NAME, body=pack(made)), replace(state, exit_code=None)


_READERS = {  # by field of Record
    2: _history,
    5: _config,
    12: _metric,
    17: _run,
    18: _exit,
    20: _end,
    21: _header,
    22: _end,
}


def _item(body: bytes) -> tuple[tuple[str, ...], Any]:
    """Name and value of one HistoryItem; a typed value overrides its JSON."""
    key, nested, loaded = "", list[str](), None
    typed: list[Any] = []
    for number, value in fields(body):
        if number == _KEY:
            key = text(value)
        elif number == _NESTED_KEY:
            nested.append(text(value))
        elif number == _VALUE_JSON:
            loaded = _load(value)
        elif number in _TYPED:
            typed.append(_TYPED[number](value))
    return tuple(nested) or (key,), typed[-1] if typed else loaded


def _load(value: int | bytes) -> Any:
    """A JSON text; one that cannot be read becomes a placeholder, so that the step is kept."""
    try:
        return json.loads(text(value))
    except (ValueError, RecursionError) as error:
        return {"_type": "error", "class": "", "error": type(error).__name__}


_TYPED: dict[int, Callable[[int | bytes], Any]] = {
    3: lambda _: None,
    4: bool,
    5: zigzag,
    6: double,
    7: text,
    8: _load,
}


def _put(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Set a leaf; where a value that is not a map has its name, the names are joined by dots."""
    at = data
    for name in path[:-1]:
        below = at.setdefault(name, {})
        if not isinstance(below, dict):
            data[".".join(path)] = value
            return
        at = below
    at[path[-1]] = value


def _without_media(value: Any, depth: int) -> Any:
    """The value with media as placeholders, at any depth that is shipped."""
    if depth > _DEPTH_LIMIT:
        return value
    if isinstance(value, list):
        return [_without_media(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("_type")
    if isinstance(kind, str):
        is_placeholder = "class" in value and kind == "error"
        return value if is_placeholder else dict(_MEDIA.get(kind, {"_type": kind, "class": ""}))
    return {name: _without_media(item, depth + 1) for name, item in value.items()}


def _has_header(path: Path, file: BinaryIO) -> bool:
    """Whether the header is there; False while it is not complete."""
    file.seek(0)
    head = file.read(_HEADER.size)
    expected = _HEADER.pack(*_IDENT, _VERSION)
    if head == expected:
        return True
    if expected.startswith(head):
        return False
    packed = next((name for start, name in _PACKED.items() if head.startswith(start)), "")
    if packed:
        raise NotASpool(f"{path}: compressed with {packed}: unpack it first")
    if head[:-1] == expected[:-1]:
        raise NewerFormat(f"{path}: version {head[-1]} of wandb's run file, known is {_VERSION}")
    raise NotASpool(f"{path}: not a run file of wandb")


def _run_in_name(path: Path) -> str:
    match = _FILE_NAME.fullmatch(path.name)
    return match[1] if match else path.stem or "unknown"
