"""Failing workloads and spools of every kind, beside two honest processes.

The requests of some workloads hang, and these are more than there are workers. Some workloads are
always answered with 500. Some spools are unreadable. In the workload of an honest process another
rank has thousands of records that the receiver accepts slowly. The same two processes record once
without all that, and their waits are compared.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import shipper.delivery.backoff
from shipper.service import Service
from shipper.sinks.processor.client import TIMEOUT_GROWTH, AdaptiveTimeout
from spooler.recorder import recorder
from spooler.records import step as step_record
from spooler.spool import format as fmt
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import Child, ReceiverProcess, Tell
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit.delivery import settings
from tests.kit.processor import Receiver, answers, queries
from tests.kit.processor.listener import Exchange
from tests.kit.processor.routes import Call
from tests.kit.processor.store import Store
from tests.kit.shipping import Record, goodbye, spool, step
from tests.kit.spools import identity, spool_id

HONEST = ("honest-0", "honest-1")
HUNG, BROKEN, RUBBISH, BACKLOG = 4, 3, 6, 5000
WORKERS = 2
FLUSH_SECONDS = 0.1
READ_SECONDS = 0.7
BULK_SECONDS = 0.15  # what the receiver needs for a request of the backlog
# Longer than alone, at most: a turn of the queue (5 intervals) is part of it, the
# rest is for a machine that is busy with something else.
MOST_INTERVALS = 40.0
WAIT_SECONDS = 30.0


class FailingReceiver(Receiver):
    """Tells whose requests hang in a file, a letter for each."""

    def __init__(self, *, path: Path, hung: Path) -> None:
        super().__init__(path=path)
        self._hung = hung

    def conclude(self, exchange: Exchange, call: Call) -> None:
        """Answer, or not."""
        if b'"hung-' in call.body:
            with self._hung.open("a") as file:
                file.write("h")
            threading.Event().wait()
        if b'"broken-' in call.body:
            exchange.send(answers.failure("always"))
            return
        if b'bulk"' in call.body:
            time.sleep(BULK_SECONDS)
        super().conclude(exchange, call)


def trial(seed: int, work: Path) -> Verdict:
    """See the module."""
    rng, found = random.Random(seed), Findings()
    shipper.delivery.backoff.FIRST_SECONDS = 0.05
    AdaptiveTimeout.missed = _miss  # type: ignore[method-assign]
    calm = _run(work / "calm", found, lambda root: 0, seconds=1.0)
    worst = _run(work / "failing", found, partial(_make_failing, rng), seconds=2.0)
    more = (worst - calm) / FLUSH_SECONDS
    found.worst("flush intervals alone", calm / FLUSH_SECONDS)
    found.worst("flush intervals longer beside failing ones", more)
    found.check(
        more <= MOST_INTERVALS, "G15", f"waits {worst:.1f} s beside failing ones, else {calm:.1f}"
    )
    return found.verdict()


def _run(work: Path, found: Findings, failing: Callable[[Path], int], *, seconds: float) -> float:
    """Two honest processes and perhaps failing ones; the longest wait of an honest record."""
    root, hung = work / "spool", work / "hung"
    root.mkdir(parents=True)
    wanted = failing(root)
    found.faults += HUNG + BROKEN + RUBBISH + 1 if wanted else 0
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(root)
    receiver = ReceiverProcess(work / "telemetry.sqlite", partial(FailingReceiver, hung=hung))
    config = settings(
        root,
        work / "state",
        receiver.url,
        flush_interval=FLUSH_SECONDS,
        read_timeout=READ_SECONDS,
        workers=WORKERS,
    )

    def serve(_tell: Tell) -> None:
        Service(config).run()

    service = Child(serve)
    # Until each has been waited for once: as long as that is not over, its like is not known.
    _wait(lambda: not wanted or (hung.exists() and hung.stat().st_size > wanted))
    children = {}
    for name in HONEST:
        os.environ["WORKLOAD_UID"] = name
        children[name] = Child(lambda tell: _log(time.monotonic() + seconds, tell))
    for child in children.values():
        child.end()
    _wait(lambda: all(_last(receiver.store, n) >= child.told[-1] for n, child in children.items()))
    service.kill()
    receiver.kill()
    return max(
        _wait_of(receiver.store, name, child.told, found) for name, child in children.items()
    )


def _make_failing(rng: random.Random, root: Path) -> int:
    """All of it; how many workloads hang."""
    few: list[Record] = [*(step(number) for number in range(20)), goodbye()]
    salt = 0
    for kind, count in (("hung", HUNG), ("broken", BROKEN)):
        for number in range(count):
            salt += 1
            spool(root, few, who=identity(spool_id(salt), workload_uid=f"{kind}-{number}"))
    bulk = [step(number, run="old", bulk=number) for number in range(BACKLOG)]
    who = identity(spool_id(salt + 1), workload_uid=HONEST[0], rank=1)
    spool(root, [*bulk, goodbye()], who=who)
    for number in range(RUBBISH):
        directory = root / "node_0" / "rank_0" / spool_id(1000 + number)
        directory.mkdir()
        garbage = rng.choice((b"", b"SQLite format 3\0")) + rng.randbytes(rng.randrange(1, 9000))
        (directory / fmt.segment_name(1)).write_bytes(garbage)
    return HUNG


def _log(until: float, tell: Tell) -> None:
    """A hundred steps a second; each holds when it was recorded."""
    number = 0
    while time.monotonic() < until:
        data = {"at": time.time()}
        body = step_record.encode(run="live", step=number, time=time.time(), closed=True, data=data)
        if recorder().record("step", body):
            tell(number)
        number += 1
        time.sleep(0.01)
    recorder().shutdown()


def _requests(store: Store, workload: str) -> list[dict[str, Any]]:
    return [
        request
        for request in queries.requests(store)
        if request["workload_uid"] == workload
        and request["run_id"] == "live"
        and request["status"] == 200
        and request["last_step"] is not None
    ]


def _last(store: Store, workload: str) -> int:
    return max((request["last_step"] for request in _requests(store, workload)), default=-1)


def _wait_of(store: Store, workload: str, told: list[int], found: Findings) -> float:
    """The longest that one of its records has waited, seconds."""
    began = {
        row["iteration"]: row["performance"]["at"]
        for row in queries.rows(store, workload)
        if "at" in row["performance"]
    }
    lost = set(told) - set(began)
    found.check(not lost, "G15", f"{workload}: {len(lost)} of {len(told)} did not arrive in time")
    requests = _requests(store, workload)
    return max((r["received_at"] - began[r["first_step"]] for r in requests), default=0.0)


def _miss(allowance: AdaptiveTimeout) -> None:
    """The time for an answer is at once what it comes to after four that did not come."""
    allowance.seconds = allowance.base * TIMEOUT_GROWTH


def _wait(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)


ATTACK = Attack(
    meaning="hanging and failing workloads, garbage and a huge backlog beside honest processes",
    promises=("G15",),
    trial=trial,
    trials=Trials(short=1, usual=3, long=20),
    catches=(
        "slow-workloads-not-separated",
        "one-failing-workload-pauses-all",
        "turn-without-limit",
        "garbage-ends-the-scan",
    ),
)
