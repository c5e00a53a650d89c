"""The account is taken all the time, while everything that it tells of goes on.

Processes record and are killed, the service is killed and starts anew, the receiver refuses some
records for good and answers much else wrongly or not at all, and limits of disk are reached. One
process does nothing but take the account, again and again. Consecutive seeds are the variants:
without limits; limits of spools with either policy; a limit of the root.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import shipper.delivery.backoff
from shipper.audit.account import Account
from shipper.config.schema import Config
from shipper.errors import ShipperError
from shipper.ledger.ranges import merged, size
from shipper.retention import cleaner
from shipper.service import Service, ship_once
from spooler.recorder import recorder
from spooler.records import step as step_record
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.conservation import accounts_of, workloads_of
from tests.crash.lab.lives import FarReceiver, Life, Tell
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit.command import lens_ship
from tests.kit.delivery import settings
from tests.kit.faulty_receiver import Answer, Eof, FaultyReceiver, HalfAnswer, Normal, Reset, Turn
from tests.kit.processor import answers, queries
from tests.kit.processor.listener import Exchange
from tests.kit.processor.routes import Call
from tests.kit.processor.store import Store

SECONDS = 1.5
SERVICE_SECONDS = 0.4
TRAINER_SECONDS = 0.7
TRAINERS = 3  # at a time
POISON = "poison"  # what the receiver refuses for good
POISONED = 43  # every so many steps
FREE, SPOOLS, ROOT = range(3)  # the variants
_SERVER_ERROR = Answer(status=500, body=answers.failure("busy").body)


class Moods:
    """Mostly the true answer; processed or not, wrong ones and none."""

    def __init__(self) -> None:
        self._rng = random.Random(0)
        self._bad = (Answer(status=503), _SERVER_ERROR, Reset(), Eof(), Eof(processed=True))

    def play(self, turn: Turn) -> None:
        """One answer."""
        bad = self._rng.random() < 0.12
        one = self._rng.choice((*self._bad, HalfAnswer())) if bad else Normal()
        one.play(turn)


class Moody(FaultyReceiver):
    """Refuses what is poisoned; see `Moods` for the rest."""

    def __init__(self, *, path: Path) -> None:
        super().__init__(path=path, otherwise=Moods())

    def conclude(self, exchange: Exchange, call: Call) -> None:
        """Answer."""
        if POISON.encode() in call.body:
            exchange.send(answers.bad_request(answers.BAD_FORMAT))
        else:
            super().conclude(exchange, call)


def trial(seed: int, work: Path) -> Verdict:
    """See the module."""
    rng, found, variant = random.Random(seed), Findings(), seed % 3
    shipper.delivery.backoff.FIRST_SECONDS = 0.01
    cleaner.TIDY_SECONDS = cleaner.CROWDED_SECONDS = 0.1
    os.environ.update(
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(work / "spool"),
        PRIMUS_LENS_SPOOL_SEGMENT_RECORDS="50",
    )
    receiver = FarReceiver(work / "telemetry.sqlite", Moody)
    config = settings(
        work / "spool",
        work / "state",
        receiver.url,
        flush_interval=0.05,
        rescan_interval=1,
        batch_max_steps=20,
        retention_seconds=0.2,
        **({"root_bytes": 400_000, "when_full": "drop-oldest"} if variant == ROOT else {}),
    )

    def serve(_tell: Tell) -> None:
        Service(config).run()

    service, auditor = Life(serve), Life(lambda tell: audit_for_ever(config, work, tell))
    told: dict[str, list[int]] = {}
    living: dict[str, Life] = {}
    end, service_end = time.monotonic() + SECONDS, 0.0
    while time.monotonic() < end:
        while len(living) < TRAINERS:
            name = f"life-{len(told) + len(living)}"
            living[name] = _begin(name, rng, variant)
        for life in (*living.values(), auditor):
            life.watch(0.002)
        if time.monotonic() >= service_end:
            service.kill()
            found.faults += 1
            service = Life(serve)
            service_end = time.monotonic() + rng.uniform(0, SERVICE_SECONDS)
        if rng.random() < 0.006 / TRAINER_SECONDS:
            name = rng.choice(list(living))
            told[name] = _end(living.pop(name))
            found.faults += 1
    told.update({name: _end(life) for name, life in living.items()})
    service.kill()
    pending = ship_once(config, timeout=60)
    found.check(not pending, "G17", f"still pending: {pending}")
    auditor.kill()
    receiver.stop()
    _check_audits(found, work, auditor.told)
    _check_end(found, config, receiver.store, told, variant)
    return found.verdict()


def audit_for_ever(config: Config, work: Path, tell: Tell) -> None:
    """Take the account all the time; write down each that does not balance or goes back."""
    counts: dict[tuple[str, str], Account] = {}
    while True:
        try:
            accounts = accounts_of(config)
        except ShipperError:
            time.sleep(0.001)  # there is no ledger yet
            continue
        for account in accounts:
            key = account.spool, account.sink
            before = counts.get(key, account)
            if not account.balances or _goes_back(before, account):
                with (work / "unbalanced").open("a") as file:
                    file.write(json.dumps([before.to_map(), account.to_map()]) + "\n")
            counts[key] = account
        tell(len(accounts))


def _goes_back(before: Account, account: Account) -> bool:
    names = ("written", "delivered", "skipped", "dead_letters")
    return any(getattr(account, name) < getattr(before, name) for name in names)


def _check_audits(found: Findings, work: Path, told: list[int]) -> None:
    found.figures["fewest accounts taken"] = sum(told)
    found.check(sum(told) > 0, "G17", "no account was ever taken")
    path = work / "unbalanced"
    lines = path.read_text().splitlines() if path.exists() else []
    found.worst("accounts that did not balance", len(lines))
    found.check(not lines, "G17", f"{len(lines)} do not balance or go back: {lines[:1]}")


def _check_end(
    found: Findings, config: Config, store: Store, told: dict[str, list[int]], variant: int
) -> None:
    """What the account says in the end is what the processes and the receiver say."""
    ran = lens_ship(
        *("audit", "--json", "--spool", str(config.spool), "--state", str(config.state))
    )
    found.check(ran.code == 0, "G17", f"audit exits {ran.code}: {ran.err[-300:]}{ran.out[-300:]}")
    names = workloads_of(config)
    arrived = _arrived(store)
    for account in accounts_of(config):
        if account.sink != "processor":
            continue
        name = names[account.spool]
        returned, got = told[name], arrived.get(account.spool, 0)
        where = f"{name}, {len(returned)} returned, {got} arrived: {account}"
        found.check(account.pending == 0, "G17", f"pending in the end: {where}")
        found.check(account.delivered <= got, "G17", f"too many delivered: {where}")
        found.check(account.written >= len(returned), "G17", f"too few written: {where}")
        if variant == FREE:
            poisoned = sum(number % POISONED == POISONED - 1 for number in returned)
            found.check(account.written <= len(returned) + 1, "G17", f"too many written: {where}")
            found.check(account.delivered == got, "G17", f"too few delivered: {where}")
            found.check(
                0 <= account.dead_letters - poisoned <= 1, "G17", f"{poisoned} refused: {where}"
            )
    spoken = {names[account.spool] for account in accounts_of(config)}
    unsaid = [name for name, numbers in told.items() if numbers and name not in spoken]
    found.check(not unsaid, "G17", f"no account of {unsaid}")


def _arrived(store: Store) -> dict[str, int]:
    """Records of each spool that the receiver has stored for the sink of metrics."""
    ranges: dict[str, list[tuple[int, int]]] = {}
    for request in queries.requests(store):
        whose, _, numbers = str(request["lens_ship_records"]).rpartition("/")
        spool, _, sink = whose.partition("/")
        first, _, last = numbers.partition("-")
        if request["status"] == 200 and sink == "processor" and last.isdigit():
            ranges.setdefault(spool, []).append((int(first), int(last)))
    return {spool: size(merged(pairs)) for spool, pairs in ranges.items()}


def _begin(name: str, rng: random.Random, variant: int) -> Life:
    limits: dict[str, Any] = {"MAX_BYTES": 2**30, "WHEN_FULL": "drop-newest"}
    if variant == SPOOLS:
        limits = {"MAX_BYTES": 90_000, "WHEN_FULL": rng.choice(("drop-newest", "drop-oldest"))}
    os.environ.update({f"PRIMUS_LENS_SPOOL_{key}": str(value) for key, value in limits.items()})
    os.environ["WORKLOAD_UID"] = name
    return Life(_log)


def _end(life: Life) -> list[int]:
    life.kill()
    return life.told


def _log(tell: Tell) -> None:
    number = 0
    while True:
        data: dict[str, Any] = {"loss": number / 3}
        if number % POISONED == POISONED - 1:
            data[POISON] = 1
        body = step_record.encode(run="r", step=number, time=time.time(), closed=True, data=data)
        if recorder().record("step", body):
            tell(number)
        number += 1
        time.sleep(0.004)


ATTACK = Attack(
    meaning="the account is taken all the time amid SIGKILLs, refusals, wrong answers and limits",
    promises=("G17",),
    trial=trial,
    trials=Trials(short=1, usual=9, long=60),
    catches=(
        "counts-are-saved-later",
        "refused-and-not-kept",
        "refused-counts-as-delivered",
        "given-up-and-not-counted",
    ),
)
