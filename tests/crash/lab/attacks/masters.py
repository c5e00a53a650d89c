"""SIGKILL of a real DLRover master and of the service that reports to it, and lost answers.

Three processes have reported logs, samples and stacks. Some reports are too old for a master, some
would harm it. The seed decides the faults and their order: the master is killed and restarted,
which begins another epoch, the service is killed and restarted, or an answer is cut after the
master has stored the report. The master's own process writes down all that each epoch stores.
Consecutive seeds report over gRPC and over HTTP.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import shipper.delivery.backoff
import shipper.sinks.dlrover.classify
from shipper.audit.audit import run_audit
from shipper.config.schema import Config
from shipper.ledger.ledger import Ledger
from shipper.service import Service, ship_once
from spooler.records import exit as exit_record
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import Child, Tell
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit import master as kit
from tests.kit import shipping, spools
from tests.kit.delivery import settings
from tests.kit.master import Master, Wire, numbers, report

SERVICES = ("grpc",) if kit.MORE_QUESTIONS else ("grpc", "http")  # that of 0.4.0 has one
KINDS = ("TRAINING_LOG", "XPU_TIMER_METRIC", "STACK_TRACE")
XPU = KINDS[1]
RANKS, REPORTS = 3, 360
OLD_EVERY, POISON_EVERY = 23, 31
TURNS = ("master",) * 2 + ("service",) * 3 + ("answer",) * 5
# If no report arrives for so long, none will.
WAIT_SECONDS = 30.0


def missing() -> str:
    """What is needed for a master."""
    if kit.PYTHON.exists():
        return ""
    return f"no training master: no {kit.PYTHON}; make test builds it, {kit.VARIABLE} names another"


class RemoteWire:
    """A `Wire` in a process of its own, so that the parent of children needs no thread."""

    def __init__(self, port: int) -> None:
        ready, telling = os.pipe()
        orders, self._orders = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._orders)
            with Wire(port) as wire:
                os.write(telling, wire.address.encode())
                os.close(telling)
                while order := os.read(orders, 1):
                    wire.lose_answer(order[0])
            os._exit(0)
        os.close(telling)
        os.close(orders)
        self.address = os.read(ready, 256).decode()
        os.close(ready)

    def lose_answer(self) -> None:
        """The next answer does not arrive."""
        os.write(self._orders, b"\x01")

    def lose_none(self) -> None:
        """All answers from now on arrive."""
        os.write(self._orders, b"\x00")

    def stop(self) -> None:
        """End it."""
        os.close(self._orders)
        os.waitpid(self._pid, 0)


def is_old(number: int) -> bool:
    """These are too old for a master when they are recorded."""
    return number % OLD_EVERY == 0 and not is_poison(number)


def is_poison(number: int) -> bool:
    """These would make a master reject all later ones."""
    return number % POISON_EVERY == 7


def kind_of(number: int) -> str:
    """The kind of a report."""
    return KINDS[number // RANKS % len(KINDS)]


def write(root: Path, address: str, service: str) -> None:
    """Every report once, spread over the ranks."""
    now = int(time.time())
    for rank in range(RANKS):
        records = []
        for number in range(rank, REPORTS, RANKS):
            taken = now - 700 if is_old(number) else now
            poison = (now * 1000, now + 86400, -1)[number % 3]
            records.append(
                report(
                    number,
                    kind_of(number),
                    node_rank=rank,
                    timestamp=poison if is_poison(number) else taken,
                    data_content=f"report {number} " + "x" * (number % 700) + "\n",
                )
            )
        who = spools.identity(
            spools.spool_id(rank), master_addr=address, master_service=service, workload_uid="w"
        )
        goodbye = ("exit", exit_record.encode(time=float(now), steps={}))
        shipping.spool(root, [*records, goodbye], who=who, segment_records=50)


def trial(seed: int, work: Path) -> Verdict:
    """Run the faults at random moments, then ship the rest and check every epoch."""
    rng, found = random.Random(seed), Findings()
    shipper.sinks.dlrover.classify.RETRY_SECONDS = 0.05
    shipper.delivery.backoff.FIRST_SECONDS = shipper.delivery.backoff.ALARM_FIRST_SECONDS = 0.05
    service = SERVICES[seed % len(SERVICES)]
    with kit.running(work / "master", service) as master:
        wire = RemoteWire(master.port)
        write(work / "spool", wire.address, service)
        config = settings(
            *(work / "spool", work / "state", "http://127.0.0.1:9"),
            flush_interval=0.05,
            read_timeout=20.0,
        )
        turns = list(TURNS)
        rng.shuffle(turns)
        run_faults(found, rng, config, master, wire, turns)
        done = Child(lambda _tell: os._exit(len(ship_once(config, timeout=60)))).end()
        found.check(done == 0, "G18", f"{service}: records are pending in the end ({done})")
        wire.stop()
        epochs = [master.stored(number + 1) for number in range(master.lives)]
    found.faults = len(turns)
    ambiguous = check_accounts(found, work)
    for number, rows in enumerate(epochs, 1):
        check_epoch(found, f"{service}, epoch {number}", rows, turns)
    young = {n for n in range(REPORTS) if not is_old(n) and not is_poison(n)}
    lost = young - set(numbers(epochs[-1]))
    found.worst("ambiguous samples", ambiguous)
    found.check(
        len(lost) <= ambiguous and {kind_of(number) for number in lost} <= {XPU},
        "G18",
        f"{service}: the last epoch lacks {sorted(lost)[:9]}, {ambiguous} were ambiguous",
    )
    return found.verdict()


def run_faults(
    found: Findings,
    rng: random.Random,
    config: Config,
    master: Master,
    wire: RemoteWire,
    turns: list[str],
) -> None:
    """One fault after the other, each after some progress."""

    def serve(_tell: Tell) -> None:
        Service(config).run()

    child = Child(serve)
    for turn in turns:
        if not found.check(wait_for_progress(rng, master), "G18", "no more reports arrive"):
            break
        if turn == "master":
            master.kill()
            master.start()
        elif turn == "service":
            child.kill()
            child = Child(serve)
        else:
            wire.lose_answer()
    child.kill()
    # A service that gets no answer at all has no reason to wait for a master.
    wire.lose_none()


def wait_for_progress(rng: random.Random, master: Master) -> bool:
    """Until this epoch has so many reports more, or nearly all."""
    most = REPORTS * 8 // 10
    held = len(master.stored())
    wanted = min(held + rng.randrange(1, REPORTS // 5), most)
    until = time.monotonic() + WAIT_SECONDS
    while held < wanted and time.monotonic() < until:
        threading.Event().wait(0.005)
        now = len(master.stored())
        if now > held:
            held, until = now, time.monotonic() + WAIT_SECONDS
    return held >= wanted


def check_accounts(found: Findings, work: Path) -> int:
    """All is delivered, dropped for a reason, or a dead letter; how many samples are ambiguous."""
    with closing(Ledger(work / "state", exclusive=False)) as ledger:
        accounts = run_audit(ledger, work / "spool", ["master"])
        dead = Counter(letter["reason"] for letter in ledger.dead_letters())
        # When they were first sent, or sent again.
        doubts = sum(row["count"] for row in ledger.dropped() if row["reason"] == "ambiguous")
    reasons = Counter[str]()
    for account in accounts:
        reasons.update(account.dropped_by_policy)
        found.check(account.balances and not account.pending, "G18", f"{account}")
    old = sum(map(is_old, range(REPORTS)))
    poison = sum(map(is_poison, range(REPORTS)))
    found.check(reasons["expired"] == old, "G18", f"{reasons}, {old} were too old")
    found.check(set(reasons) <= {"expired", "ambiguous"}, "G18", f"dropped: {reasons}")
    found.check(
        dead == {"unsendable": poison}, "G19", f"dead letters {dead}, {poison} were harmful"
    )
    return doubts


def check_epoch(found: Findings, where: str, rows: list[dict[str, Any]], turns: list[str]) -> None:
    """Nothing harmful or too old, no sample twice, little else twice, each rank in its order."""
    held = numbers(rows)
    unfit = [number for number in held if is_poison(number)]
    found.check(not unfit, "G19", f"{where}: was sent harmful reports: {unfit}")
    found.check(not any(map(is_old, held)), "G19", f"{where}: was sent reports that are too old")
    twice = {number: times for number, times in Counter(held).items() if times > 1}
    samples = [number for number in twice if kind_of(number) == XPU]
    found.check(not samples, "G19", f"{where}: has samples twice: {samples}")
    again = sum(times - 1 for times in twice.values())
    allowed = RANKS * turns.count("service") + turns.count("answer")
    found.worst("logs and stacks twice in an epoch", again)
    found.check(again <= allowed, "G19", f"{where}: has twice {twice}")
    for rank in range(RANKS):
        mine = [number for number in held if number % RANKS == rank]
        found.check(mine == sorted(mine), "G18", f"{where}: rank {rank} came as {mine}")


ATTACK = Attack(
    meaning="SIGKILL of a real DLRover master and of the service, and lost answers",
    promises=("G18", "G19"),
    trial=trial,
    trials=Trials(short=2, usual=12, long=200),
    catches=(
        "no-resend-after-restart",
        "newer-before-resend",
        "ambiguous-sample-resent",
        "reports-not-checked",
        "reports-out-of-order",
    ),
    missing=missing,
)
