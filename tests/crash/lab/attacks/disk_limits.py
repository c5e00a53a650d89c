"""Processes record under small disk limits while the receiver and the service fail.

Consecutive seeds are the variants: the limit of a spool or of the root, each with both policies, at
a thousand records a second or as fast as possible. The receiver hangs, stops and restarts. The
service and one of the processes are killed. One more process has ended and is delivered before.

A limit may be exceeded by what is recorded between two checks of it. Every check of a writer and of
the service is told here, as is every record, so that this is a number and not a time.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import shipper.delivery.backoff
from shipper.app import App
from shipper.audit.account import Account
from shipper.discovery.layout import find_spools
from shipper.errors import ShipperError
from shipper.retention import cleaner
from shipper.service import Service, ship_once
from spooler import background
from spooler import recorder as recorder_module
from spooler.recorder import recorder
from spooler.records import step as step_record
from spooler.spool import format as fmt
from spooler.spool.filesystem import bytes_in
from spooler.spool.writer import Writer
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import Child, ReceiverProcess, Tell
from tests.crash.lab.conservation import ArrivedRecords, accounts_of, workloads_of
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit.delivery import settings
from tests.kit.processor import Receiver

SECONDS = 2.0
TRAINERS = 2
LIMIT = 2**20  # the lowest that counts for a spool
SEGMENT = 2**14
# Told at each look at a limit, and at the end REFUSED - count.
LOOK, UNMARKED, UNREFUSED, REFUSED = -1, -2, -3, -4
ALL = 10**6


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A limit, the policy for it, and records of `pad` bytes with a pause after each."""

    whose: str
    policy: str
    pause: float
    pad: int

    @property
    def cost(self) -> int:
        """Bytes of disk of a record while its segment is being sealed: it is in the log, too."""
        return 3_000 + 2 * self.pad

    @property
    def room(self) -> int:
        """Bytes of disk of one process that no limit removes: active, prepared, being sealed."""
        return 2**18 + 2 * (SEGMENT // self.pad + 1) * self.cost


VARIANTS = tuple(
    Variant(whose=whose, policy=policy, pause=pause, pad=pad)
    for pause, pad in ((0.001, 6000), (0.0, 1500))
    for policy in ("drop-newest", "drop-oldest")
    for whose in ("spool", "root")
)
BEFORE = 40  # steps of the process that has ended


class LimitedNode:
    """A root, a receiver that stops and restarts, a service that is killed, and what was seen."""

    def __init__(self, work: Path, limits: dict[str, Any]) -> None:
        self.receiver: ReceiverProcess | None = ReceiverProcess(work / "telemetry.sqlite")
        self.store, self.url = self.receiver.store, self.receiver.url
        self.config = settings(
            work / "spool",
            work / "state",
            self.url,
            flush_interval=0.05,
            rescan_interval=1,
            read_timeout=0.3,
            **{"drop_non_numeric": True, "retention_seconds": 10**6, **limits},
        )
        self.children: dict[str, Child] = {}
        self.most: dict[str, int] = {}  # spool -> bytes of disk; "" is all of the root
        self.looks = [0]  # records told when the service was seen to look at its limit
        self.unmarked = 0  # looks at a root that was above its limit and not marked as full
        self.service = Child(self._serve)
        self.deaths = self.absences = 0
        self._seen = 0

    def begin(self, name: str, work: Callable[[Tell], None]) -> None:
        """A process starts to record."""
        os.environ["WORKLOAD_UID"] = name
        self.children[name] = Child(work)

    def kill_service(self) -> None:
        """And start another one."""
        self.service.kill()
        self.deaths += 1
        self.note_unmarked()
        self._seen = 0
        self.service = Child(self._serve)

    def stop_or_restart(self) -> None:
        """The receiver."""
        self.absences += 1
        if self.receiver is not None:
            self.receiver.stop()
            self.receiver = None
        else:
            port = int(self.url.split(":")[2].split("/")[0])
            self.receiver = ReceiverProcess(self.store.path, partial(Receiver, port=port))

    def look(self) -> None:
        """Note what there is now."""
        for child in (*self.children.values(), self.service):
            if not child.has_ended:
                child.watch(0.001)
        used = {path.name: bytes_in(path) for path in find_spools(self.config.spool)}
        if len(self.service.told) > self._seen:
            self._seen = len(self.service.told)
            told = sum(number >= 0 for child in self.children.values() for number in child.told)
            self.looks.append(told)
        for spool, taken in {**used, "": sum(used.values())}.items():
            self.most[spool] = max(taken, self.most.get(spool, 0))

    def note_unmarked(self) -> None:
        """Count at how many looks of the ended service a full root was not marked."""
        self.unmarked += self.service.told.count(UNMARKED)

    def _serve(self, tell: Tell) -> None:
        tidy, row = App.clean, 0

        def and_tell(app: App) -> None:
            nonlocal row
            was_above = self._is_above()
            tidy(app)
            marked = (self.config.spool / fmt.ROOT_FULL_NAME).exists()
            row = row + 1 if was_above and self._is_above() and not marked else 0
            # Once it may have grown again just now, and once a queue may have been in its turn.
            tell(UNMARKED if row > 2 else LOOK)

        App.clean = and_tell  # type: ignore[method-assign]
        Service(self.config).run()

    def _is_above(self) -> bool:
        """Whether the root has a limit and is above it."""
        used = sum(bytes_in(path) for path in find_spools(self.config.spool))
        return 0 < self.config.root_bytes < used


def trial(seed: int, work: Path) -> Verdict:
    """See the module."""
    rng, found = random.Random(seed), Findings()
    variant = VARIANTS[seed % len(VARIANTS)]
    whose, policy = variant.whose, variant.policy
    shipper.delivery.backoff.FIRST_SECONDS = 0.01
    cleaner.CLEAN_SECONDS = cleaner.BLOCKED_SECONDS = 0.2
    background.TICK_SECONDS = 0.1
    recorder_module._RETRY_SECONDS = 0.05
    os.environ.update(
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(work / "spool"),
        PRIMUS_LENS_SPOOL_SEGMENT_BYTES=str(SEGMENT),
        PRIMUS_LENS_SPOOL_WHEN_FULL=policy if whose == "spool" else "drop-newest",
        PRIMUS_LENS_SPOOL_MAX_BYTES=str(LIMIT if whose == "spool" else 2**30),
    )
    node = LimitedNode(work, {"root_bytes": LIMIT, "when_full": policy} if whose == "root" else {})
    node.begin("before", lambda tell: log(BEFORE, tell, variant))
    _wait(lambda: _is_delivered(node, "before"))
    (before,) = find_spools(work / "spool")
    node.stop_or_restart()
    end = time.monotonic() + SECONDS
    for number in range(TRAINERS):
        node.begin(f"child-{number}", lambda tell: log(ALL, tell, variant, end))
    events = ["receiver", "receiver", "hang", "service", "process"]
    due = sorted((time.monotonic() + rng.uniform(0.1, SECONDS), event) for event in events)
    while not all(child.has_ended for child in node.children.values()):
        while due and time.monotonic() >= due[0][0]:
            event = due.pop(0)[1]
            found.faults += 1
            if event == "service":
                node.kill_service()
            elif event == "receiver":
                node.stop_or_restart()
            elif event == "hang" and node.receiver is not None:
                node.receiver.pause()
            else:
                os.kill(node.children["child-0"].pid, signal.SIGKILL)
        node.look()
        _check_order(node, before, found)
    for child in node.children.values():
        child.end()
    if node.receiver is None:
        node.stop_or_restart()
    node.service.kill()
    node.note_unmarked()
    _check_disk(node, variant, found)
    _check_account(node, policy, found)
    return found.verdict()


def log(steps: int, tell: Tell, variant: Variant, until: float = float("inf")) -> None:
    """Record so many steps, or until then, as fast as possible. At the end tell the refused."""
    keep_limits = Writer._keep_limits
    refused = taken = row = 0

    def and_tell(writer: Writer) -> None:
        nonlocal taken, row
        was_above = is_above(writer)
        keep_limits(writer)
        row = row + 1 if taken and was_above and is_above(writer) else 0
        taken = 0
        # Twice it may have become larger just now, or taken a record that was on its way.
        tell(UNREFUSED if row > 2 else LOOK)

    def is_above(writer: Writer) -> bool:
        return variant.whose == "spool" and bytes_in(writer.directory) > LIMIT

    Writer._keep_limits = and_tell  # type: ignore[method-assign]
    text = "x" * variant.pad
    for number in range(steps):
        if time.monotonic() > until:
            break
        data = {"loss": number / 3, "text": text}
        body = step_record.encode(run="r", step=number, time=time.time(), closed=True, data=data)
        while not recorder().record("step", body):
            refused += 1
            time.sleep(0.002)
            if time.monotonic() > until:
                break
        else:
            taken += 1
            tell(number)
        if variant.pause:
            time.sleep(variant.pause)
    recorder().shutdown()
    tell(REFUSED - refused)


def _check_order(node: LimitedNode, before: Path, found: Findings) -> None:
    """Delivered records are deleted before others are dropped, or refused for the root."""
    is_full = (node.config.spool / fmt.ROOT_FULL_NAME).exists()
    gone = [a for a in accounts_of(node.config) if "root-cap" in a.dropped_by_policy]
    kept = len(list(before.glob("*.sqlite"))) if before.is_dir() else 0
    found.check(
        kept <= 1 or not (is_full or gone),
        "G11",
        f"{kept} delivered segments are kept while the root is full ({is_full}) or loses: {gone}",
    )


def _check_disk(node: LimitedNode, variant: Variant, found: Findings) -> None:
    """No more than the limit, and what was recorded between two looks."""
    looks = {name: _between(child.told) for name, child in node.children.items()}
    if variant.whose == "spool":
        names = {account.spool: workload for workload, account in _of_steps(node).items()}
        for spool, taken in node.most.items():
            between = looks[names[spool]] if spool in names else 0
            if spool:
                _check_bytes(found, names.get(spool, spool), taken, between, variant)
        for name, child in node.children.items():
            unrefused = child.told.count(UNREFUSED)
            text = f"{name}: at {unrefused} looks above the limit, and it went on recording"
            found.check(not unrefused, "G11", text)
    else:
        pairs = zip(node.looks, [*node.looks[2:], node.looks[-1]], strict=False)
        between = max(later - earlier for earlier, later in pairs) + sum(looks.values())
        _check_bytes(found, "the root", node.most[""], between, variant)
        found.check(
            not node.unmarked,
            "G11",
            f"the root is full and not marked as full: {node.unmarked} times",
        )


def _check_bytes(found: Findings, what: str, taken: int, between: int, variant: Variant) -> None:
    found.worst("records between looks", between)
    found.worst("disk, parts of the limit", taken / LIMIT)
    found.check(
        taken <= LIMIT + TRAINERS * variant.room + 2 * variant.cost * between,
        "G11",
        f"{what} took {taken:,} bytes with {between} records between two looks",
    )


def _between(told: list[int]) -> int:
    """The most records that were told from one look to the one after the next."""
    looks = [place for place, number in enumerate(told) if number in (LOOK, UNREFUSED)]
    ends = [*looks[1:], len(told)]
    return max((end - begin for begin, end in zip([0, *looks], ends, strict=False)), default=0)


def _check_account(node: LimitedNode, policy: str, found: Findings) -> None:
    """What did not arrive was dropped by a policy that allows it, and all of it is counted."""
    pending = ship_once(node.config, timeout=60)
    found.check(not pending, "G11", f"still pending: {pending}")
    if node.receiver is not None:
        node.receiver.stop()
    arrivals, accounts = ArrivedRecords(node.store), _of_steps(node)
    for account in accounts_of(node.config):
        found.check(account.balances, "G11", f"does not balance: {account}")
    for workload, child in node.children.items():
        told = [number for number in child.told if number >= 0]
        refused = [REFUSED - number for number in child.told if number <= REFUSED]
        arrived = set(arrivals.steps(workload))
        lost = [number for number in told if number not in arrived]
        found.worst("records dropped", len(lost))
        found.worst("records refused", max(refused, default=0))
        if workload not in accounts:
            found.check(not told, "G11", f"{workload}: no account of {len(told)} records")
            continue
        account = accounts[workload]
        where = f"{workload}: {len(told)} told, {len(lost)} lost: {account}"
        if policy == "drop-newest":
            found.check(not lost, "G11", f"undelivered records were removed: {where}")
        evicted, others = sum(account.dropped_by_policy.values()), account.written - len(told)
        # What was under way when the service or the receiver went may have arrived all the same.
        others += node.config.batch_max_steps * (node.deaths + node.absences)
        found.check(len(lost) <= evicted <= len(lost) + others, "G11", f"not counted: {where}")
        if refused:
            dropped = sum(account.dropped_by_producer.values())
            # The word of them may go with a segment that the writer deletes: see the page.
            least = 0 if "cap" in account.dropped_by_policy else refused[0]
            found.check(least <= dropped <= refused[0], "G11", f"{refused[0]} refused: {where}")


def _of_steps(node: LimitedNode) -> dict[str, Account]:
    """Workload -> its account with the sink of steps."""
    names, accounts = workloads_of(node.config), accounts_of(node.config)
    return {names[a.spool]: a for a in accounts if a.sink == "processor" and a.spool in names}


def _is_delivered(node: LimitedNode, workload: str) -> bool:
    """And known to be so."""
    try:
        account = _of_steps(node).get(workload)
    except ShipperError:
        return False  # there is no ledger yet
    return account is not None and account.pending == 0 and account.delivered == BEFORE


def _wait(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)


ATTACK = Attack(
    meaning="recording under small limits, during SIGKILLs, while the receiver hangs and restarts",
    promises=("G11",),
    trial=trial,
    trials=Trials(short=1, usual=8, long=60),
    catches=(
        "spool-limit-not-kept",
        "root-limit-not-kept",
        "writer-deletes-undelivered",
        "service-deletes-undelivered",
        "deletion-not-recorded",
        "deleted-before-acknowledged",
    ),
)
