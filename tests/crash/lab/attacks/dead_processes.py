"""Processes die, shut down, stop, or are silent: which of them the service reports as dead.

All of them record at once. Some are killed at random instants, one shuts down cleanly, one finishes
its run and is killed. One is stopped for several flush intervals and one is silent for as long, and
both are killed after that. In every second trial the service is killed, too, and restarted.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shipper.delivery.backoff
from shipper.service import Service
from spooler.recorder import recorder
from spooler.records import finish
from spooler.records import step as step_record
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import Child, ReceiverProcess, Tell
from tests.crash.lab.conservation import Recorded, recorded
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit.delivery import settings
from tests.kit.processor import queries

VICTIMS = 6
FLUSH_SECONDS = 0.5
LIFE_SECONDS = 1.2
QUIET_INTERVALS = 4
# One flush interval is promised; the rest is for a machine that is busy with something else.
MOST_INTERVALS = 40.0
FEW = 8  # records of who does something else afterwards


@dataclass(kw_only=True)
class RecordingProcess:
    """A process. `died`: when it was killed, Unix seconds; None after a clean shutdown."""

    child: Child
    died: float | None = None

    def kill(self) -> None:
        """SIGKILL."""
        self.child.kill()
        self.died = time.time()


def trial(seed: int, work: Path) -> Verdict:
    """See the module."""
    rng, found = random.Random(seed), Findings()
    root = work / "spool"
    shipper.delivery.backoff.FIRST_SECONDS = 0.01
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(root)
    receiver = ReceiverProcess(work / "telemetry.sqlite")
    config = settings(root, work / "state", receiver.url, flush_interval=FLUSH_SECONDS)

    def serve(_tell: Tell) -> None:
        Service(config).run()

    service, since = Child(serve), 0.0
    there = {f"victim-{number}": _begin(f"victim-{number}", _log) for number in range(VICTIMS)}
    others = {"ended": _end_well, "finished": _finish, "stopped": _log, "silent": _fall_silent}
    there.update({name: _begin(name, does) for name, does in others.items()})
    there["stopped"].child.wait_for_first()
    os.kill(there["stopped"].child.pid, signal.SIGSTOP)
    quiet_until = time.monotonic() + QUIET_INTERVALS * FLUSH_SECONDS
    deaths = {f"victim-{n}": rng.uniform(0.05, LIFE_SECONDS) for n in range(VICTIMS)}
    if seed % 2:
        deaths["service"] = rng.uniform(0.05, LIFE_SECONDS)
    began = time.monotonic()
    for name in sorted(deaths, key=deaths.__getitem__):
        _pass(there, began + deaths[name])
        if name == "service":
            service.kill()
            service, since = Child(serve), time.time()
        else:
            there[name].kill()
        found.faults += 1
    _pass(there, quiet_until)
    os.kill(there["stopped"].child.pid, signal.SIGCONT)
    for name in ("stopped", "silent", "finished"):
        there[name].kill()
        found.faults += 1
    there["ended"].child.end()
    spools = recorded(root, found)
    killed = [name for name, one in there.items() if one.died is not None and name != "finished"]
    _wait(lambda: set(killed) <= set(_notes(receiver)))
    service.kill()
    receiver.stop()
    _check(found, receiver, there, spools, since)
    return found.verdict()


def _check(
    found: Findings,
    receiver: ReceiverProcess,
    there: dict[str, RecordingProcess],
    spools: dict[str, Recorded],
    since: float,
) -> None:
    """Each dead process is reported in time and after its last record, and no other process is."""
    requests, notes = queries.requests(receiver.store), _notes(receiver)
    for name, one in there.items():
        steps = spools[name].steps if name in spools else ()
        found.check(len(steps) >= len(one.child.told), "G1", f"{name}: {len(steps)} recorded")
        if one.died is None or name == "finished":
            found.check(name not in notes, "G16", f"{name}: is reported as an unclean exit")
        if one.died is None or not steps:
            continue
        last = [
            request["received_at"]
            for request in requests
            if request["workload_uid"] == name and request["last_step"] == steps[-1]
        ]
        _check_time(found, "the last record", name, last[:1], max(one.died, since))
        if name != "finished":
            _check_time(
                found, "the report of the unclean exit", name, notes.get(name, []), one.died, since
            )
            early = [when for when in notes.get(name, []) if when < one.died - FLUSH_SECONDS / 2]
            found.check(not early, "G16", f"{name}: was reported as dead while it ran")


def _check_time(
    found: Findings, what: str, name: str, when: list[float], died: float, since: float = 0.0
) -> None:
    if found.check(when, "G16", f"{name}: {what} never arrived"):
        intervals = max(0.0, when[0] - max(died, since)) / FLUSH_SECONDS
        found.worst(f"flush intervals to {what}", intervals)
        found.check(
            intervals <= MOST_INTERVALS, "G16", f"{name}: {what} took {intervals:.1f} intervals"
        )


def _notes(receiver: ReceiverProcess) -> dict[str, list[float]]:
    """Workload -> when the unclean exit of its process was reported."""
    notes: dict[str, list[float]] = {}
    for request in queries.requests(receiver.store):
        if _is_note(request):
            notes.setdefault(request["workload_uid"], []).append(request["received_at"])
    return notes


def _is_note(request: dict[str, Any]) -> bool:
    return request["status"] == 200 and str(request["lens_ship_records"]).endswith("/cut-off")


def _begin(name: str, work: Callable[[Tell], None]) -> RecordingProcess:
    os.environ["WORKLOAD_UID"] = name
    return RecordingProcess(child=Child(work))


def _pass(there: dict[str, RecordingProcess], until: float) -> None:
    """Wait, and empty the pipes meanwhile."""
    while time.monotonic() < until:
        for one in there.values():
            if one.died is None and not one.child.has_ended:
                one.child.watch(0.002)


def _wait(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + MOST_INTERVALS * FLUSH_SECONDS
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)


def _record(number: int, tell: Tell) -> None:
    body = step_record.encode(
        run="r", step=number, time=time.time(), closed=True, data={"loss": number / 3}
    )
    if recorder().record("step", body):
        tell(number)


def _log(tell: Tell) -> None:
    pause = random.Random(os.getpid()).uniform(0.003, 0.03)
    number = 0
    while True:
        _record(number, tell)
        number += 1
        time.sleep(pause)


def _fall_silent(tell: Tell) -> None:
    for number in range(FEW):
        _record(number, tell)
    signal.pause()


def _finish(tell: Tell) -> None:
    for number in range(FEW):
        _record(number, tell)
    body = finish.encode(run="r", time=time.time(), step=FEW - 1, exit_code=0)
    recorder().record(finish.NAME, body)
    signal.pause()


def _end_well(tell: Tell) -> None:
    for number in range(FEW):
        _record(number, tell)
    recorder().shutdown()


ATTACK = Attack(
    meaning="SIGKILL of processes beside some that shut down, are stopped, or are silent",
    promises=("G16",),
    trial=trial,
    trials=Trials(short=1, usual=6, long=40),
    catches=(
        "ended-processes-not-checked",
        "silent-processes-reported-dead",
        "clean-shutdown-not-read",
    ),
)
