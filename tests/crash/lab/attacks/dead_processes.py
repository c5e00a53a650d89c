"""Processes that die, end, stop, or are silent, while the service runs: who is said to be dead.

All of them record at once. Some are killed at random instants; one says goodbye; one finishes its
run and is killed; one is stopped for several flush intervals and one is silent for as long, and
both are killed after that. In every second trial the service is killed, too, and starts anew.
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
from tests.crash.lab.conservation import Recorded, recorded
from tests.crash.lab.lives import FarReceiver, Life, Tell
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
class Process:
    """One of them; `died` is when it was killed, Unix seconds, None when it ended in order."""

    life: Life
    died: float | None = None

    def kill(self) -> None:
        """SIGKILL."""
        self.life.kill()
        self.died = time.time()


def trial(seed: int, work: Path) -> Verdict:
    """See the module."""
    rng, found = random.Random(seed), Findings()
    root = work / "spool"
    shipper.delivery.backoff.FIRST_SECONDS = 0.01
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(root)
    receiver = FarReceiver(work / "telemetry.sqlite")
    config = settings(root, work / "state", receiver.url, flush_interval=FLUSH_SECONDS)

    def serve(_tell: Tell) -> None:
        Service(config).run()

    service, since = Life(serve), 0.0
    there = {f"victim-{number}": _begin(f"victim-{number}", _log) for number in range(VICTIMS)}
    others = {"ended": _end_well, "finished": _finish, "stopped": _log, "silent": _fall_silent}
    there.update({name: _begin(name, does) for name, does in others.items()})
    there["stopped"].life.wait_for_first()
    os.kill(there["stopped"].life.pid, signal.SIGSTOP)
    quiet_until = time.monotonic() + QUIET_INTERVALS * FLUSH_SECONDS
    deaths = {f"victim-{n}": rng.uniform(0.05, LIFE_SECONDS) for n in range(VICTIMS)}
    if seed % 2:
        deaths["service"] = rng.uniform(0.05, LIFE_SECONDS)
    began = time.monotonic()
    for name in sorted(deaths, key=deaths.__getitem__):
        _pass(there, began + deaths[name])
        if name == "service":
            service.kill()
            service, since = Life(serve), time.time()
        else:
            there[name].kill()
        found.faults += 1
    _pass(there, quiet_until)
    os.kill(there["stopped"].life.pid, signal.SIGCONT)
    for name in ("stopped", "silent", "finished"):
        there[name].kill()
        found.faults += 1
    there["ended"].life.end()
    spools = recorded(root, found)
    killed = [name for name, one in there.items() if one.died is not None and name != "finished"]
    _wait(lambda: set(killed) <= set(_notes(receiver)))
    service.kill()
    receiver.stop()
    _check(found, receiver, there, spools, since)
    return found.verdict()


def _check(
    found: Findings,
    receiver: FarReceiver,
    there: dict[str, Process],
    spools: dict[str, Recorded],
    since: float,
) -> None:
    """Who died is said to be dead in time and after the last record; nobody else ever."""
    requests, notes = queries.requests(receiver.store), _notes(receiver)
    for name, one in there.items():
        steps = spools[name].steps if name in spools else ()
        found.check(len(steps) >= len(one.life.told), "G1", f"{name}: {len(steps)} recorded")
        if one.died is None or name == "finished":
            found.check(name not in notes, "G16", f"{name}: is said to have been cut off")
        if one.died is None or not steps:
            continue
        last = [
            request["received_at"]
            for request in requests
            if request["workload_uid"] == name and request["last_step"] == steps[-1]
        ]
        _check_time(found, "the last record", name, last[:1], max(one.died, since))
        if name != "finished":
            _check_time(found, "the word of the end", name, notes.get(name, []), one.died, since)
            early = [when for when in notes.get(name, []) if when < one.died - FLUSH_SECONDS / 2]
            found.check(not early, "G16", f"{name}: was said to be dead while it lived")


def _check_time(
    found: Findings, what: str, name: str, when: list[float], died: float, since: float = 0.0
) -> None:
    if found.check(when, "G16", f"{name}: {what} never arrived"):
        intervals = max(0.0, when[0] - max(died, since)) / FLUSH_SECONDS
        found.worst(f"flush intervals to {what}", intervals)
        found.check(
            intervals <= MOST_INTERVALS, "G16", f"{name}: {what} took {intervals:.1f} intervals"
        )


def _notes(receiver: FarReceiver) -> dict[str, list[float]]:
    """Workload -> when the word came that its process was cut off."""
    notes: dict[str, list[float]] = {}
    for request in queries.requests(receiver.store):
        if _is_note(request):
            notes.setdefault(request["workload_uid"], []).append(request["received_at"])
    return notes


def _is_note(request: dict[str, Any]) -> bool:
    return request["status"] == 200 and str(request["lens_ship_records"]).endswith("/cut-off")


def _begin(name: str, work: Callable[[Tell], None]) -> Process:
    os.environ["WORKLOAD_UID"] = name
    return Process(life=Life(work))


def _pass(there: dict[str, Process], until: float) -> None:
    """Let time pass; pipes are emptied, so that nobody waits for us."""
    while time.monotonic() < until:
        for one in there.values():
            if one.died is None and not one.life.has_ended:
                one.life.watch(0.002)


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
    meaning="SIGKILL of processes beside some that end in order, are stopped, or are silent",
    promises=("G16",),
    trial=trial,
    trials=Trials(short=1, usual=6, long=40),
    catches=("ends-not-looked-for", "silence-is-death", "goodbye-is-not-heard"),
)
