"""A spool folder that cannot be looked into costs itself: the service ships the others."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from shipper.receiver import Receiver
from shipper.service import ship_once
from spooler.spool import segments
from tests.kit.delivery import arrived
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
        pending = ship_once(settings, timeout=30)
        assert sorted(arrived(receiver.store, "open").steps) == list(range(10))
        assert [str(closed) in line for line in pending] == [True]
        monkeypatch.undo()
        assert ship_once(settings, timeout=30) == []
        assert sorted(arrived(receiver.store, "closed").steps) == list(range(10))
