"""A spool directory that cannot be read costs itself: the service delivers the others."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from pathlib import Path

import pytest

from shipper.audit.audit import run_audit
from shipper.discovery import layout
from shipper.ledger.ledger import Ledger
from shipper.replay.find import Places, find_sources
from shipper.service import ship_once
from shipper.sinks import DEFAULT
from shipper.status.collect import StatusCollector
from shipper.status.summary import summarize
from spooler.spool import segments
from tests.kit.command import lens_ship
from tests.kit.delivery import arrived
from tests.kit.foreign import wandb_file
from tests.kit.processor import Receiver
from tests.kit.shipping import config, goodbye, spool, step
from tests.kit.spools import identity, spool_id


@pytest.mark.promise("G7")
@pytest.mark.parametrize("refused_times", [1, 10**6])
def test_a_folder_that_cannot_be_listed_holds_up_no_other(
    refused_times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, such a folder ended the service: a full table of files, or another user's folder."""
    records = [*(step(number) for number in range(10)), goodbye()]
    closed, _ = spool(tmp_path / "spool", records, who=identity(spool_id(1), workload_uid="closed"))
    spool(tmp_path / "spool", records, who=identity(spool_id(2), workload_uid="open"))
    list_folder, refusals = os.listdir, 0

    def refuse(folder: object = ".") -> list[str]:
        nonlocal refusals
        if str(folder) == str(closed) and refusals < refused_times:
            refusals += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(folder))
        return list_folder(folder)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(segments.os, "listdir", refuse)
    with Receiver(path=tmp_path / "received.sqlite") as receiver:
        settings = config(tmp_path, processor_url=receiver.url)
        pending = ship_once(settings, timeout=60)
        assert sorted(arrived(receiver.store, "open").steps) == list(range(10))
        assert [str(closed) in line for line in pending] == [True]
        monkeypatch.undo()
        assert ship_once(settings, timeout=60) == []
        assert sorted(arrived(receiver.store, "closed").steps) == list(range(10))


def _refusing(monkeypatch: pytest.MonkeyPatch, closed: Path) -> None:
    """Have the system refuse this folder, as it does to another user than the superuser."""
    scan = os.scandir

    def refuse(folder: object = ".") -> object:
        if str(folder) == str(closed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return scan(folder)  # type: ignore[call-overload]

    monkeypatch.setattr(layout.os, "scandir", refuse)


@pytest.mark.promise("G17")
def test_a_closed_folder_on_the_way_to_spools_is_told_by_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, it was passed over: the service sent nothing of it, and all was said to be well."""
    records = [*(step(number) for number in range(10)), goodbye()]
    closed = tmp_path / "spool" / "uid_1000"
    spool(closed, records, who=identity(spool_id(1), workload_uid="closed"))
    spool(tmp_path / "spool", records, who=identity(spool_id(2), workload_uid="open"))
    why = "cannot be read: Permission denied"
    with Receiver(path=tmp_path / "received.sqlite") as receiver:
        settings = config(tmp_path, processor_url=receiver.url)
        _refusing(monkeypatch, closed)
        assert ship_once(settings, timeout=60) == [f"{closed}: {why}"]
        assert sorted(arrived(receiver.store, "open").steps) == list(range(10))
        with StatusCollector(settings) as collector:
            summary = summarize(collector.collect())
        assert summary.action_required
        assert summary.headline.startswith(f"{closed} {why}")
        found: dict[str, str] = {}
        ledger = Ledger(settings.state, exclusive=False)
        run_audit(ledger, settings.spool, DEFAULT, layout.collect_unreadable(found))
        ledger.close()
        assert found == {str(closed): why}
        monkeypatch.undo()
        assert ship_once(settings, timeout=60) == []
        assert sorted(arrived(receiver.store, "closed").steps) == list(range(10))


def test_what_the_disk_keeps_for_itself_is_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A root that is the top of a file system has a folder that only the superuser may enter."""
    (tmp_path / "spool" / "lost+found").mkdir(parents=True)
    _refusing(monkeypatch, tmp_path / "spool" / "lost+found")
    found: dict[str, str] = {}
    assert list(layout.find_spools(tmp_path / "spool", layout.collect_unreadable(found))) == []
    assert found == {}


def test_a_replay_names_the_folder_that_it_could_not_look_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("open", "closed"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
        wandb_file(tmp_path / "wandb" / name / f"run-{name}.wandb", 3)
    closed = tmp_path / "wandb" / "closed"
    _refusing(monkeypatch, closed)
    with closing(Ledger(tmp_path / "state")) as ledger:
        found = find_sources(Places(root=None, paths=(tmp_path / "wandb",)), ledger)
    assert len(found.sources) == 1
    assert found.problems == [f"{closed} cannot be read: Permission denied"]


@pytest.mark.parametrize(
    "words", [["audit"], ["quarantine", "list"], ["replay", "--dry-run"], ["tail"], ["plot"]]
)
def test_a_root_that_is_a_file_is_refused(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    places = {"LENS_SHIP_SPOOL": str(tmp_path / "file"), "LENS_SHIP_STATE": str(tmp_path / "state")}
    done = lens_ship(*words, **places)
    assert (done.code, done.err) == (2, f"lens-ship: {tmp_path}/file is not a directory\n")


def test_the_service_and_status_say_that_a_root_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    places = {"LENS_SHIP_SPOOL": str(tmp_path / "file"), "LENS_SHIP_STATE": str(tmp_path / "state")}
    once = lens_ship("run", "--once", **places)
    assert once.code == 1
    assert f"still pending: {tmp_path}/file: is not a directory" in once.err
    assert "quota" not in once.err, "none is set"
    looked = lens_ship("status", **places)
    assert looked.code == 1
    assert f"▲ {tmp_path}/file is not a directory" in looked.out
    check = lens_ship("check", **places)
    assert check.code == 1
    assert "is not a directory" in " ".join(check.out.split())
    assert "chmod" not in check.out
