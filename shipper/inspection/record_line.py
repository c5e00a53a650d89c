"""One record as a line of text, or as a map for JSON. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shipper.humanize import clock, number, sanitize
from shipper.inspection.stats import record_time
from shipper.steps import rows_in
from spooler.errors import BodyUnreadable
from spooler.records.axes import STEP_KEYS
from spooler.spool.identity import Identity
from spooler.spool.stored import Stored

_MAX_VALUES = 40  # in one line
_MAX_CHARACTERS = 60  # of one value
_RUN_FIELDS = (
    "project",
    "name",
    "group",
    "job_type",
    "sweep",
    "tracker",
    "tracker_version",
    "wandb",
    "sole_writer",
    "run_prefix",
    "reason",
)

Body = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TailRecord:
    """A record, its decoded body ({} if it does not decode), and who wrote it."""

    identity: Identity
    stored: Stored
    body: Body
    step_keys: Sequence[str] = STEP_KEYS  # see `shipper.steps`

    @property
    def time(self) -> float | None:
        """Unix seconds, by the clock of the process that wrote it."""
        return record_time(self.body)

    def to_map(self) -> dict[str, Any]:
        return {
            "spool": self.identity.spool,
            "seq": self.stored.seq,
            "kind": self.stored.kind,
            "rank": self.identity.rank,
            "workload": self.identity.workload_uid,
            "body": self.body,
        }


def format_record(record: TailRecord) -> str:
    """Time, rank, run and kind, then what the record says."""
    rank = "-" if record.identity.rank is None else f"r{record.identity.rank}"
    run = record.body.get("run")
    run = sanitize(run, _MAX_CHARACTERS) if isinstance(run, str) else "-"
    text = _text(record) if record.body else "(undecodable body)"
    kind = sanitize(record.stored.kind, _MAX_CHARACTERS)
    return f"{clock(record.time, fine=True):<23}  {rank:<3} {run:<9} {kind} {text}".rstrip()


def _text(record: TailRecord) -> str:
    if record.stored.kind == "step":
        return _step(record.body, record.step_keys)
    return _DESCRIBE.get(record.stored.kind, _other)(record.body)


def _value(value: object) -> str:
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, dict) and isinstance(value.get("_type"), str):
        return f"<{sanitize(value['_type'], _MAX_CHARACTERS)}>"
    return sanitize(value, _MAX_CHARACTERS)


def _pairs(values: object) -> str:
    if not isinstance(values, Mapping):
        return ""
    pairs = [f"{sanitize(name, 80)}={_value(values[name])}" for name in list(values)[:_MAX_VALUES]]
    more = f" … {len(values) - _MAX_VALUES} more" if len(values) > _MAX_VALUES else ""
    return " ".join(pairs) + more


def _step(body: Body, step_keys: Sequence[str]) -> str:
    part = "" if body.get("closed", True) else " (part)"
    try:
        rows = rows_in(body, step_keys)
    except BodyUnreadable:
        return _other(body)
    return "  ".join(f"{number}{part}  {_pairs(values)}" for number, values in rows)


def _run(body: Body) -> str:
    fields = {name: body[name] for name in _RUN_FIELDS if body.get(name) not in (None, "")}
    config = body.get("config")
    fields |= {f"config.{name}": config[name] for name in config or () if isinstance(config, dict)}
    word = "changed" if body.get("update") else "resumed" if body.get("resumed") else "started"
    return f"{word}  {_pairs(fields)}"


def _other(body: Body) -> str:
    return _pairs({name: value for name, value in body.items() if name not in ("run", "time")})


_DESCRIBE: dict[str, Callable[[Body], str]] = {
    "run": _run,
    "finish": lambda body: (
        f"exit code {_value(body.get('exit_code'))}, last step {_value(body.get('step'))}"
    ),
    "exit": lambda body: f"clean shutdown  {_pairs(body.get('steps'))}",
    "gap": lambda body: (
        f"{_value(body.get('count'))} records dropped: {_value(body.get('reason'))}"
    ),
    "detection": lambda body: f"scan {_value(body.get('look'))}  {_pairs(body.get('hints'))}",
    "report": lambda body: f"{_value(body.get('data_type'))}  {sanitize(body.get('data_content'))}",
}
