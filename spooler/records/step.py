"""One logging call of an experiment tracker: a step, or a part of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from spooler.errors import BodyTooLarge, MalformedBody
from spooler.records.axes import AxesOfStep, checked
from spooler.records.schema import RUN_CHARACTERS, Schema

NAME = "step"
_TEXTS = frozenset({str})
NAMES_LIMIT = 8 * 1024 * 1024  # characters: each value repeats the names of all maps that it is in
_WANDB = "wandb"  # most steps come from it, and it need not be written a million times


class StepRecord(NamedTuple):
    """A step, or a part of one.

    `data` is what the user passed, nested as passed: numbers, text, booleans and None as they are,
    other values as `spooler.records.values` converts them.
    """

    run: str
    step: int  # the tracker's own number
    time: float
    closed: bool  # the tracker ended the step with this call; otherwise more parts may follow
    data: dict[str, Any]
    tracker: str = _WANDB  # a key of `spooler.hooks.REGISTRY`, or of a service's importer
    step_given: bool = False  # the caller named the step; otherwise the tracker counted
    inherited: bool = False  # another process has begun the run
    # What `spooler.records.axes` says of the data; None where no axis was defined.
    axes: dict[str, Any] | None = None
    sole_writer: bool = False  # no other rank of the job logs
    run_prefix: bool = False  # other runs of the workload have the same names and steps
    accepted: bool = True  # False: the tracker's own call raised
    # Of a step that the log collector found: `path` and `parser`, and the mark of its line, see
    # `spooler.filetail.checkpoint`.
    source: dict[str, Any] | None = None


_schema = Schema(StepRecord)
_REQUIRED = len(StepRecord._fields) - len(StepRecord._field_defaults)
_ABSENT = tuple(StepRecord._field_defaults.values())


def encode(  # noqa: PLR0913 - the fields of a step
    run: str,
    step: int,
    time: float,
    closed: bool,
    data: Mapping[str, Any],
    tracker: str = _WANDB,
    step_given: bool = False,
    inherited: bool = False,
    axes: AxesOfStep | None = None,
    sole_writer: bool = False,
    run_prefix: bool = False,
    accepted: bool = True,
    source: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of a step; a dict display, as it is built at every call of the user's."""
    body = {"run": run, "step": step, "time": time, "closed": closed, "data": data}
    if tracker != _WANDB:
        body["tracker"] = tracker
        if source is not None:
            body["source"] = source
    if step_given:
        body["step_given"] = True
    if inherited:
        body["inherited"] = True
    if axes is not None:
        body["axes"] = axes
    if sole_writer:
        body["sole_writer"] = True
    if run_prefix:
        body["run_prefix"] = True
    if not accepted:
        body["accepted"] = False
    return body


def decode(body: Mapping[str, Any]) -> StepRecord:
    """The step in a decoded body.

    Raises:
        MalformedBody: it is not the body of a step.
    """
    run, step, time = body.get("run"), body.get("step"), body.get("time")
    closed, data = body.get("closed"), body.get("data")
    if (  # what the schema says of most steps, in half the time: a service decodes millions
        len(body) == _REQUIRED
        and type(run) is str
        and len(run) <= RUN_CHARACTERS
        and type(step) is int
        and type(time) is float
        and type(closed) is bool
        and type(data) is dict
        and _TEXTS.issuperset(map(type, data))
    ):
        return tuple.__new__(StepRecord, (run, step, time, closed, data, *_ABSENT))
    record = _schema.decode(body)
    if not _TEXTS.issuperset(map(type, record.data)):
        raise MalformedBody("data has a name that is not text")
    if record.axes is not None:
        checked(record.axes)
    return record


EXAMPLE = encode(
    run="4x7k2m9q", step=7, time=1700000000.0, closed=True, data={"loss": 2.5, "accuracy": 0.5}
)


def flatten(data: dict[str, Any]) -> dict[str, Any]:
    """Nested maps to names joined by `.`, as wandb shows them; placeholders stay whole.

    Of two names that become the same, the later one counts. Flat data is returned itself.

    Raises:
        MalformedBody: it is nested too deeply.
        BodyTooLarge: the names become too long together.
    """
    if dict not in map(type, data.values()):
        return data
    flat: dict[str, Any] = {}
    try:
        _flatten_into(flat, "", data, NAMES_LIMIT)
    except RecursionError:
        raise MalformedBody("data is nested too deeply") from None
    return flat


def _flatten_into(flat: dict[str, Any], prefix: str, data: Mapping[str, Any], left: int) -> int:
    """Flatten `data` into `flat`; of `left` characters of names, how many are left."""
    for key, value in data.items():
        name = f"{prefix}{key}"
        left -= len(name)
        if left < 0:
            raise BodyTooLarge(f"names have more than {NAMES_LIMIT} characters once flattened")
        if isinstance(value, dict) and "_type" not in value:
            left = _flatten_into(flat, f"{name}.", value, left)
        else:
            flat[name] = value
    return left
