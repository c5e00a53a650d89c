"""A bad network between the service and its receiver, at every byte of an answer.

One workload for each offset: of the first answer that it is given, so many bytes arrive, and then
what the seed says happens. Of the ways there are two kinds: with the first the receiver has stored
the request, so that one repetition is allowed; with the second it never got it, so that taking the
half answer for a whole one loses records. Consecutive seeds are consecutive ways.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import shipper.delivery.backoff
from shipper.service import ship_once
from spooler.records import exit as exit_record
from spooler.records import step
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.writer import Limits, Writer
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import ReceiverProcess
from tests.crash.lab.conservation import ArrivedRecords
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit.delivery import settings
from tests.kit.proxy import Cut, Fault, Garbage, Proxy, SlowAnswer, Twice

STEPS = 6
BATCH = 3
SAMPLE = "sample"
_STEPS_APART = 7  # offsets between those at which a way is tried that takes its time
_PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n<html>ok</html>"

Way = Callable[[int], Fault]
WAYS: dict[str, Way] = {
    "cut, stored": lambda at: Cut(at=at),
    "cut, never stored": lambda at: Cut(at=at, processed=False),
    "reset, stored": lambda at: Cut(at=at, how="reset"),
    "reset, never stored": lambda at: Cut(at=at, how="reset", processed=False),
    "half-open, stored": lambda at: Cut(at=at, how="hang"),
    "half-open, never stored": lambda at: Cut(at=at, how="hang", processed=False),
    "garbage, stored": lambda at: Garbage(at=at, rest=b"\xff\x00garbage" * 40),
    "garbage, never stored": lambda at: Garbage(at=at, rest=b" " * 400, processed=False),
    "a page, never stored": lambda at: Garbage(at=0, rest=_PAGE[at % 9 :], processed=False),
    "slow": lambda at: SlowAnswer(at=at),
    "answered twice": lambda at: Twice(at=at),
}
_SLOW = ("half-open", "slow", "garbage", "a page")


def write_spool(root: Path, workload: str, salt: int) -> None:
    """Six steps and a clean shutdown."""
    spool = f"20260101T000000-1-{salt:08x}"
    who = Identity(spool=spool, created=1.0, pid=1, host="h", workload_uid=workload)
    writer = Writer(
        root=root,
        below=("node_0", f"rank_{salt}"),
        spool=spool,
        identity=codec.pack(who.to_map()),
        limits=Limits(),
    )
    for number in range(STEPS):
        body = step.encode(run="r", step=number, time=1.0, closed=True, data={"x": number})
        writer.append("step", codec.pack(body))
    writer.append("exit", codec.pack(exit_record.EXAMPLE))
    writer.close()


def trial(seed: int, work: Path) -> Verdict:
    """One way, at every offset of an answer."""
    found = Findings()
    name = list(WAYS)[seed % len(WAYS)]
    shipper.delivery.backoff.FIRST_SECONDS = 0.005
    shipper.delivery.backoff.ALARM_FIRST_SECONDS = 0.005
    receiver = ReceiverProcess(work / "telemetry.sqlite")
    address = urlsplit(receiver.url)
    assert address.hostname
    assert address.port
    faults: dict[str, Fault] = {}
    hit: set[str] = set()

    def plan(body: bytes) -> Fault | None:
        workload = json.loads(body).get("workload_uid", "")
        hit.add(workload)
        return faults.pop(workload, None)

    proxy = Proxy((address.hostname, address.port), plan)
    # A busy machine answers late; only what never answers should be waited for in vain.
    timeout = 3.0 if name.startswith("half-open") else 60.0
    config = settings(
        *(work / "spool", work / "state", proxy.url),
        batch_max_steps=BATCH,
        read_timeout=timeout,
        workers=16,
    )
    write_spool(work / "spool", SAMPLE, 0)
    ship_once(config, timeout=60)
    every = _STEPS_APART if name.startswith(_SLOW) else 1
    faults.update(
        {f"offset-{at}": WAYS[name](at) for at in range(seed % every, len(proxy.answer), every)}
    )
    offsets = list(faults)
    for salt, workload in enumerate(offsets, 1):
        write_spool(work / "spool", workload, salt)
    pending = ship_once(config, timeout=240)
    proxy.close()
    receiver.stop()
    found.faults = len(offsets) - len(faults)
    found.check(not faults, "G4", f"{name}: never sent: {sorted(faults)[:9]}")
    found.check(not pending, "G4", f"{name}: still pending: {pending[:3]}")
    arrivals = ArrivedRecords(receiver.store)
    for workload in offsets:
        # At most the one answer that was hit lets its request be repeated.
        arrivals.check(found, workload, range(STEPS), deaths=1)
    found.worst("bytes of an answer", len(proxy.answer))
    return found.verdict()


ATTACK = Attack(
    meaning="answers cut, reset, half-open, slow, garbled or doubled, at every byte of one",
    promises=("G3", "G4", "G6"),
    trial=trial,
    trials=Trials(short=2, usual=len(WAYS), long=3 * len(WAYS)),
    catches=("partial-answer-accepted", "any-200-accepted", "duplicates-on-retry"),
)
