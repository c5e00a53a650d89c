"""What was known and is not there any more is unaccounted, and said; what is moved is not lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shipper.ledger.ledger import Ledger
from shipper.service import Service
from tests.kit.command import Ran, lens_ship
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.images import read_only_view
from tests.kit.running import failing, ship_until
from tests.kit.shipping import append, config, goodbye, spool, step
from tests.kit.spools import identity, spool_id

pytestmark = pytest.mark.promise("G17")

RECORDS = [*(step(number) for number in range(20)), goodbye()]


class Node:
    """A root, a state and a receiver, for commands."""

    def __init__(self, folder: Path, receiver: FaultyReceiver) -> None:
        self.root = folder / "spool"
        self.state = folder / "state"
        self.receiver = receiver

    def command(self, *words: str) -> Ran:
        return lens_ship(
            *words,
            LENS_SHIP_SPOOL=str(self.root),
            LENS_SHIP_STATE=str(self.state),
            LENS_SHIP_PROCESSOR_URL=self.receiver.url,
            LENS_SHIP_SAVE_LOCAL="false",  # what is delivered is deleted at once
        )

    def run(self) -> Ran:
        return self.command("run", "--once")

    def audit(self, *words: str) -> tuple[int, dict[str, Any]]:
        """The exit code, and the sums of the processor."""
        ran = self.command("audit", "--json", *words)
        return ran.code, json.loads(ran.out)["totals"].get("processor", {})

    def leave_pending(self) -> Path:
        """One spool that is known, with nothing delivered."""
        self.receiver.go_away()
        directory, _ = spool(self.root, RECORDS, who=identity(workload_uid="w"))
        given = {"spool": self.root, "state": self.state, "processor_url": self.receiver.url}
        assert ship_until(config(self.state.parent, **given), failing) != []
        self.receiver.come_back()
        return directory


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with FaultyReceiver(path=tmp_path / "received.sqlite") as receiver:
        yield Node(tmp_path, receiver)


def test_spools_that_were_wiped_are_unaccounted_until_they_are_back(
    node: Node, tmp_path: Path
) -> None:
    """Once: exit 0, every record is accounted for."""
    directory = node.leave_pending()
    shutil.copytree(directory, tmp_path / "backup")
    shutil.rmtree(directory)
    for _ in range(2):
        code, sums = node.audit()
        assert (code, sums["unaccounted"], sums["written"]) == (1, 21, 21)
        status = node.command("status", "--json")
        assert status.code != 0
        assert json.loads(status.out)["missing"] == {str(directory): 21}
        ran = node.run()
        assert ran.code == 1
        assert f"{directory}: gone, with 21 records" in ran.err
    shutil.copytree(tmp_path / "backup", directory)
    assert node.run().code == 0
    assert len(arrived(node.receiver.store, "w").steps) == 20
    code, sums = node.audit()
    assert (code, sums["unaccounted"], sums["delivered"]) == (0, 0, 20)
    assert node.command("status").code == 0


def test_what_is_accepted_as_missing_counts_as_dropped(node: Node) -> None:
    shutil.rmtree(node.leave_pending())
    code, sums = node.audit("--accept-missing")
    assert (code, sums["unaccounted"], sums["dropped_by_policy"]) == (0, 0, {"gone": 21})
    assert node.command("status").code == 0
    assert node.run().code == 0


def test_what_a_second_service_delivered_and_deleted_is_missed_by_the_first(node: Node) -> None:
    node.leave_pending()
    mine, node.state = node.state, node.state.with_name("another")
    assert node.run().code == 0
    assert node.audit()[0] == 0
    node.state = mine
    code, sums = node.audit()
    assert (code, sums["unaccounted"]) == (1, 21)


def test_what_was_deleted_since_an_older_state_is_missed_by_it(node: Node, tmp_path: Path) -> None:
    node.leave_pending()
    shutil.copytree(node.state, tmp_path / "older")
    assert node.run().code == 0
    assert node.audit()[0] == 0
    node.state = tmp_path / "older"
    code, sums = node.audit()
    assert (code, sums["unaccounted"]) == (1, 21)


def test_what_was_delivered_may_be_deleted_by_anybody(node: Node) -> None:
    who = identity(workload_uid="w")
    directory, writer = spool(node.root, RECORDS[:5], who=who, close=False)
    node.run()
    shutil.rmtree(directory)
    code, sums = node.audit()
    assert (code, sums["unaccounted"], sums["delivered"]) == (0, 0, 5)
    writer.close()


def test_a_spool_that_is_not_shipped_owes_nothing(node: Node) -> None:
    who = identity(workload_uid="w", api_reporting=False)
    directory, _ = spool(node.root, RECORDS, who=who)
    assert node.run().code == 0
    shutil.rmtree(directory)
    assert node.audit()[0] == 0
    assert node.command("status").code == 0


def test_what_a_spool_has_grown_to_is_known_when_it_is_wiped(node: Node, tmp_path: Path) -> None:
    node.receiver.go_away()
    who = identity(workload_uid="w")
    directory, writer = spool(node.root, RECORDS[:5], who=who, close=False)
    given = replace(config(tmp_path), processor_url=node.receiver.url)
    service = Service(given)
    service.app.scanner.scan_if_due()
    append(writer, RECORDS[5:])
    service.app.clean()
    service.app.ledger.close()
    shutil.rmtree(directory)
    code, sums = node.audit()
    assert (code, sums["unaccounted"]) == (1, 21)
    writer.close()


def as_it_is(root: Path) -> Path:
    return root


def by_a_link(root: Path) -> Path:
    link = root.with_name("link")
    link.symlink_to(root)
    return link


def relative(root: Path) -> Path:
    return Path(os.path.relpath(root))


def moved(root: Path) -> Path:
    return root.rename(root.with_name("moved"))


Change = Callable[[Path], Path]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (as_it_is, by_a_link),
        (by_a_link, as_it_is),
        (as_it_is, relative),
        (relative, as_it_is),
        (as_it_is, moved),
    ],
)
def test_a_root_by_another_path_is_the_same_root(node: Node, before: Change, after: Change) -> None:
    """Once, each spool had "the id of …, which was there first", and was not shipped."""
    root = node.root
    root.mkdir()
    node.root = before(root)
    node.leave_pending()
    node.root = after(root)
    code, sums = node.audit()
    assert (code, sums["unaccounted"], sums["pending"]) == (0, 0, 21)
    ran = node.run()
    assert ran.code == 0, ran.err
    assert "has the id of" not in ran.err
    assert len(arrived(node.receiver.store, "w").steps) == 20
    assert node.audit()[0] == 0


def test_a_root_that_is_mounted_in_another_place_is_the_same_root(
    node: Node, tmp_path: Path
) -> None:
    node.leave_pending()
    with read_only_view(node.root, tmp_path / "view") as view:
        # A process of its own has its own mounts: the service runs in this one.
        given = config(tmp_path, spool=view, processor_url=node.receiver.url)
        service = Service(given, once=True)
        service.run()
        assert service.app.scanner.unreadable == {}
    assert len(arrived(node.receiver.store, "w").steps) == 20


def test_a_deleted_spool_keeps_its_accounts_when_its_id_is_used_again(node: Node) -> None:
    """By another process, by accident or in a shared root on purpose."""
    name = spool_id(1)
    spool(node.root, RECORDS, who=identity(name, workload_uid="w"))
    assert node.run().code == 0
    other = identity(name, workload_uid="other", created=1.0, host="elsewhere", boot_id="another")
    directory, _ = spool(node.root, RECORDS * 3, who=other)
    ran = node.run()
    assert ran.code == 1
    assert f"{directory}: has the id of a spool that another process wrote" in ran.err
    assert arrived(node.receiver.store, "other").steps == {}
    accounts = json.loads(node.command("audit", "--json").out)["accounts"]
    mine, theirs = [one for one in accounts if one["sink"] == "processor"]
    assert (mine["delivered"], mine["written"], mine["pending"]) == (20, 21, 0)
    assert (theirs["delivered"], theirs["written"], theirs["pending"]) == (0, 63, 63)


def test_a_deleted_spool_that_is_restored_is_the_same_spool(node: Node, tmp_path: Path) -> None:
    directory, _ = spool(node.root, RECORDS, who=identity(workload_uid="w"))
    shutil.copytree(directory, tmp_path / "backup")
    assert node.run().code == 0
    assert not directory.exists()
    shutil.copytree(tmp_path / "backup", directory)
    assert node.audit()[0] == 0
    assert node.run().code == 0
    assert arrived(node.receiver.store, "w").repeated == {}
    code, sums = node.audit()
    assert (code, sums["delivered"], sums["written"]) == (0, 20, 21)
    with closing(Ledger(node.state, exclusive=False)) as ledger:
        assert len(ledger.spools()) == 1
