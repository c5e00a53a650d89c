"""Of several directories with one id the service ships the one that a process writes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from shipper.service import Service, ship_once
from spooler.spool.reader import Reader
from tests.kit import puppet as puppets
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.images import own_mounts, read_only_view
from tests.kit.puppet import Puppet
from tests.kit.running import running
from tests.kit.shipping import append, config, goodbye, spool, step
from tests.kit.spools import PATIENCE_SECONDS, identity, wait_until

pytestmark = pytest.mark.promise("G4")

RECORDS = [*(step(number) for number in range(20)), goodbye()]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "received.sqlite") as receiver:
        yield receiver
    puppets.close_all()


@pytest.mark.parametrize("when", ["before the service", "while it runs"])
def test_a_living_spool_is_shipped_and_not_its_stale_copy(
    when: str, tmp_path: Path, receiver: FaultyReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """The copy sorts first; once, it was shipped, and the rest of the job was not."""
    if when == "while it runs":
        own_mounts()  # of this thread and those that it starts
    caplog.set_level(logging.INFO)
    given = config(tmp_path, processor_url=receiver.url, rescan_interval=0.2, flush_interval=0.2)
    # Its writer would soon miss a directory that is moved.
    place = {"before the service": given.spool / "job", "while it runs": tmp_path / "elsewhere"}
    job = Puppet(place[when])
    job.do("log(*range(1, 5))")
    copy = given.spool / "a_backup" / job.directory.name
    shutil.copytree(job.directory, copy)
    with running(given), ExitStack() as mounted:
        wait_until(lambda: "shipping spool" in caplog.text)
        if when == "while it runs":
            mounted.enter_context(read_only_view(place[when], given.spool / "job"))
        wait_until(lambda: "of which it is a copy" in reasons(caplog))
        job.do("log(*range(5, 10))")
        wait_until(lambda: len(arrived(receiver.store, "w").steps) == 10)
    assert copy.exists(), "it is left as it is"


def reasons(caplog: pytest.LogCaptureFixture) -> str:
    found = [getattr(record, "fields", {}).get("reason", "") for record in caplog.records]
    return "\n".join(map(str, found))


def test_of_two_that_nobody_writes_the_longer_one_is_shipped(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    given = config(tmp_path, processor_url=receiver.url)
    directory, writer = spool(given.spool, RECORDS[:5], who=identity(workload_uid="w"), close=False)
    copy = given.spool / "a_backup" / directory.name
    shutil.copytree(directory, copy)
    append(writer, RECORDS[5:])
    writer.close()
    ship_once(given, timeout=PATIENCE_SECONDS)
    assert len(arrived(receiver.store, "w").steps) == 20


def test_a_living_spool_is_not_replaced_by_a_longer_one(
    tmp_path: Path, receiver: FaultyReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have been made to be longer."""
    given = config(tmp_path, processor_url=receiver.url, rescan_interval=0.2, flush_interval=0.2)
    job = Puppet(given.spool / "job")
    with running(given):
        wait_until(lambda: arrived(receiver.store, "w").steps)
        who = replace(Reader(job.directory).identity(), workload_uid="x")
        spool(given.spool / "a_forged", RECORDS, who=who)
        wait_until(lambda: "of which it is a copy" in reasons(caplog))
        job.do("log(*range(1, 5))")
        wait_until(lambda: len(arrived(receiver.store, "w").steps) == 5)
    assert arrived(receiver.store, "x").steps == {}


def test_the_same_directory_by_two_paths_below_the_root_is_shipped_once(
    tmp_path: Path, receiver: FaultyReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    given = config(tmp_path, processor_url=receiver.url)
    spool(given.spool, RECORDS, who=identity(workload_uid="w"))
    with read_only_view(given.spool / "node_0", given.spool / "view"):
        service = Service(given)
        for _ in range(3):
            service.scan()
            service.app.scanner.scan_if_due()
        assert service.app.scanner.unreadable == {}
        service.app.close()
    assert [one.getMessage() for one in caplog.records] == []
