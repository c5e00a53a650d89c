"""Audits are taken all the time, while everything that they count goes on.

Processes record and are killed, the service is killed and restarted, the receiver rejects some
records permanently and answers other requests wrongly or not at all, and disk limits are reached.
One process does nothing but audit. Consecutive seeds are the variants: without limits, limits of
spools with either policy, and a limit of the root.

In the two variants with a limit, a first phase without a receiver reaches the limit: it lasts until
records were refused and dropped, so that no trial ends without either.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import shipper.delivery.backoff
from shipper.audit.account import Account
from shipper.config.schema import Config
from shipper.discovery.layout import find_spools
from shipper.errors import ShipperError
from shipper.ledger.ranges import merged, size
from shipper.retention import cleaner
from shipper.service import Service, ship_once
from spooler import background
from spooler import recorder as recorder_module
from spooler.recorder import recorder
from spooler.records import step as step_record
from spooler.spool.filesystem import bytes_in
from spooler.spool.reader import Reader
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import Child, ReceiverProcess, Tell
from tests.crash.lab.conservation import accounts_of, workloads_of
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
POISON = "poison"  # what the receiver rejects permanently
POISONED = 43  # every so many steps
REFUSED = -1  # a process tells this instead of the number of a step that it could not record
FREE, SPOOLS, ROOT = range(3)  # the variants
POLICIES = ("drop-newest", "drop-oldest")
SPOOL_BYTES, ROOT_BYTES = 2**20, 150_000  # the limits: the first is the lowest that counts
PAD = "x" * 4000  # what makes a record of a process with a limit large
LIMIT_SECONDS = 120.0  # far above what reaching one takes
_SERVER_ERROR = Answer(status=500, body=answers.failure("busy").body)


class MostlyTrue:
    """Mostly the true answer. Else wrong ones or none, with the request processed or not."""

    def __init__(self) -> None:
        self._rng = random.Random(0)
        self._bad = (Answer(status=503), _SERVER_ERROR, Reset(), Eof(), Eof(processed=True))

    def play(self, turn: Turn) -> None:
        """One answer."""
        bad = self._rng.random() < 0.12
        one = self._rng.choice((*self._bad, HalfAnswer())) if bad else Normal()
        one.play(turn)


class UnreliableReceiver(FaultyReceiver):
    """Rejects what is poisoned, and answers the rest as `MostlyTrue`."""

    def __init__(self, *, path: Path, port: int = 0) -> None:
        super().__init__(path=path, port=port, otherwise=MostlyTrue())

    def conclude(self, exchange: Exchange, call: Call) -> None:
        """Answer."""
        if POISON.encode() in call.body:
            exchange.send(answers.bad_request(answers.BAD_FORMAT))
        else:
            super().conclude(exchange, call)


def trial(seed: int, work: Path) -> Verdict:
    """See the module."""
    rng, found, variant = random.Random(seed), Findings(), seed % 3
    cleaner.CLEAN_SECONDS = cleaner.BLOCKED_SECONDS = 0.1
    background.TICK_SECONDS = 0.1
    recorder_module._RETRY_SECONDS = 0.05
    os.environ.update(
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(work / "spool"),
        PRIMUS_LENS_SPOOL_SEGMENT_RECORDS="50",
    )
    receiver = ReceiverProcess(work / "telemetry.sqlite", UnreliableReceiver)
    config = settings(
        work / "spool",
        work / "state",
        receiver.url,
        flush_interval=0.05,
        rescan_interval=1,
        batch_max_steps=20,
        retention_seconds=0.2,
        drop_non_numeric=True,
        **({"root_bytes": ROOT_BYTES, "when_full": "drop-oldest"} if variant == ROOT else {}),
    )

    def serve(_tell: Tell) -> None:
        Service(config).run()

    auditor = Child(lambda tell: audit_forever(config, work, tell))
    told: dict[str, list[int]] = {}
    living: dict[str, Child] = {}
    if variant == SPOOLS:
        living = _fill_spools(config, found)
    elif variant == ROOT:
        receiver.stop()
        told = {"filler": _fill_root(config, serve, found)}
        port = urlsplit(receiver.url).port
        receiver = ReceiverProcess(receiver.store.path, partial(UnreliableReceiver, port=port))
    # Not before: a queue that retries all the time leaves the service few moments to drop records.
    shipper.delivery.backoff.FIRST_SECONDS = 0.01
    service = Child(serve)
    end, service_end = time.monotonic() + SECONDS, 0.0
    while time.monotonic() < end:
        while len(living) < TRAINERS:
            name = f"child-{len(told) + len(living)}"
            living[name] = _begin(name, rng.choice(POLICIES) if variant == SPOOLS else None)
        for child in (*living.values(), auditor):
            child.watch(0.002)
        if time.monotonic() >= service_end:
            service.kill()
            found.faults += 1
            service = Child(serve)
            service_end = time.monotonic() + rng.uniform(0, SERVICE_SECONDS)
        if rng.random() < 0.006 / TRAINER_SECONDS:
            name = rng.choice(list(living))
            told[name] = _end(living.pop(name))
            found.faults += 1
    told.update({name: _end(child) for name, child in living.items()})
    service.kill()
    pending = ship_once(config, timeout=60)
    found.check(not pending, "G17", f"still pending: {pending}")
    auditor.kill()
    receiver.stop()
    _check_audits(found, work, auditor.told)
    _check_end(found, config, receiver.store, told, variant)
    return found.verdict()


def _fill_spools(config: Config, found: Findings) -> dict[str, Child]:
    """One process of each policy: both have reached the limit, and go on recording."""
    children = {policy: _begin(policy, policy, pause=0.002) for policy in POLICIES}

    def is_reached() -> bool:
        deleted = any(Reader(path).first_seq() > 1 for path in find_spools(config.spool))
        return deleted and REFUSED in children["drop-newest"].told

    _wait(found, is_reached, "no writer reached the limit of its spool", children.values())
    return children


def _fill_root(config: Config, serve: Callable[[Tell], None], found: Findings) -> list[int]:
    """A process fills the root and ends. A service without a receiver drops the oldest records."""

    def used() -> int:
        return sum(bytes_in(path) for path in find_spools(config.spool))

    filler = _begin("filler", pause=0.001)
    _wait(found, lambda: used() > 2 * ROOT_BYTES, "the root never reached its limit", [filler])
    told = _end(filler)
    service = Child(serve)
    _wait(found, lambda: used() <= ROOT_BYTES, "nothing was dropped for the limit of the root")
    service.kill()
    return told


def _wait(
    found: Findings, holds: Callable[[], bool], failure: str, children: Iterable[Child] = ()
) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while not holds() and time.monotonic() < end:
        for child in children:
            child.watch(0.005)
        time.sleep(0.005)
    found.check(time.monotonic() < end, "G17", failure)


def audit_forever(config: Config, work: Path, tell: Tell) -> None:
    """Audit all the time, and write down each account that does not balance or goes back."""
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
        returned = [number for number in told[name] if number != REFUSED]
        got = arrived.get(account.spool, 0)
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
        if name == "filler":
            dropped = account.dropped_by_policy.get("root-cap", 0)
            found.check(dropped > 0, "G17", f"nothing is counted as dropped: {where}")
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


def _begin(name: str, policy: str | None = None, *, pause: float = 0.004) -> Child:
    """A process with a limit and that policy, or without a limit."""
    os.environ.update(
        WORKLOAD_UID=name,
        PRIMUS_LENS_SPOOL_MAX_BYTES=str(SPOOL_BYTES if policy else 2**30),
        PRIMUS_LENS_SPOOL_WHEN_FULL=policy or "drop-newest",
    )
    return Child(lambda tell: _log(tell, pause, PAD if policy else ""))


def _end(child: Child) -> list[int]:
    child.kill()
    return child.told


def _log(tell: Tell, pause: float, pad: str) -> None:
    number = 0
    while True:
        data: dict[str, Any] = {"loss": number / 3, "text": pad}
        if number % POISONED == POISONED - 1:
            data[POISON] = 1
        body = step_record.encode(run="r", step=number, time=time.time(), closed=True, data=data)
        tell(number if recorder().record("step", body) else REFUSED)
        number += 1
        time.sleep(pause)


ATTACK = Attack(
    meaning="audits during SIGKILLs, rejections, wrong answers and limits",
    promises=("G17",),
    trial=trial,
    trials=Trials(short=3, usual=9, long=60),
    catches=(
        "counts-saved-later",
        "rejected-and-not-kept",
        "rejected-counts-as-delivered",
        "dropped-and-not-counted",
        "deletion-not-recorded",
    ),
)
