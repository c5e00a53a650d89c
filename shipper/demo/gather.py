"""Reads what the processes left behind: reports of the training, spools, the receiver's database.

Rule: read only, and each thing by its own public reader.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipper.demo.count import Call, Received, Source
from shipper.dev_server.store import TelemetryStore
from shipper.discovery.layout import find_spools
from spooler.spool import codec
from spooler.spool.reader import Reader, Stored

_READ_RECORDS = 1000


@dataclass(frozen=True, kw_only=True)
class Spool:
    """What one training process recorded; `run` is empty when it never got as far as a step."""

    spool: str
    run: str
    calls: tuple[Call, ...]


class Report:
    """The lines that a training process prints after each call, followed while they grow.

    A last line without its end was cut off by a kill; it does not count.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls: list[Call] = []
        self._offset = 0

    def follow(self) -> Call | None:
        """Take in what is new; return the latest call."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            said = json.loads(line)
            self.calls.append(Call(step=said["step"], data=said["data"]))
        return self.calls[-1] if self.calls else None


def spools(root: Path) -> dict[int, Spool]:
    """Every spool below `root` by the pid of the process that wrote it."""
    found: dict[int, Spool] = {}
    for directory in find_spools(root):
        reader = Reader(directory)
        identity = reader.identity()
        run, calls = "", []
        for stored in _records(reader):
            if stored.kind == "step":
                body = codec.unpack(stored.body)
                run = body["run"]
                calls.append(Call(step=body["step"], data=body["data"], seq=stored.seq))
        found[identity.pid] = Spool(spool=identity.spool, run=run, calls=tuple(calls))
    return found


def source(name: str, pid: int, report: Report, recorded: dict[int, Spool]) -> Source:
    """Put together what is known of one training process."""
    report.follow()
    mine = recorded.get(pid, Spool(spool="", run="", calls=()))
    return Source(
        name=name,
        spool=mine.spool,
        run=mine.run,
        written=tuple(report.calls),
        recorded=mine.calls,
    )


def received(database: Path, workload: str) -> Received:
    """Everything that the receiver has of a workload, and every request it got."""
    store = TelemetryStore(database)
    try:
        return Received(writes=store.writes(workload), requests=store.requests())
    finally:
        store.close()


def log_lines(log: Path) -> list[str]:
    """Every line of a log and of what was rotated away from it (`.1` is the youngest), in order."""
    older = sorted(log.parent.glob(f"{log.name}.*"), key=lambda path: -int(path.suffix[1:]))
    return [
        line
        for path in (*older, log)
        if path.exists()
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


def reports(root: Path) -> list[list[dict[str, Any]]]:
    """The bodies of the reports of every process that recorded below `root`."""
    return [
        [codec.unpack(one.body) for one in _records(Reader(directory)) if one.kind == "report"]
        for directory in find_spools(root)
    ]


def stored_reports(witness: Path) -> list[dict[str, Any]]:
    """What a master has kept in one life, in its order; a line cut off by a kill does not count."""
    if not witness.exists():
        return []
    lines = witness.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def given_up(audited: Path) -> dict[str, int]:
    """What the master's account of `lens-ship audit --json` has as given up, by reason."""
    counted: Counter[str] = Counter()
    for account in json.loads(audited.read_text(encoding="utf-8"))["accounts"]:
        if account["sink"] == "master":
            counted.update(account["dropped_by_policy"])
    return dict(counted)


def _records(reader: Reader) -> Iterator[Stored]:
    position = 0
    while True:
        chunk = reader.read(position, _READ_RECORDS)
        yield from chunk.records
        position = chunk.through
        if chunk.at_end:
            return
