"""The limit of the root with a real service: what goes, what stays, and the account of both."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shipper.app import App
from shipper.audit.account import Account
from shipper.audit.audit import run_audit
from shipper.delivery.pipeline import DeliveryContext, Pipeline
from shipper.ledger.ledger import Gap, Ledger
from shipper.ledger.ranges import merged, without
from shipper.retention import cleaner as tidying_module
from shipper.service import Service, ship_once
from shipper.sinks import DEFAULT
from spooler.spool import format as fmt
from spooler.spool.filesystem import bytes_in
from tests.kit import spools
from tests.kit.delivery import arrived, settings
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.running import ship_until
from tests.kit.shipping import OwnedReader, ScriptedSink, config, goodbye, spool, step

PAD = "x" * 1500
STEPS = 200


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "receiver.sqlite") as one:
        yield one


class Root:
    """A root with the spools of ended processes, and the settings of its service."""

    def __init__(self, folder: Path, receiver: FaultyReceiver) -> None:
        self.folder = folder
        self.receiver = receiver
        self.root = folder / "spool"
        self.directories: list[Path] = []

    def spool(self, workload: str, count: int = STEPS) -> Path:
        """Segments of 20 records each, the last a goodbye."""
        who = spools.identity(spools.spool_id(len(self.directories)), workload_uid=workload)
        records = [step(number, loss=number, text=PAD) for number in range(count)]
        directory, _ = spool(self.root, [*records, goodbye()], who=who, segment_records=20)
        self.directories.append(directory)
        return directory

    @property
    def used(self) -> int:
        return sum(bytes_in(path) for path in self.directories if path.is_dir())

    def config(self, **more: Any) -> Any:
        return settings(
            self.root,
            self.folder / "state",
            self.receiver.url,
            **{"flush_interval": 0.05, "drop_non_numeric": True, **more},
        )

    def accounts(self) -> list[Account]:
        ledger = Ledger(self.config().state, exclusive=False)
        try:
            return run_audit(ledger, self.root, DEFAULT)
        finally:
            ledger.close()

    def arrived(self, workload: str) -> list[int]:
        return arrived(self.receiver.store, workload).order


@pytest.fixture
def root(tmp_path: Path, receiver: FaultyReceiver) -> Root:
    return Root(tmp_path, receiver)


@contextmanager
def tidied(config: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A service that runs and tidies all the time; the event is set when it has done so anew."""
    done = threading.Event()
    monkeypatch.setattr(tidying_module, "CLEAN_SECONDS", 0.02)
    tidy = App.clean

    def and_tell(self: App) -> None:
        tidy(self)
        done.set()

    monkeypatch.setattr(App, "clean", and_tell)
    service = Service(config)
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        yield done
    finally:
        service.stop()
        thread.join(spools.PATIENCE_SECONDS)
        assert not thread.is_alive()


def wait(event: threading.Event, times: int = 3) -> None:
    for _ in range(times):
        event.clear()
        assert event.wait(spools.PATIENCE_SECONDS)


@pytest.mark.promise("G11")
def test_with_drop_newest_nothing_undelivered_goes_and_writers_are_told(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.spool("w")
    before, marker = root.used, root.root / fmt.ROOT_FULL_NAME
    root.receiver.go_away()
    with tidied(root.config(root_bytes=before // 2), monkeypatch) as done:
        wait(done)
        assert marker.exists()
        assert root.used == before
        root.receiver.come_back()
        spools.wait_until(lambda: len(root.arrived("w")) >= STEPS)
        spools.wait_until(lambda: not marker.exists())
        assert root.used <= before // 2
    assert root.arrived("w") == list(range(STEPS))
    assert all(account.balances and not account.dropped_by_policy for account in root.accounts())
    assert not marker.exists()


@pytest.mark.promise("G11")
def test_a_service_that_stops_leaves_nobody_waiting(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.spool("w")
    root.receiver.go_away()
    marker = root.root / fmt.ROOT_FULL_NAME
    with tidied(root.config(root_bytes=1000), monkeypatch) as done:
        wait(done)
        assert marker.exists()
    assert not marker.exists()


@pytest.mark.promise("G11")
def test_with_drop_oldest_the_oldest_go_and_the_rest_arrives_in_order(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.spool("w")
    limit = root.used // 2
    root.receiver.go_away()
    with tidied(root.config(root_bytes=limit, when_full="drop-oldest"), monkeypatch):
        spools.wait_until(lambda: root.used <= limit)
        root.receiver.come_back()
        root.receiver.wait_for(lambda seen: any(post.answered for post in seen))
    ship_once(root.config(), timeout=spools.PATIENCE_SECONDS)
    order = root.arrived("w")
    assert order == list(range(order[0], STEPS))
    assert order[0] > 0
    accounts = {account.sink: account for account in root.accounts()}
    assert all(account.balances for account in accounts.values())
    main = accounts["processor"]
    assert main.dropped_by_policy == {"root-cap": order[0]}
    assert (main.corrupt, main.unaccounted) == (0, 0)
    assert main.delivered == STEPS - order[0]


@pytest.mark.promise("G11")
@pytest.mark.parametrize("policy", ["drop-newest", "drop-oldest"])
def test_what_is_delivered_goes_first_whatever_retention_says(root: Root, policy: str) -> None:
    delivered = root.spool("done")
    ship_once(root.config(), timeout=spools.PATIENCE_SECONDS)
    assert delivered.is_dir()
    kept = root.spool("waiting")
    root.receiver.go_away()
    config = root.config(root_bytes=bytes_in(kept) * 5 // 4, when_full=policy)
    ship_until(config, lambda _: not delivered.is_dir())
    assert not delivered.is_dir()
    assert spools.read(kept).seqs == list(range(1, STEPS + 2))
    assert not any(account.dropped_by_policy for account in root.accounts())


@pytest.mark.promise("G11")
def test_what_is_delivered_goes_first_in_a_service_that_has_just_begun(root: Root) -> None:
    delivered = root.spool("done")
    ship_once(root.config(), timeout=spools.PATIENCE_SECONDS)
    kept = root.spool("waiting")
    limit = bytes_in(kept) * 5 // 4
    service = Service(root.config(root_bytes=limit, when_full="drop-oldest"))
    service.app.scanner.scan_if_due()
    service.app.clean()
    service.app.ledger.close()
    assert bytes_in(delivered) < bytes_in(kept) // 4
    assert spools.read(kept).seqs == list(range(1, STEPS + 2))


@pytest.mark.promise("G11")
def test_what_was_refused_stays_counted_when_the_word_of_it_is_dropped(root: Root) -> None:
    who = spools.identity(workload_uid="w")
    gap = {"time": 1.0, "reason": "disk-full", "count": 7, "first": 1.0, "last": 2.0}
    records = [step(number, loss=number, text=PAD) for number in range(STEPS)]
    spool(root.root, [("gap", gap), *records, goodbye()], who=who, segment_records=20)
    service = Service(root.config(root_bytes=1000, when_full="drop-oldest"))
    service.app.scanner.scan_if_due()
    service.app.clean()
    service.app.ledger.close()
    for account in root.accounts():
        assert account.balances
        assert account.dropped_by_policy
        assert account.dropped_by_producer == {"disk-full": 7}


@pytest.mark.promise("G11")
@pytest.mark.parametrize("limit", [None, 100_000])
def test_a_spool_near_its_own_limit_is_freed_of_what_is_delivered(
    root: Root, limit: int | None
) -> None:
    who = spools.identity(workload_uid="w", max_bytes=limit)
    records = [step(number, loss=number, text=PAD) for number in range(STEPS)]
    directory, writer = spool(root.root, records, who=who, close=False, segment_records=20)
    before = bytes_in(directory)
    assert ship_once(root.config(), timeout=spools.PATIENCE_SECONDS) == []
    if limit is None:
        assert bytes_in(directory) == before
    else:
        assert bytes_in(directory) < limit
    assert all(account.balances and not account.dropped_by_policy for account in root.accounts())
    writer.close()


@pytest.mark.promise("G11")
def test_a_route_writes_down_which_records_are_settled_ahead(tmp_path: Path) -> None:
    records = [step(0, run="a", closed=False)]
    records += [step(number, run="b") for number in range(3)]
    directory, _ = spool(tmp_path / "spool", records)
    own = config(tmp_path, flush_interval=1000.0)
    ledger = Ledger(own.state)
    route = Pipeline(
        reader=OwnedReader(directory),
        identity=spools.identity(workload_uid="w"),
        sink=ScriptedSink(own),
        context=DeliveryContext(ledger=ledger, config=own),
    )
    route.turn(now=lambda: 0.0, until=1.0, owned=True, flush_all=False)
    assert ledger.position(directory.name, "processor") == route.position
    assert route.position.seq == 0
    assert route.position.acked_seqs == {2, 3, 4}
    ledger.close()


@pytest.mark.promise("G11")
def test_nothing_goes_while_a_lane_has_a_turn(root: Root) -> None:
    directory = root.spool("w")
    service = Service(root.config(root_bytes=1000, when_full="drop-oldest"))
    service.app.scanner.scan_if_due()
    key = service.app.scheduler.take(("processor", False))
    assert key is not None
    service.app.clean()
    assert spools.read(directory).seqs == list(range(1, STEPS + 2))
    service.app.scheduler.release(key)
    service.app.clean()
    assert not directory.is_dir()
    service.app.ledger.close()


@pytest.mark.promise("G11")
def test_a_lane_that_stays_in_the_way_does_not_let_the_root_grow(root: Root) -> None:
    """It may be waiting for an answer for minutes: then new records have to wait."""
    root.spool("w")
    marker = root.root / fmt.ROOT_FULL_NAME
    service = Service(root.config(root_bytes=1000, when_full="drop-oldest"))
    service.app.scanner.scan_if_due()
    key = service.app.scheduler.take(("processor", False))
    assert key is not None
    service.app.clean()
    assert not marker.exists()
    service.app.clean()
    assert marker.exists()
    service.app.scheduler.release(key)
    service.app.clean()
    assert not marker.exists()
    service.app.ledger.close()


@pytest.mark.promise("G11")
def test_a_death_before_the_file_is_gone_delivers_nothing_twice_and_counts_nothing_twice(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.spool("w")
    service = Service(root.config(root_bytes=root.used // 2, when_full="drop-oldest"))
    service.app.scanner.scan_if_due()
    monkeypatch.setattr(service.app.cleaner, "_delete", lambda segment, why: None)
    service.app.clean()
    for (sink, _), lane in service.app.queues.items():
        (route,) = lane.pipelines()
        assert route.position.seq > 0
        assert route.position == service.app.ledger.position(route.identity.spool, sink)
    service.app.ledger.close()
    ship_once(root.config(), timeout=spools.PATIENCE_SECONDS)
    order = root.arrived("w")
    (account,) = (one for one in root.accounts() if one.sink == "processor")
    assert account.balances
    assert account.dropped_by_policy == {"root-cap": STEPS - len(order)}
    assert order == list(range(STEPS - len(order), STEPS))


@pytest.mark.promise("G11")
@pytest.mark.parametrize("met", [False, True])
def test_what_the_writer_deleted_is_evicted_and_not_corrupt(root: Root, met: bool) -> None:
    who = spools.identity(workload_uid="w")
    records = [step(number, loss=number, text=PAD) for number in range(STEPS)]
    root.root.mkdir()
    directory, _ = spool(
        root.root,
        [*records, goodbye()],
        who=who,
        segment_records=20,
        max_bytes=150_000,
        drop_oldest=True,
    )
    root.directories.append(directory)
    if met:
        assert ship_once(root.config(), timeout=spools.PATIENCE_SECONDS) == []
        assert root.arrived("w")[-1] == STEPS - 1
    else:
        Ledger(root.folder / "state").close()
    found = spools.read(directory)
    for account in root.accounts():
        assert account.balances, account
        assert (account.corrupt, account.unaccounted) == (0, 0)
        assert account.dropped_by_policy == {"cap": found.damage[0].last}
        assert account.dropped_by_producer == {}
        assert account.pending == (0 if met else len(found.records))


@pytest.mark.promise("G11")
def test_what_was_settled_ahead_is_not_counted_as_deleted_too(tmp_path: Path) -> None:
    """Two runs that take turns: one is delivered further than the other when the file goes."""
    from shipper.ledger.ledger import CommitDelta, Position
    from spooler.spool.reader import Damage

    ledger = Ledger(tmp_path / "state")
    position = Position(seq=1, acked_by_run={"b": 6}, acked_seqs=frozenset({2, 4, 6}))
    ledger.acknowledge("s", "k", position, CommitDelta(delivered=4))
    assert ledger.add_damage("s", "k", Damage(path="p", first=2, last=5, reason="missing"))
    assert not ledger.add_damage("s", "k", Damage(path="p", first=2, last=5, reason="missing"))
    assert ledger.drop_through("s", "k", 8, path="p", why="root-cap") == 2
    rows = [(row["first"], row["last"], row["reason"]) for row in ledger.damages()]
    assert sorted(rows) == [
        (3, 3, "missing"),
        (5, 5, "missing"),
        (7, 8, "dropped:root-cap"),
    ]
    assert ledger.position("s", "k") == Position(seq=8)
    assert ledger.drop_through("s", "k", 8, path="p", why="root-cap") == 0
    gap = Gap(spool="s", seq=9, reason="cap", count=2, first=2, last=4)
    ledger.add_gap(gap)
    assert ledger.lost_in(gap, "k") == 1
    assert ledger.lost_in(Gap(spool="s", seq=12, reason="cap", count=4, first=2, last=5), "k") == 1
    ledger.close()


def test_ranges_are_what_sets_of_numbers_would_be() -> None:
    assert merged([(5, 6), (1, 2), (3, 3), (9, 8)]) == [(1, 3), (5, 6)]
    assert without([(1, 10)], [(0, 2), (5, 5), (9, 20)]) == [(3, 4), (6, 8)]
