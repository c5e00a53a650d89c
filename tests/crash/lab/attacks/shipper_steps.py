"""SIGKILL of the service at its Nth call of a station, for every N.

The stations are the calls that change its state: reading a spool, sending a request, writing the
ledger. For N = 1, 2, 3 … a child ships a spool of its own workload from a fresh state
and is killed just before or just after its Nth call of a station; then a second child, which is
not killed, ships the rest. When a child gets to its end unharmed, the place is done. Consecutive
seeds are consecutive places.
"""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from shipper.http_client.client import HttpClient
from shipper.ledger.ledger import Ledger
from shipper.service import ship_once
from spooler.records import detection, finish, run, step
from spooler.records import exit as exit_record
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader
from spooler.spool.writer import Limits, Writer
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import Child, ReceiverProcess, Tell
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit.delivery import METADATA, is_ordered, settings
from tests.kit.processor import queries
from tests.kit.processor.store import Store

STATIONS = (
    (Reader, "read"),
    (HttpClient, "post"),
    (Ledger, "acknowledge"),
    (Ledger, "add_dead_letter"),
)
# (run, step) -> what the receiver must hold of it in the end.
STEPS: dict[tuple[str, int], dict[str, Any]] = {}


def _records() -> list[tuple[str, dict[str, Any]]]:
    """Two mixed runs, steps in parts, text, NaN, and one step that the receiver rejects."""
    made: list[tuple[str, dict[str, Any]]] = [
        ("run", run.EXAMPLE),
        ("detection", detection.EXAMPLE),
    ]
    for number in range(12):
        for name, first in (("a", 0), ("b", 100)):
            part = {"run": name, "step": first + number, "time": 1700000000.0 + number}
            data = {"loss": number / 8, "x": first}
            if number % 5 == 4 and name == "a":
                data = {**data, "note": f"text {number}"}
            made.append(("step", step.encode(**part, closed=False, data=data)))
            made.append(("step", step.encode(**part, closed=number % 2 == 0, data={"y": number})))
            STEPS[name, first + number] = {**data, "y": number}
    made.append(
        ("step", step.encode(run="a", step=2**40, time=1.0, closed=True, data={"loss": 1.0}))
    )
    made.append(("finish", finish.EXAMPLE))
    made.append(("exit", exit_record.EXAMPLE))
    return made


RECORDS = _records()


def places(stations: Iterable[tuple[type, str]]) -> tuple[str, ...]:
    """The names of what lies before and after each station."""
    return tuple(f"{edge} {o.__name__}.{n}" for o, n in stations for edge in ("before", "after"))


def arm(fatal: str, crossing: int, stations: Iterable[tuple[type, str]] = STATIONS) -> None:
    """Have the process kill itself at its `crossing`th passage of the place called `fatal`."""
    lock, crossed = threading.Lock(), [0]

    def cross(place: str) -> None:
        if place != fatal:
            return
        with lock:
            crossed[0] += 1
            if crossed[0] == crossing:
                os.kill(os.getpid(), signal.SIGKILL)

    def wrap(owner: type, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            cross(f"before {owner.__name__}.{name}")
            result = original(*args, **kwargs)
            cross(f"after {owner.__name__}.{name}")
            return result

        setattr(owner, name, guarded)

    for owner, name in stations:
        wrap(owner, name)


PLACES = places(STATIONS)


def ship(spool: Path, state: Path, url: str, fatal: str, crossing: int) -> int:
    """Ship in a child; return its wait status."""

    def work(_tell: Tell) -> None:
        if fatal:
            arm(fatal, crossing)
        if ship_once(settings(spool, state, url, batch_max_steps=4), timeout=60):
            os._exit(1)

    return Child(work).end()


def write_spool(root: Path, number: int) -> None:
    """A spool with everything that makes positions hard: see `STEPS` for what must arrive."""
    spool = f"20260101T000000-1-{number:08x}"
    identity = Identity(spool=spool, created=1.0, pid=1, host="h", workload_uid=f"round-{number}")
    writer = Writer(
        root=root,
        below=("node_0", "rank_0"),
        spool=spool,
        identity=codec.pack(identity.to_map()),
        limits=Limits(segment_records=10),
    )
    for kind, body in RECORDS:
        writer.append(kind, codec.pack(body))
        writer.maintain()
    writer.close()


def trial(seed: int, work: Path) -> Verdict:
    """Go on at one place until a child passes it less often than that."""
    found = Findings()
    place = PLACES[seed % len(PLACES)]
    receiver = ReceiverProcess(work / "telemetry.sqlite")
    rounds = []
    for number in itertools.count(1):
        spool, state = work / f"spool-{number}", work / f"state-{number}"
        write_spool(spool, number)
        killed = os.WIFSIGNALED(ship(spool, state, receiver.url, place, number))
        end = ship(spool, state, receiver.url, "", 0)
        where = f"killed {place}, crossing {number}"
        found.check(end == 0, "G4", f"{where}: the second process left something pending ({end})")
        rounds.append((number, where))
        found.faults += killed
        if not killed:
            break
    receiver.stop()
    lines = queries.requests(receiver.store)
    for number, where in rounds:
        check_round(found, receiver.store, lines, f"round-{number}", where)
        check_dead_letter(found, work / f"state-{number}", where)
    found.check(len(rounds) > 1, "G4", f"nothing was ever killed {place}")
    return found.verdict()


def check_round(
    found: Findings, store: Store, lines: list[dict[str, Any]], workload: str, where: str
) -> None:
    """Everything is there, under headers that keep their meaning, in order."""
    rows = {row["iteration"]: row["performance"] for row in queries.rows(store, workload)}
    found.check(len(rows) == len(STEPS), "G4", f"{where}: {len(rows)} of {len(STEPS)} steps")
    for (name, number), metrics in STEPS.items():
        row = rows.get(number, {})
        got = {key: value for key, value in row.items() if key not in METADATA}
        found.check(row.get("run_id") == name, "G3", f"{where}: step {number}: {row}")
        found.check(got == metrics, "G3", f"{where}: step {number}: {got}")
    requests = [line for line in lines if line["workload_uid"] == workload]
    bodies = {(line["lens_ship_records"], line["body_sha256"]) for line in requests}
    headers = {header for header, _ in bodies}
    found.check(len(bodies) == len(headers), "G5", f"{where}: the same header, another body")
    for sink in ("processor", "processor-detection"):
        sent = Counter(h for r in requests if f"/{sink}/" in (h := r["lens_ship_records"]))
        repeated = sent.total() - len(sent)
        found.worst("repeated requests", repeated)
        found.check(repeated <= 1, "G4", f"{where}: {sent}")
    for name in ("a", "b"):
        order = [line["first_step"] for line in requests if line["run_id"] == name]
        found.check(is_ordered(order), "G3", f"{where}: run {name} came as {order}")


def check_dead_letter(found: Findings, state: Path, where: str) -> None:
    """The one step that the receiver rejects is kept, once."""
    ledger = sqlite3.connect(state / "ledger.sqlite")
    try:
        buried = ledger.execute("SELECT sink, kind, reason FROM dead_letter").fetchall()
    finally:
        ledger.close()
    wanted = [("processor", "step", "unsendable")]
    found.check(buried == wanted, "G6", f"{where}: dead letters {buried}")


ATTACK = Attack(
    meaning="SIGKILL of the service just before and after every read, send and save",
    promises=("G3", "G4", "G5", "G6"),
    trial=trial,
    trials=Trials(short=len(PLACES), usual=len(PLACES), long=len(PLACES)),
    catches=("acknowledge-before-send", "position-too-high", "position-not-saved"),
)
