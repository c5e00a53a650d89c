"""SIGKILL of an upgrade anywhere, and files of a later version.

First a database of an older version is opened by children that are killed: before every line of the
module that migrates it, and at random instants, inside SQLite too. Then the service ships beside a
spool of the next version and is killed again and again, is given a database of the next version,
and is upgraded. Consecutive seeds are the older versions, opened by the service and by a command,
and other lines: `EVERY` of them visit all lines of all versions.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import shipper.delivery.backoff
from shipper.config.schema import Config
from shipper.errors import StateNewer, StateUnusable
from shipper.ledger import database as state
from shipper.ledger.ledger import DATABASE_NAME, Ledger
from shipper.ledger.migrations import MIGRATIONS, STATE_VERSION
from shipper.service import Service, ship_once
from spooler.records import exit as exit_record
from spooler.records import step
from spooler.spool import format as fmt
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import Child, ReceiverProcess, Tell
from tests.crash.lab.conservation import ArrivedRecords
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit import shipping, spools
from tests.kit.delivery import settings

GOLDEN = Path(__file__).parents[3] / "golden" / "state-v1" / DATABASE_NAME
LINES_APART = 9
RANDOM_KILLS = 10
MIGRATION_SECONDS = 0.02
SERVICE_KILLS = 5
SERVICE_SECONDS = 0.25
STEPS = 60
_NEXT = fmt.FORMAT_VERSION + 1

VARIANTS = 2 * (STATE_VERSION - 1)
EVERY = math.lcm(VARIANTS, LINES_APART)

Known = tuple[int, dict[str, list[dict[str, Any]]]]  # version, and every row of every table


def trial(seed: int, work: Path) -> Verdict:
    """Kill a migration everywhere, then meet what a later version has left."""
    rng, found = random.Random(seed), Findings()
    migrate(found, rng, work, seed)
    meet_later(found, rng, work)
    return found.verdict()


# --- a migration ----------------------------------------------------------------------------------


def migrate(found: Findings, rng: random.Random, work: Path, seed: int) -> None:
    """Open copies of an older database in children that are killed."""
    version, exclusive = 1 + seed % VARIANTS // 2, seed % 2 == 0
    lines = range(1 + seed % LINES_APART, sys.maxsize, LINES_APART)
    old = work / "old"
    old.mkdir()
    Child(lambda _tell: make_older(old, version)).end()
    before = known(old, work / "look")
    found.check(before[0] == version, "the attack", f"version {before[0]} instead of {version}")
    after: Known | None = None
    fates = {True: 0, False: 0}
    for name, killed, directory in killings(rng, work, old, lines, exclusive=exclusive):
        found.faults += killed
        seen = known(directory, work / "look")
        where = f"version {version}, {name}"
        if not killed and after is None:
            after = seen
            check_new(found, before, after, where)
        fates[seen[0] == version] += 1
        found.check(
            seen == before or seen[0] == STATE_VERSION, "G12", f"{where}: something in between"
        )
        check_copy(found, directory / f"{DATABASE_NAME}.v{version}", before, seen, where)
        try:
            Ledger(directory).close()
        except StateUnusable as error:
            found.check(False, "G12", f"{where}: it cannot be opened any more: {error}")
        check_new(found, before, contents(directory / DATABASE_NAME), where)
        shutil.rmtree(directory)
    found.check(min(fates.values()) > 1, "the attack", f"nothing was killed in time: {fates}")


def killings(
    rng: random.Random, work: Path, old: Path, lines: Iterable[int], *, exclusive: bool
) -> Iterator[tuple[str, bool, Path]]:
    """One child after the other: before these lines, until none is left; then at random."""
    for line in lines:
        directory = shutil.copytree(old, work / f"line-{line}")
        child = Child(lambda _tell, at=directory, n=line: open_until(at, n, exclusive=exclusive))
        killed = os.WIFSIGNALED(child.end())
        yield f"killed before line {line}", killed, directory
        if not killed:
            break
    for number in range(RANDOM_KILLS):
        directory = shutil.copytree(old, work / f"random-{number}")
        child = Child(lambda tell, at=directory: open_at_once(at, tell, exclusive=exclusive))
        child.wait_for_first()
        time.sleep(rng.uniform(0, MIGRATION_SECONDS))
        yield f"random kill {number}", os.WIFSIGNALED(child.kill()), directory


def make_older(directory: Path, version: int) -> None:
    """The kept database as the release of this version had it, with a write-ahead log."""
    path = directory / DATABASE_NAME
    shutil.copy(GOLDEN, path)
    with closing(sqlite3.connect(path)) as early:
        early.execute("DROP TABLE replay")
        early.execute("ALTER TABLE position DROP COLUMN cut_off_told")
        early.commit()
    state.MIGRATIONS, state.STATE_VERSION = MIGRATIONS[:version], version
    Ledger(directory).close()
    for copy in directory.glob(f"{DATABASE_NAME}.v*"):
        copy.unlink()
    last = sqlite3.connect(path)
    last.execute("INSERT INTO gap VALUES ('s', 1, 'full', 3, 0, 0, 1.0)")
    last.commit()
    os.kill(os.getpid(), signal.SIGKILL)  # that row is in the log only


def open_until(directory: Path, fatal: int, *, exclusive: bool) -> None:
    """Open the ledger; die before the `fatal`th line of the module that migrates."""
    left = fatal

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != state.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    Ledger(directory, exclusive=exclusive).close()
    sys.settrace(None)


def open_at_once(directory: Path, tell: Tell, *, exclusive: bool) -> None:
    """Open the ledger and stay."""
    tell(1)
    Ledger(directory, exclusive=exclusive)
    time.sleep(MIGRATION_SECONDS * 10)


def known(directory: Path, aside: Path) -> Known:
    """All that a database holds, read from a copy by plain SQLite."""
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(directory, aside)
    return contents(aside / DATABASE_NAME)


def contents(path: Path) -> Known:
    """Version and rows."""
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        rows = {
            name: [dict(row) for row in database.execute(f'SELECT * FROM "{name}" ORDER BY rowid')]
            for (name,) in tables
        }
        return database.execute("PRAGMA user_version").fetchone()[0], rows


def check_new(found: Findings, before: Known, after: Known, where: str) -> None:
    """The version of today, with every table, and every row that there was."""
    found.check(after[0] == STATE_VERSION, "G12", f"{where}: ends as version {after[0]}")
    wanted = {name for migration in MIGRATIONS for name in migration.tables}
    found.check(set(after[1]) >= wanted, "G12", f"{where}: lacks {wanted - set(after[1])}")
    for table, rows in before[1].items():
        now = after[1].get(table, [])
        kept = [{name: row.get(name) for name in was} for row, was in zip(now, rows, strict=False)]
        found.check(kept == rows and len(now) == len(rows), "G12", f"{where}: {table} changed")


def check_copy(found: Findings, copy: Path, before: Known, seen: Known, where: str) -> None:
    """The copy is whole where it is there, and there before anything changes."""
    if seen != before:
        found.check(copy.exists(), "G12", f"{where}: changed, and no copy of what was")
    if copy.exists():
        try:
            held: Known | None = contents(copy)
        except sqlite3.Error:
            held = None
        found.check(held == before, "G12", f"{where}: the copy is not what was")


# --- what a later version has left ----------------------------------------------------------------


def meet_later(found: Findings, rng: random.Random, work: Path) -> None:
    """Ship beside a spool of the next version, with kills. Then upgrade."""
    shipper.delivery.backoff.FIRST_SECONDS = 0.01
    receiver = ReceiverProcess(work / "telemetry.sqlite")
    config = settings(
        *(work / "spool", work / "state", receiver.url),
        batch_max_steps=3,
        flush_interval=0.05,
        rescan_interval=1,
        retention_seconds=0,
    )
    directory = write_spool(work / "spool", "later", 1)
    left = make_later(directory)
    write_spool(work / "spool", "today", 2)
    deaths = 0
    for _ in range(SERVICE_KILLS):
        child = Child(lambda _tell: Service(config).run())
        child.watch(rng.uniform(0, SERVICE_SECONDS))
        found.check(not child.has_ended, "G12", "the service ended by itself")
        child.kill()
        deaths += 1
    found.check(files(directory) == left, "G12", "a spool of a later version was touched")
    write_spool(work / "spool", "upgraded", 3)
    refuse_later_state(found, config)
    found.check(files(directory) == left, "G12", "a spool of a later version was touched")
    ended = Child(lambda _tell: ship_upgraded(config)).end()
    found.check(ended == 0, "G12", "after the upgrade something is left to send")
    receiver.stop()
    arrivals, found_here = ArrivedRecords(receiver.store), Findings()
    for workload in ("later", "today", "upgraded"):
        arrivals.check(found_here, workload, range(STEPS), deaths if workload == "today" else 0)
    found.failures += [f"G12: {failure}" for failure in found_here.failures]
    found.figures.update(found_here.figures)
    found.faults += deaths


def write_spool(root: Path, workload: str, salt: int) -> Path:
    """Steps in several segments, and a clean shutdown."""
    who = spools.identity(spools.spool_id(salt), workload_uid=workload)
    records = [
        ("step", step.encode(run="r", step=number, time=1.0, closed=True, data={"x": number}))
        for number in range(STEPS)
    ]
    return shipping.spool(root, [*records, ("exit", exit_record.EXAMPLE)], who=who, **_LIMITS)[0]


_LIMITS = {"segment_records": 25}


def make_later(directory: Path) -> dict[str, bytes]:
    """Make a spool one of the next version; what its files then hold."""
    for path in directory.glob("*.sqlite"):
        with closing(sqlite3.connect(path, isolation_level=None)) as segment:
            segment.execute("PRAGMA journal_mode=DELETE")
            segment.execute(f"PRAGMA user_version={_NEXT}")
    return files(directory)


def files(directory: Path) -> dict[str, bytes]:
    """All files of a directory, or none if it is gone."""
    return {path.name: path.read_bytes() for path in directory.glob("*")}


def refuse_later_state(found: Findings, config: Config) -> None:
    """A database of the next version is not used, by the service or a command; then it goes."""
    aside = config.state.with_name("later-state")
    aside.mkdir()
    with closing(sqlite3.connect(aside / DATABASE_NAME)) as later:
        later.execute("CREATE TABLE of_next_year (id INTEGER)")
        later.execute(f"PRAGMA user_version = {STATE_VERSION + 1}")
    before = files(aside)

    def use(_tell: Tell, exclusive: bool) -> None:
        try:
            if exclusive:
                Service(_with_state(config, aside), once=True).run()
            else:
                Ledger(aside, exclusive=False).close()
        except StateNewer:
            os._exit(0)
        os._exit(5)

    for exclusive in (True, False):
        ended = Child(lambda tell, alone=exclusive: use(tell, alone)).end()
        found.check(ended == 0, "G12", "a database of a later version was opened")
    now = {name: held for name, held in files(aside).items() if name != state.LOCK_NAME}
    found.check(now == before, "G12", f"a database of a later version was touched: {list(now)}")


def _with_state(config: Config, directory: Path) -> Config:
    return settings(config.spool, directory, config.processor_url)


def ship_upgraded(config: Config) -> None:
    """What this version is after the upgrade: one that knows the next format, and this one."""
    fmt.SCHEMAS = {**fmt.SCHEMAS, _NEXT: fmt.SCHEMA}
    fmt.FORMAT_VERSION = _NEXT
    if ship_once(config, timeout=60):
        os._exit(1)


ATTACK = Attack(
    meaning="SIGKILL at every step of a migration, and files of a later version",
    promises=("G12",),
    trial=trial,
    trials=Trials(short=2, usual=24, long=2 * EVERY),
    catches=(
        "migration-in-steps",
        "no-copy-before-migration",
        "copy-named-before-complete",
        "newer-database-opened",
        "newer-spool-read",
        "newer-spool-quarantined",
    ),
)
