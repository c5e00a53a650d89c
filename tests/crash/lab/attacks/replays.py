"""SIGKILL of `lens-ship replay` at its Nth call of a station, for every N. Then it is resumed.

The stations are the calls between which a replay's state moves: reading the source, sending a
request, writing the ledger. For N = 1, 2, 3 … a source of its own is replayed by a child that is
killed just before or just after its Nth call; by a second one that is killed there too, if it gets
so far; and by others until the replay is done. Sources are spools whose records the service has
delivered before, sent again by wish, and files of the older exporter. Consecutive seeds are
consecutive places.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from shipper.cli.replay import SELECTING, run_replay
from shipper.config.schema import Config
from shipper.http_client.client import HttpClient
from shipper.ledger.ledger import Ledger
from shipper.replay.source import RecordRange
from shipper.replay.verify import DIFFERS, HOLDS, check_receipts
from shipper.service import ship_once
from shipper.sinks import DEFAULT, carried_kinds
from spooler.spool import codec
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.attacks.shipper_steps import arm, places
from tests.crash.lab.children import Child, ReceiverProcess, Tell
from tests.crash.lab.conservation import ArrivedRecords
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit import shipping, spools
from tests.kit.delivery import settings
from tests.kit.processor import queries

STATIONS = (
    (RecordRange, "read"),
    (HttpClient, "post"),
    (Ledger, "begin_replay"),
    (Ledger, "acknowledge"),
    (Ledger, "end_replays"),
)
PLACES = places(STATIONS)
STEPS = 10
# Reading is the one call that occurs often: of its crossings a trial visits each third.
READS_APART = 3


@dataclass(frozen=True, kw_only=True)
class Replay:
    """One source: where it lies, whose it is, and how it is to be replayed."""

    config: Config
    workload: str
    source: Path  # a spool, or a directory with a file
    again: bool

    def run(self, fatal: str = "", crossing: int = 0) -> int:
        """Replay it in a child that is killed at the given place. The wait status."""

        def work(_tell: Tell) -> None:
            if fatal:
                arm(fatal, crossing, STATIONS)
            given: dict[str, Any] = dict.fromkeys(SELECTING)
            given.update(only_sink="", kind="", as_pod="", run="", workload="")
            given.update(resend_delivered=self.again, overwrite_newer=False)
            given.update(as_workload=self.workload)
            os._exit(run_replay((self.source,), given, self.config))

        return Child(work).end()

    def live(self) -> list[dict[str, Any]]:
        """The positions of the service."""
        with closing(self.ledger()) as ledger:
            return [row for row in ledger.positions() if row["sink"] in DEFAULT and self.again]

    def has_receipts(self) -> bool:
        """Whether it has ended, by its receipts."""
        with closing(self.ledger()) as ledger:
            return any(row["ended"] is not None for row in ledger.replays())

    def ledger(self) -> Ledger:
        """Its ledger, as a command opens it."""
        return Ledger(self.config.state, exclusive=False, create=True)


def trial(seed: int, work: Path) -> Verdict:
    """Go on at one place until a child passes it less often than that, for both kinds of source."""
    found = Findings()
    place = PLACES[seed % len(PLACES)]
    apart = READS_APART if place.endswith(".read") else 1
    receiver = ReceiverProcess(work / "telemetry.sqlite")
    for kind in ("spool", "file"):
        for number in count(1 + seed // len(PLACES) % apart, apart):
            one = make(work / f"{kind}-{number}", f"{kind}-{number}", receiver.url)
            where = f"{kind}, killed {place}, crossing {number}"
            if not attack(found, one, receiver, place, number, where):
                twice(found, one, receiver, where)
                break
    receiver.stop()
    found.check(found.faults, "the attack", f"nothing was ever killed {place}")
    return found.verdict()


def make(directory: Path, name: str, url: str) -> Replay:
    """A spool that the service has delivered, or a file that it knows nothing of."""
    directory.mkdir()
    config = settings(directory / "spool", directory / "state", url, batch_max_steps=4)
    if name.startswith("file"):
        source = directory / "old"
        (source / "node_0" / "rank_0").mkdir(parents=True)
        lines = [
            json.dumps({"timestamp": 1.7e9 + n, "step": n, "data": {"x": n}}) for n in range(STEPS)
        ]
        path = source / "node_0" / "rank_0" / "wandb_metrics.jsonl"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return Replay(config=config, workload=name, source=source, again=False)
    who = spools.identity(workload_uid=name)
    records = [
        shipping.detection(),
        *(shipping.step(n, x=n) for n in range(STEPS)),
        shipping.goodbye(),
    ]
    source, _ = shipping.spool(directory / "spool", records, who=who, segment_records=5)
    Child(lambda _tell: os._exit(len(ship_once(config, timeout=60)))).end()
    return Replay(config=config, workload=name, source=source, again=True)


def attack(
    found: Findings, one: Replay, receiver: ReceiverProcess, place: str, number: int, where: str
) -> bool:
    """Kill a replay twice and let it come to its end; whether it was killed at all."""
    begun, before = len(queries.requests(receiver.store)), one.live()
    values = ArrivedRecords(receiver.store).steps(one.workload)
    deaths = 0
    for is_last in (False, False, True):
        ended = one.run() if is_last else one.run(place, number)
        deaths += os.WIFSIGNALED(ended)
        if one.has_receipts():
            break  # also when it was killed right after: it had said so
        found.check(os.WIFSIGNALED(ended), "G13", f"{where}: it ended too early ({ended})")
    found.check(one.has_receipts(), "G13", f"{where}: it does not end")
    found.faults += deaths
    arrivals = ArrivedRecords(receiver.store, begun)
    check_sent(found, arrivals, one, deaths, where)
    found.check(one.live() == before, "G13", f"{where}: a live position moved")
    now = arrivals.steps(one.workload)
    found.check(not values or now == values, "G13", f"{where}: other values than before")
    found.check(now == _values(one), "G13", f"{where}: {now}")
    with closing(one.ledger()) as ledger:
        checked = check_receipts(ledger, carried_kinds(one.config))
        unfinished = [row for row in ledger.replays() if row["ended"] is None]
    found.check(not unfinished, "G13", f"{where}: unfinished replays: {unfinished}")
    found.check(
        sum(receipt.records for receipt in checked) == STEPS + one.again,
        "G13",
        f"{where}: receipts {checked}",
    )
    found.check({r.state for r in checked} == {HOLDS}, "G13", f"{where}: receipts {checked}")
    return bool(deaths)


def _values(one: Replay) -> dict[int, dict[str, Any]]:
    return {number: {"x": number} for number in range(STEPS)}


def check_sent(
    found: Findings, arrivals: ArrivedRecords, one: Replay, deaths: int, where: str
) -> None:
    """Every step was sent, in order; and no more requests again than replays were killed."""
    firsts, repeated, records = arrivals.sent(one.workload)
    got = [step for first, last in firsts for step in range(first, last + 1)]
    found.check(got == list(range(STEPS)), "G13", f"{where}: sent were {got}")
    found.worst("repeated requests", repeated)
    found.worst("repeated records", records)
    found.check(repeated <= deaths, "G13", f"{where}: {repeated} requests again, {deaths} kills")


def twice(found: Findings, one: Replay, receiver: ReceiverProcess, where: str) -> None:
    """Replay once more, then change the source."""
    begun = len(queries.requests(receiver.store))
    values, live = ArrivedRecords(receiver.store).steps(one.workload), one.live()
    found.check(one.run() == 0, "G13", f"{where}: it cannot be done twice")
    arrivals = ArrivedRecords(receiver.store, begun)
    if one.again:
        check_sent(found, arrivals, one, 0, f"{where}, done twice")
    else:
        again, _, _ = arrivals.sent(one.workload)
        found.check(not again, "G13", f"{where}, done twice: sent again unasked: {again}")
    found.check(arrivals.steps(one.workload) == values, "G13", f"{where}: twice, other values")
    found.check(one.live() == live, "G13", f"{where}, done twice: a live position moved")
    for path in _change(one.source):
        with closing(one.ledger()) as ledger:
            states = {
                r.state
                for r in check_receipts(ledger, carried_kinds(one.config))
                if r.sink == "processor"
            }
        found.check(states == {DIFFERS}, "G13", f"{where}: {path} was changed: {states}")


def _change(source: Path) -> Iterator[Path]:
    """One value of what was sent."""
    for path in source.glob("node_0/rank_0/*.jsonl"):
        path.write_text(path.read_text().replace('"x": 3}', '"x": 4}'), encoding="utf-8")
        yield path
    for path in sorted(source.glob("*.sqlite"))[:1]:
        body = codec.pack(shipping.step(3, x=4)[1])
        with closing(sqlite3.connect(path, isolation_level=None)) as segment:
            segment.execute(
                "UPDATE record SET body = ?, checksum = ? WHERE seq = 5",
                (body, codec.checksum("step", body, 5)),
            )
        yield path


ATTACK = Attack(
    meaning="SIGKILL of a replay just before and after every read, send and save",
    promises=("G13",),
    trial=trial,
    trials=Trials(short=2, usual=len(PLACES), long=READS_APART * len(PLACES)),
    catches=(
        "replay-starts-over",
        "replay-sends-file-again",
        "replay-moves-the-live-position",
        "receipt-before-the-end",
        "replay-ends-part-by-part",
        "receipt-not-compared",
    ),
)
