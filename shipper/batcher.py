"""From stored records to whole steps, in order. Pure.

A step is what wandb shows as one: all parts that were logged under one number, one after the
other, by one run. It is *complete* when wandb closed it, when its run has logged another number,
or when its run or process has ended. The last step of a run may still be open: it is held back
for at most one flush interval, so that its parts travel together, and no longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spooler.errors import BodyUnreadable
from spooler.records.step import flatten
from spooler.spool import codec
from spooler.spool.reader import Stored


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of one run, merged from the records `seqs`; `time` is that of its first part."""

    run: str
    step: int
    time: float
    data: Mapping[str, Any]  # flat: name -> value
    seqs: tuple[int, ...]

    @property
    def first(self) -> int:
        """Seq of the first part."""
        return self.seqs[0]

    @property
    def last(self) -> int:
        """Seq of the last part."""
        return self.seqs[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A record that can never be sent, and why."""

    stored: Stored
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """What a stretch of records holds: complete steps by first seq, open ones, and refused."""

    complete: tuple[Step, ...]
    open: tuple[Step, ...]
    refused: tuple[Refused, ...]


class _Building:
    """A step whose next part may be the next record."""

    __slots__ = ("data", "run", "seqs", "step", "time")

    def __init__(self, seq: int, body: Mapping[str, Any]) -> None:
        self.run: str = body["run"]
        self.step: int = body["step"]
        self.time: float = body["time"]
        self.data: dict[str, Any] = body["data"]
        self.seqs = [seq]

    def add(self, seq: int, body: Mapping[str, Any]) -> None:
        """Later parts overwrite names of earlier ones, as they do in wandb."""
        self.data.update(body["data"])
        self.seqs.append(seq)

    def build(self) -> Step:
        return Step(
            run=self.run,
            step=self.step,
            time=self.time,
            data=self.data,
            seqs=tuple(self.seqs),
        )


def collect_steps(records: Iterable[Stored], ahead: Mapping[str, int]) -> Steps:
    """Merge records into steps, leaving out what `ahead` (run -> seq) says is delivered."""
    building: dict[str, _Building] = {}
    complete: list[Step] = []
    refused: list[Refused] = []
    for stored in records:
        if stored.kind == "exit":
            complete.extend(step.build() for step in building.values())
            building.clear()
        if stored.kind not in ("step", "finish"):
            continue
        body = _decode(stored, refused)
        if body is None or ahead.get(body["run"], 0) >= stored.seq:
            continue
        started = building.get(body["run"])
        if stored.kind == "finish":
            if started is not None:
                complete.append(building.pop(body["run"]).build())
            continue
        if started is not None and started.step == body["step"]:
            started.add(stored.seq, body)
        else:
            if started is not None:
                complete.append(started.build())
            started = building[body["run"]] = _Building(stored.seq, body)
        if body["closed"]:
            complete.append(building.pop(body["run"]).build())
    return Steps(
        complete=tuple(sorted(complete, key=lambda step: step.first)),
        open=tuple(step.build() for step in building.values()),
        refused=tuple(refused),
    )


def _decode(stored: Stored, refused: list[Refused]) -> dict[str, Any] | None:
    """The body of a step with its data flat, or that of a finish."""
    try:
        body = codec.unpack(stored.body)
    except BodyUnreadable as error:
        refused.append(Refused(stored=stored, reason="unreadable", detail=str(error)))
        return None
    problem = _problem(body) if stored.kind == "step" else _no_run(body)
    if stored.kind == "step" and not problem:
        try:
            body["data"] = flatten(body["data"])
        except RecursionError:
            problem = "data is nested too deeply"
    if problem:
        refused.append(Refused(stored=stored, reason="malformed", detail=problem))
        return None
    return body


def _no_run(body: Mapping[str, Any]) -> str:
    return "" if isinstance(body.get("run"), str) else "run is no text"


def _problem(body: Mapping[str, Any]) -> str:
    """Why a body is not that of a step; bodies come from files that anyone may have written."""
    if not isinstance(body.get("run"), str):
        return "run is no text"
    step = body.get("step")
    if not isinstance(step, int) or isinstance(step, bool):
        return "step is no whole number"
    if not isinstance(body.get("time"), float):
        return "time is no float"
    if not isinstance(body.get("data"), dict):
        return "data is no map"
    if not all(isinstance(name, str) for name in body["data"]):
        return "data has a name that is no text"
    if not isinstance(body.get("closed"), bool):
        return "closed is no boolean"
    return ""
