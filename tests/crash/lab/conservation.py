"""The oracle: what was returned is recorded, what is recorded arrives in order, once or twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipper.audit.account import Account
from shipper.audit.audit import run_audit
from shipper.config.schema import Config
from shipper.discovery.layout import find_spools
from shipper.ledger.ledger import Ledger
from shipper.ledger.ranges import common, size
from shipper.sinks import DEFAULT
from shipper.steps import CUT_OFF_NAME
from spooler.spool import codec
from spooler.spool.reader import Reader
from tests.crash.lab.verdict import Findings
from tests.kit.delivery import METADATA, is_ordered
from tests.kit.processor import queries
from tests.kit.processor.store import Store

ALL = 10**6  # more records than any trial writes


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One spool as it lies on disk: the steps in it, in order, and its directory."""

    directory: Path
    steps: tuple[int, ...]


def recorded(root: Path, found: Findings) -> dict[str, Recorded]:
    """The spools below `root` by workload; what is damaged, missing or owned is a failure."""
    spools = {}
    for path in find_spools(root):
        reader = Reader(path)
        if not reader.segments():
            continue  # its process died before it had a first one
        workload = reader.identity().workload_uid
        chunk = reader.read(0, ALL)
        found.check(not reader.is_owned(), "G1", f"{workload}: a dead process owns its spool")
        found.check(not chunk.damage, "G7", f"{workload}: {chunk.damage[:2]}")
        seqs = [stored.seq for stored in chunk.records]
        found.check(seqs == list(range(1, len(seqs) + 1)), "G1", f"{workload}: seqs {seqs}")
        found.check(chunk.at_end, "G1", f"{workload}: cannot be read to its end")
        bodies = (codec.unpack(stored.body) for stored in chunk.records if stored.kind == "step")
        spools[workload] = Recorded(directory=path, steps=tuple(body["step"] for body in bodies))
    return spools


def accounts_of(config: Config) -> list[Account]:
    """What `lens-ship audit` says now, for every sink."""
    ledger = Ledger(config.state, exclusive=False)
    try:
        return run_audit(ledger, config.spool, DEFAULT)
    finally:
        ledger.close()


def workloads_of(config: Config) -> dict[str, str]:
    """Spool -> its workload, of all that the service has found."""
    ledger = Ledger(config.state, exclusive=False)
    try:
        return {row["id"]: row["identity"]["workload_uid"] for row in ledger.spools()}
    finally:
        ledger.close()


def check_recorded(found: Findings, workload: str, steps: Sequence[int], returned: int) -> None:
    """All that was returned is recorded, in order, and at most the one call under way beside."""
    found.worst("lost records", max(0, returned - len(steps)))
    found.check(list(steps) == list(range(len(steps))), "G3", f"{workload}: recorded {steps}")
    found.check(
        returned <= len(steps) <= returned + 1,
        "G1",
        f"{workload}: {returned} returned, {len(steps)} recorded",
    )


class ArrivedRecords:
    """What a receiver holds, by workload; for spools of one run each.

    Of its requests the first `after` are left out.
    """

    def __init__(self, store: Store, after: int = 0) -> None:
        self._store = store
        self._requests: dict[str, list[dict[str, Any]]] = {}
        for request in queries.requests(store)[after:]:
            if request["status"] == 200:
                self._requests.setdefault(request["workload_uid"], []).append(request)

    def steps(self, workload: str) -> dict[int, Mapping[str, Any]]:
        """Step -> its metrics."""
        return {
            row["iteration"]: {
                name: value
                for name, value in row["performance"].items()
                if name not in METADATA and name != CUT_OFF_NAME
            }
            for row in queries.rows(self._store, workload)
        }

    def check(self, found: Findings, workload: str, steps: Sequence[int], deaths: int) -> None:
        """Arrived = recorded, in order, and at most one request repeated per death of a service."""
        got = sorted(self.steps(workload))
        lost, odd = set(steps) - set(got), set(got) - set(steps)
        found.worst("lost records", len(lost))
        found.check(not lost, "G4", f"{workload}: never arrived: {sorted(lost)[:9]}")
        found.check(not odd, "G4", f"{workload}: arrived, never recorded: {sorted(odd)[:9]}")
        first_times, requests, records = self.sent(workload)
        order = [step for first, last in first_times for step in range(first, last + 1)]
        found.check(is_ordered(order), "G3", f"{workload}: arrived as {first_times}")
        found.worst("repeated requests", requests)
        found.worst("repeated records", records)
        found.check(
            requests <= deaths,
            "G4",
            f"{workload}: {requests} requests were repeated after {deaths} deaths of the service",
        )

    def sent(self, workload: str) -> tuple[list[tuple[int, int]], int, int]:
        """The steps of requests that came first, and how many requests and records came again."""
        seen: dict[str, list[tuple[int, int]]] = {}
        firsts, requests, records = [], 0, 0
        for request in self._requests.get(workload, []):
            whose, _, numbers = request["lens_ship_records"].rpartition("/")
            first, _, last = numbers.partition("-")
            if not last.isdigit():
                continue  # a note about records, not the records
            this = [(int(first), int(last))]
            again = size(common(this, seen.setdefault(whose, [])))
            seen[whose] += this
            requests, records = requests + bool(again), records + again
            if not again and request["first_step"] is not None:
                firsts.append((request["first_step"], request["last_step"]))
        return firsts, requests, records
