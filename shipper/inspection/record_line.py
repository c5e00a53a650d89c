"""One record as one line for people, or as one value for machines. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shipper.humanize import clock, number, sanitize
from shipper.inspection.stats import record_time
from spooler.records.step import flatten
from spooler.spool.identity import Identity
from spooler.spool.stored import Stored

_MOST_VALUES = 40  # of one line
_VALUE = 60  # characters of one value
_ABOUT_A_RUN = ("project", "name", "group", "job_type", "wandb")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A record with its decoded body (empty where it does not decode) and who wrote it."""

    identity: Identity
    stored: Stored
    body: Mapping[str, Any]

    @property
    def time(self) -> float | None:
        """Unix seconds, by the clock of its process."""
        return record_time(self.body)


def line(seen: Seen) -> str:
    """Time, rank, run, kind, and what it says."""
    rank = "-" if seen.identity.rank is None else f"r{seen.identity.rank}"
    run = seen.body.get("run")
    told = sanitize(run, _VALUE) if isinstance(run, str) else "-"
    say = _SAYING.get(seen.stored.kind, _anything)
    what = say(seen.body) if seen.body else "(its body does not decode)"
    kind = sanitize(seen.stored.kind, _VALUE)
    return f"{clock(seen.time, fine=True):<23}  {rank:<3} {told:<9} {kind} {what}".rstrip()


def to_map(seen: Seen) -> dict[str, Any]:
    """For machines: the record as it is, and where it comes from."""
    return {
        "spool": seen.identity.spool,
        "seq": seen.stored.seq,
        "kind": seen.stored.kind,
        "rank": seen.identity.rank,
        "workload": seen.identity.workload_uid,
        "body": seen.body,
    }


def _value(value: object) -> str:
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, dict) and isinstance(value.get("_type"), str):
        return f"<{sanitize(value['_type'], _VALUE)}>"
    return sanitize(value, _VALUE)


def _pairs(values: object) -> str:
    if not isinstance(values, Mapping):
        return ""
    pairs = [f"{sanitize(name, 80)}={_value(values[name])}" for name in list(values)[:_MOST_VALUES]]
    more = f" … {len(values) - _MOST_VALUES} more" if len(values) > _MOST_VALUES else ""
    return " ".join(pairs) + more


def _step(body: Mapping[str, Any]) -> str:
    data = body.get("data")
    part = "" if body.get("closed", True) else " (part)"
    values = flatten(data) if isinstance(data, dict) else {}
    return f"{_value(body.get('step'))}{part}  {_pairs(values)}"


def _run(body: Mapping[str, Any]) -> str:
    facts = {name: body[name] for name in _ABOUT_A_RUN if body.get(name) not in (None, "")}
    return f"{'goes on' if body.get('resumed') else 'begins'}  {_pairs(facts)}"


def _finish(body: Mapping[str, Any]) -> str:
    return f"exit code {_value(body.get('exit_code'))}, last step {_value(body.get('step'))}"


def _exit(body: Mapping[str, Any]) -> str:
    return f"goodbye  {_pairs(body.get('steps'))}"


def _gap(body: Mapping[str, Any]) -> str:
    return f"{_value(body.get('count'))} records lost: {_value(body.get('reason'))}"


def _detection(body: Mapping[str, Any]) -> str:
    return f"look {_value(body.get('look'))}  {_pairs(body.get('hints'))}"


def _report(body: Mapping[str, Any]) -> str:
    return f"{_value(body.get('data_type'))}  {sanitize(body.get('data_content'))}"


def _anything(body: Mapping[str, Any]) -> str:
    return _pairs({name: value for name, value in body.items() if name not in ("run", "time")})


_SAYING: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "step": _step,
    "run": _run,
    "finish": _finish,
    "exit": _exit,
    "gap": _gap,
    "detection": _detection,
    "report": _report,
}
