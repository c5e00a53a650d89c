"""Old spools are read, newer ones wait untouched and are delivered later; the page says so."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shipper.ledger.ledger import DATABASE_NAME, LOCK_NAME, Ledger
from shipper.ledger.migrations import STATE_VERSION
from shipper.service import ship_once
from spooler.errors import NewerFormat
from spooler.spool import format as fmt
from spooler.spool.reader import Reader
from tests.kit import spools
from tests.kit.delivery import arrived, settings
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.shipping import finish, goodbye, spool, step

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "upgrading.md").read_text(encoding="utf-8")
NEXT = fmt.FORMAT_VERSION + 1


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "telemetry.sqlite") as one:
        yield one


def of_next_version(directory: Path) -> dict[str, bytes]:
    """Make a spool one of the next format version, sealed; what its files then hold."""
    for path in directory.glob("*.sqlite"):
        with closing(sqlite3.connect(path, isolation_level=None)) as segment:
            segment.execute("PRAGMA journal_mode=DELETE")
            segment.execute(f"PRAGMA user_version={NEXT}")
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def write(root: Path, salt: int, workload: str) -> Path:
    who = spools.identity(spools.spool_id(salt), workload_uid=workload)
    records = [*(step(number) for number in range(25)), finish(), goodbye()]
    return spool(root, records, who=who, segment_records=10)[0]


@pytest.mark.promise("G12")
@pytest.mark.parametrize("retain", [0, 86400])
def test_a_newer_spool_waits_untouched_and_is_delivered_after_the_upgrade(
    tmp_path: Path,
    receiver: FaultyReceiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    retain: int,
) -> None:
    root = tmp_path / "spool"
    newer, today = write(root, 1, "newer"), write(root, 2, "today")
    before = of_next_version(newer)
    config = settings(root, tmp_path / "state", receiver.url, retention_seconds=retain)
    for _ in range(2):
        caplog.clear()
        pending = ship_once(config, timeout=60)
        told = f"format version {NEXT}, this reader knows {fmt.FORMAT_VERSION}"
        assert any(told in line and str(newer) in line for line in pending)
        reasons = [str(getattr(r, "fields", {}).get("reason", "")) for r in caplog.records]
        (logged,) = [reason for reason in reasons if told in reason]
        assert "it is kept untouched: upgrade lens-ship to ship it" in logged
        assert not [line for line in pending if str(today) in line]
        assert {path.name: path.read_bytes() for path in sorted(newer.iterdir())} == before
    assert arrived(receiver.store, "today").order == list(range(25))
    assert arrived(receiver.store, "newer").order == []

    monkeypatch.setattr(fmt, "FORMAT_VERSION", NEXT)
    monkeypatch.setattr(fmt, "SCHEMAS", {**fmt.SCHEMAS, NEXT: fmt.SCHEMA})
    assert ship_once(config, timeout=60) == []
    assert arrived(receiver.store, "newer").order == list(range(25))
    assert arrived(receiver.store, "today").order == list(range(25))
    assert arrived(receiver.store, "today").repeated == {}


@pytest.mark.promise("G12")
def test_the_version_before_is_read_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write(tmp_path, 1, "w")
    monkeypatch.setattr(fmt, "FORMAT_VERSION", NEXT)
    monkeypatch.setattr(fmt, "SCHEMAS", {**fmt.SCHEMAS, NEXT: (*fmt.SCHEMA, "CREATE TABLE t (x)")})
    assert len(spools.read_whole(directory).records) == 27


def test_every_version_that_is_read_has_a_spool_kept_in_the_tree() -> None:
    first = max(1, fmt.FORMAT_VERSION - 1)
    assert set(fmt.SCHEMAS) == set(range(first, fmt.FORMAT_VERSION + 1))
    for version in fmt.SCHEMAS:
        (directory,) = spools.spools_below(TESTS / "golden" / f"spool-v{version}")
        assert Reader(directory).read(0, 100).records
        for segment in directory.glob("*.sqlite"):
            assert int.from_bytes(segment.read_bytes()[60:64], "big") == version


# --- the page -------------------------------------------------------------------------------------


def test_the_page_quotes_what_a_service_says_of_a_newer_spool(tmp_path: Path) -> None:
    directory = write(tmp_path, 1, "w")
    of_next_version(directory)
    with pytest.raises(NewerFormat) as raised:
        Reader(directory).identity()
    quoted = re.search(r"^…/(.+)$", PAGE, re.MULTILINE)
    assert quoted is not None
    assert str(raised.value) == f"{directory}/{quoted[1]}"


def test_the_page_names_every_file_of_the_state_directory(tmp_path: Path) -> None:
    golden = TESTS / "golden" / "state-v1" / DATABASE_NAME
    (tmp_path / DATABASE_NAME).write_bytes(golden.read_bytes())
    with closing(Ledger(tmp_path)):
        names = {path.name for path in tmp_path.iterdir()}
    assert names >= {DATABASE_NAME, LOCK_NAME, f"{DATABASE_NAME}.v1"}
    for name in names:
        told = re.sub(r"\.v\d+$", ".v<version>", name)
        suffix = name.removeprefix(DATABASE_NAME)
        assert f"`<state>/{told}`" in PAGE or f"`{told}`" in PAGE or f"`{suffix}`" in PAGE, name


def test_the_way_back_of_the_page_leads_back(tmp_path: Path, receiver: FaultyReceiver) -> None:
    """Step by step as the page has it; an older release is one that wants the older version."""
    root, state = tmp_path / "spool", tmp_path / "state"
    golden = TESTS / "golden" / "state-v1" / DATABASE_NAME
    state.mkdir()
    (state / DATABASE_NAME).write_bytes(golden.read_bytes())
    write(root, 1, "w")
    config = settings(root, state, receiver.url)
    assert ship_once(config, timeout=60) == []
    aside = tmp_path / "aside"
    aside.mkdir()
    for path in state.glob(f"{DATABASE_NAME}*"):
        if path.name in (DATABASE_NAME, f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm"):
            path.rename(aside / path.name)
    (state / f"{DATABASE_NAME}.v1").rename(state / DATABASE_NAME)
    with closing(sqlite3.connect(state / DATABASE_NAME)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM position").fetchone() == (5,)
    assert STATE_VERSION > 1
    assert ship_once(config, timeout=60) == []
    told = arrived(receiver.store, "w")
    assert set(told.steps) == set(range(25))
    assert set(told.repeated.values()) == {1}, "what was delivered since is sent again, once"
