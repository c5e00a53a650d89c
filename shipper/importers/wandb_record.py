"""What a wandb record means: the few messages and fields of it that a replay needs. Pure.

Numbers are those of `wandb_internal.proto` and `wandb_telemetry.proto`, the same from wandb 0.16 to
0.31; what is not listed here is passed over::

    Record         history 2, run 17, exit 18, final 20, header 21, footer 22
    HistoryRecord  item 1 (repeated), step 2 {num 1}
    HistoryItem    key 1 or nested_key 2 (repeated), value_json 16, and beside it from 0.31 on, if
                   asked for: none 3, boolean 4, integer 5 (zigzag), number 6, text 7, json 8
    RunRecord      run_id 1, entity 2, project 3, run_group 6, job_type 7, display_name 8, tags 10
                   (repeated), host 13, starting_step 14, start_time 17 {seconds 1, nanos 2},
                   resumed 18, telemetry 19 {cli_version 5}
    RunExitRecord  exit_code 1
    HeaderRecord   version_info 1: written by wandb-core, not by the service that was before it

A map that was logged comes as one item for each leaf, named by `nested_key`, from wandb-core, and
whole from the older service; both become the map again. `NaN`, `Infinity` and `-Infinity` stand in
JSON as tokens. Media are maps with `_type` and become the placeholder that `spooler.records.values`
makes of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from shipper.protobuf import double, fields, message, signed, text, zigzag

HISTORY, RUN, EXIT, FINAL, HEADER, FOOTER = 2, 17, 18, 20, 21, 22
KINDS = frozenset({HISTORY, RUN, EXIT, FINAL, HEADER, FOOTER})

_KEY, _NESTED_KEY, _VALUE_JSON = 1, 2, 16
_NONE, _BOOLEAN, _INTEGER, _NUMBER, _TEXT, _JSON = 3, 4, 5, 6, 7, 8
_TEXTS = {1: "run", 2: "entity", 3: "project", 6: "group", 7: "job_type", 8: "name", 13: "host"}
_TAGS, _STARTING_STEP, _START_TIME, _RESUMED, _TELEMETRY, _CLI_VERSION = 10, 14, 17, 18, 19, 5

# wandb's own names in a step; what the user logged is the rest.
_STEP, _TIMESTAMP, _RUNTIME = "_step", "_timestamp", "_runtime"
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
class HistoryEntry:
    """One step: its number where the record has one, its time where it has one, what was logged."""

    step: int | None
    time: float | None
    runtime: float | None
    data: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What a run says of itself; texts are empty and numbers 0 where it does not."""

    texts: dict[str, str] = field(default_factory=dict)  # names as in `_TEXTS`
    tags: tuple[str, ...] = ()
    starting_step: int = 0
    start: float = 0.0  # Unix seconds
    resumed: bool = False
    wandb: str = ""  # version


def content(record: bytes) -> tuple[int, bytes]:
    """Which of `KINDS` a record is, and its message; 0 for any other.

    Raises:
        Malformed: as for the other functions here, the bytes are no message.
    """
    found = (0, b"")
    for number, value in fields(record):
        if number in KINDS:
            found = (number, message(value))
    return found


def history(body: bytes) -> HistoryEntry:
    """Decode a HistoryRecord."""
    data: dict[str, Any] = {}
    number: int | None = None
    for field_number, value in fields(body):
        if field_number == 1:
            path, logged = _item(message(value))
            _put(data, path, logged)
        elif field_number == 2:
            number = sum(signed(v) for n, v in fields(message(value)) if n == 1)
    own = {name: data.pop(name, None) for name in (_STEP, _TIMESTAMP, _RUNTIME)}
    step = own[_STEP]
    return HistoryEntry(
        step=step if isinstance(step, int) and not isinstance(step, bool) else number,
        time=_finite(own[_TIMESTAMP]),
        runtime=_finite(own[_RUNTIME]),
        data={name: _shown(value, 0) for name, value in data.items()},
    )


def run(body: bytes) -> Run:
    """Decode a RunRecord."""
    texts: dict[str, str] = {}
    numbers = {_STARTING_STEP: 0, _RESUMED: 0}
    tags: list[str] = []
    start, version = 0.0, ""
    for number, value in fields(body):
        if number in _TEXTS:
            texts[_TEXTS[number]] = text(value)
        elif number in numbers:
            numbers[number] = signed(value)
        elif number == _TAGS:
            tags.append(text(value))
        elif number == _START_TIME:
            start = _seconds(message(value))
        elif number == _TELEMETRY:
            version = _only_text(message(value), _CLI_VERSION)
    return Run(
        texts=texts,
        tags=tuple(tags),
        starting_step=numbers[_STARTING_STEP],
        start=start,
        resumed=bool(numbers[_RESUMED]),
        wandb=version,
    )


def exit_code(body: bytes) -> int:
    """Decode a RunExitRecord."""
    return sum(signed(value) for number, value in fields(body) if number == 1)


def has_version(body: bytes) -> bool:
    """Whether a HeaderRecord says who wrote the file."""
    return any(number == 1 for number, _ in fields(body))


def _item(body: bytes) -> tuple[tuple[str, ...], Any]:
    """Name and value of one HistoryItem; its typed value counts where there are two."""
    key, nested = "", list[str]()
    typed: tuple[Any, ...] = ()
    loaded: Any = None
    for number, value in fields(body):
        if number == _KEY:
            key = text(value)
        elif number == _NESTED_KEY:
            nested.append(text(value))
        elif number == _VALUE_JSON:
            loaded = _load(value)
        else:
            typed = tuple(_typed(number, value)) or typed
    return tuple(nested) or (key,), typed[0] if typed else loaded


def _typed(number: int, value: int | bytes) -> Iterator[Any]:
    """The typed value in a field of a HistoryItem, nothing where it is none."""
    if number == _NONE:
        yield None
    elif number == _BOOLEAN:
        yield bool(value)
    elif number == _INTEGER:
        yield zigzag(value)
    elif number == _NUMBER:
        yield double(value)
    elif number == _TEXT:
        yield text(value)
    elif number == _JSON:
        yield _load(value)


def _load(value: int | bytes) -> Any:
    """A JSON text; one that cannot be read becomes a placeholder, so that the step stays."""
    try:
        return json.loads(text(value))
    except (ValueError, RecursionError) as error:
        return {"_type": "error", "class": "", "error": type(error).__name__}


def _put(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Set a leaf; where something else than a map is in its way, its name is joined by dots."""
    at = data
    for name in path[:-1]:
        below = at.setdefault(name, {})
        if not isinstance(below, dict):
            data[".".join(path)] = value
            return
        at = below
    at[path[-1]] = value


def _shown(value: Any, depth: int) -> Any:
    """Media as placeholders, at any depth that is shipped."""
    if depth > _DEPTH_LIMIT:
        return value
    if isinstance(value, list):
        return [_shown(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("_type")
    if isinstance(kind, str):
        is_ours = "class" in value and kind == "error"
        return value if is_ours else dict(_MEDIA.get(kind, {"_type": kind, "class": ""}))
    return {name: _shown(item, depth + 1) for name, item in value.items()}


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _seconds(timestamp: bytes) -> float:
    """A protobuf Timestamp as Unix seconds."""
    parts = {number: signed(value) for number, value in fields(timestamp)}
    return float(parts.get(1, 0)) + parts.get(2, 0) / 1e9


def _only_text(body: bytes, wanted: int) -> str:
    found = ""
    for number, value in fields(body):
        if number == wanted:
            found = text(value)
    return found
