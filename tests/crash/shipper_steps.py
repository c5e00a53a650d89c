"""The service, killed with SIGKILL at its Nth crossing of a station, for every N.

Usage: python shipper_steps.py WORK URL

The stations are the calls between which its state moves: reading a spool, sending a request,
writing the ledger. For N = 1, 2, 3 … a child ships a spool of its own workload from a fresh state
and is killed just before or just after its Nth call of a station; then a second child, which is
not killed, ships the rest. A line of JSON tells what happened. When a child gets to its end
unharmed, the next place has its turn.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shipper.http import Poster
from shipper.ledger import Ledger
from shipper.service import ship_once
from spooler.records import detection, finish, run, step
from spooler.records import exit as exit_record
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader
from spooler.spool.writer import Limits, Writer
from tests.kit.delivery import settings

STATIONS = (
    (Reader, "read"),
    (Poster, "post"),
    (Ledger, "acknowledge"),
    (Ledger, "bury"),
)


# (run, step) -> what the receiver must hold of it in the end.
STEPS: dict[tuple[str, int], dict[str, Any]] = {}


def _records() -> list[tuple[str, dict[str, Any]]]:
    """Two runs lying between each other, steps in parts, text, NaN, one that nobody can take."""
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
            made.append(("step", step.make(**part, closed=False, data=data)))
            made.append(("step", step.make(**part, closed=number % 2 == 0, data={"y": number})))
            STEPS[name, first + number] = {**data, "y": number}
    made.append(("step", step.make(run="a", step=2**40, time=1.0, closed=True, data={"loss": 1.0})))
    made.append(("finish", finish.EXAMPLE))
    made.append(("exit", exit_record.EXAMPLE))
    return made


RECORDS = _records()


def arm(fatal: str, crossing: int) -> None:
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

    for owner, name in STATIONS:
        wrap(owner, name)


def ship(spool: Path, state: Path, url: str, fatal: str, crossing: int) -> int:
    """Ship in a child; return its wait status."""
    pid = os.fork()
    if pid == 0:
        if fatal:
            arm(fatal, crossing)
        pending = ship_once(settings(spool, state, url, batch_size=4), timeout=60)
        os._exit(1 if pending else 0)
    return os.waitpid(pid, 0)[1]


def write_spool(root: Path, workload: str) -> None:
    """A spool with everything that makes positions hard: see `STEPS` for what must arrive."""
    spool = f"20260101T000000-1-{abs(hash(workload)) % 16**8:08x}"
    identity = Identity(spool=spool, created=1.0, pid=1, host="h", workload_uid=workload)
    writer = Writer(
        root=root,
        below=("node_0", "rank_0"),
        spool=spool,
        identity=codec.pack(identity.to_map()),
        limits=Limits(segment_records=10),
    )
    for kind, body in RECORDS:
        writer.append(kind, codec.pack(body))
        writer.tend()
    writer.close()


def main() -> None:
    """For every place, go on until a child passes it less often than that."""
    work, url = Path(sys.argv[1]), sys.argv[2]
    places = [f"{edge} {o.__name__}.{n}" for o, n in STATIONS for edge in ("before", "after")]
    number = 0
    for place in places:
        for crossing in itertools.count(1):
            number += 1
            spool, state = work / f"spool-{number}", work / f"state-{number}"
            write_spool(spool, f"round-{number}")
            first = ship(spool, state, url, place, crossing)
            end = ship(spool, state, url, "", 0)
            killed = os.WIFSIGNALED(first)
            told = {"round": number, "killed": killed, "place": place, "crossing": crossing}
            print(json.dumps({**told, "end": end}), flush=True)
            if not killed:
                break


if __name__ == "__main__":
    main()
