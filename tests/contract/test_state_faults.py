"""The state directory cannot be written for a while, is removed, or was emptied by a crash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from shipper import service as service_module
from shipper.audit.audit import run_audit
from shipper.config.schema import Config
from shipper.delivery import queue
from shipper.discovery import scanner
from shipper.errors import StateUnusable
from shipper.health import heartbeat
from shipper.ledger import database
from shipper.ledger.ledger import Ledger
from shipper.retention import cleaner
from shipper.service import Service
from shipper.sinks import DEFAULT
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.images import disk, read_only_view
from tests.kit.running import running
from tests.kit.shipping import config, goodbye, spool, step
from tests.kit.spools import identity, python, spool_id, wait_until

RECORDS = [*(step(number) for number in range(20)), goodbye()]


def differences(given: Config) -> list[int]:
    """How far off the accounts are."""
    ledger = Ledger(given.state, exclusive=False)
    try:
        return [
            one.difference or one.unaccounted
            for one in run_audit(ledger, given.spool, DEFAULT)
            if not one.balances
        ]
    finally:
        ledger.close()


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Another program has a transaction open in the database."""
    code = (
        "import sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)\n"
        "database.execute('BEGIN EXCLUSIVE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    path = str(state / database.DATABASE_NAME)
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            process.kill()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that are long enough for an operator are too long for a test."""
    monkeypatch.setattr(database, "_SERVICE_BUSY_SECONDS", 0.05)
    monkeypatch.setattr(queue, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(scanner, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(service_module, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(cleaner, "CLEAN_SECONDS", 0.1)


@pytest.mark.promise("G17")
@pytest.mark.usefixtures("hurried")
def test_what_comes_while_the_state_is_locked_is_delivered_once_it_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = config(tmp_path, rescan_interval=0.2, retention_seconds=0)
    with FaultyReceiver(path=tmp_path / "received.sqlite") as receiver:
        given = replace(given, processor_url=receiver.url)
        first, _ = spool(given.spool, RECORDS, who=identity(spool_id(1), workload_uid="a"))
        with running(given):
            wait_until(lambda: not first.exists())
            with locked(given.state):
                second, _ = spool(given.spool, RECORDS, who=identity(spool_id(2), workload_uid="b"))
                wait_until(lambda: "spool not shipped yet" in caplog.text)
                wait_until(lambda: "housekeeping" in caplog.text)
            wait_until(lambda: len(arrived(receiver.store, "b").steps) == 20)
            wait_until(lambda: not second.exists())
    assert differences(given) == []
    assert "internal error" not in caplog.text


@pytest.mark.usefixtures("hurried")
def test_a_state_that_is_locked_at_the_start_is_not_to_be_moved_away(tmp_path: Path) -> None:
    given = config(tmp_path)
    Ledger(given.state).close()
    with locked(given.state), pytest.raises(StateUnusable, match="end that program") as refusal:
        Service(given)
    assert "move the file away" not in str(refusal.value)


def test_a_state_on_a_read_only_disk_is_no_matter_of_users(tmp_path: Path) -> None:
    given = config(tmp_path)
    Ledger(given.state).close()
    with (
        read_only_view(given.state, tmp_path / "view") as view,
        pytest.raises(StateUnusable, match="The disk is read-only") as refusal,
    ):
        Ledger(view, exclusive=False)
    assert "user" not in str(refusal.value)


@pytest.mark.promise("G17")
@pytest.mark.usefixtures("hurried")
def test_a_full_disk_under_the_state_costs_a_repetition_and_no_account(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with disk("ext4", tmp_path) as place, FaultyReceiver(path=tmp_path / "got.sqlite") as receiver:
        given = config(
            tmp_path, state=place.top / "state", rescan_interval=0.2, processor_url=receiver.url
        )
        spool(given.spool, RECORDS, who=identity(spool_id(1), workload_uid="a"))
        with running(given):
            wait_until(lambda: arrived(receiver.store, "a").steps)
            place.fill()
            spool(given.spool, RECORDS * 5, who=identity(spool_id(2), workload_uid="b"))
            wait_until(lambda: "not shipped yet" in caplog.text or "retrying" in caplog.text)
            place.free()
            wait_until(lambda: len(arrived(receiver.store, "b").steps) == 20)
            wait_until(lambda: [one for one in positions(given) if one == 105])
        assert differences(given) == []


def positions(given: Config) -> list[int]:
    """Of every spool and sink."""
    with closing(Ledger(given.state, exclusive=False)) as ledger:
        return [row["seq"] for row in ledger.positions()]


def test_a_transaction_that_fails_leaves_the_connection_usable(tmp_path: Path) -> None:
    """The disk is full at its COMMIT: once, every later transaction was one within another."""
    with disk("ext4", tmp_path) as place, closing(Ledger(place.top / "state")) as ledger:
        place.fill()

        def drop(count: int) -> None:
            for number in range(count):
                ledger.drop_through("s", "x" * 1000, number + 1, path="p" * 1000, why="root-cap")

        with pytest.raises(StateUnusable, match="full"):
            drop(10_000)
        place.free()
        assert ledger.drop_through("t", "x", 5, path="p", why="root-cap") == 5
        assert ledger.position("t", "x").seq == 5


@pytest.mark.parametrize("away", ["directory", "database", "replaced"])
def test_a_service_whose_state_is_removed_ends(
    away: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went on without a word, and a second service was let in beside it."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.1)
    given = config(tmp_path, processor_url="http://127.0.0.1:9")
    given.spool.mkdir()
    service = Service(given)
    service.app.now()
    if away == "directory":
        shutil.rmtree(given.state)
    elif away == "database":
        (given.state / database.DATABASE_NAME).unlink()
    else:
        given.state.rename(tmp_path / "old")
        Ledger(given.state).close()
    with pytest.raises(StateUnusable, match=r"was removed or replaced.*sent again"):
        service.run()


def test_a_state_that_comes_back_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = config(tmp_path)
    with closing(Ledger(given.state)) as ledger:
        given.state.rename(tmp_path / "away")
        assert not ledger.is_in_place()
        (tmp_path / "away").rename(given.state)
        assert ledger.is_in_place()


@pytest.mark.promise("G12")
@pytest.mark.parametrize("exclusive", [True, False])
def test_an_empty_database_is_not_taken_for_a_new_one(tmp_path: Path, exclusive: bool) -> None:
    """It is what a power cut leaves of a full one: all accounts would begin again, in silence."""
    Ledger(tmp_path).close()
    path = tmp_path / database.DATABASE_NAME
    os.truncate(path, 0)
    with pytest.raises(StateUnusable, match=r"is empty.*move the file away"):
        Ledger(tmp_path, exclusive=exclusive, create=True)
    assert path.stat().st_size == 0
    path.rename(tmp_path / "broken")
    Ledger(tmp_path).close()


@pytest.mark.promise("G4")
def test_a_service_that_is_killed_at_its_first_start_can_start_again(tmp_path: Path) -> None:
    """Whenever the kill comes: a database that is not complete has no name yet."""
    code = (
        "import os, sqlite_utils, sys, threading\n"
        "from pathlib import Path\n"
        "from shipper.ledger import database\n"
        "apply, left = database._apply, [int(sys.argv[2])]\n"
        "def count(*args):\n"
        "    left[0] -= 1\n"
        "    left[0] >= 0 or os._exit(9)\n"
        "    apply(*args)\n"
        "database._apply = count\n"
        "database.StateDatabase(Path(sys.argv[1]))\n"
    )
    for number in range(3):
        assert python(code, tmp_path, number).returncode == 9
        assert not (tmp_path / database.DATABASE_NAME).exists()
    Ledger(tmp_path).close()
