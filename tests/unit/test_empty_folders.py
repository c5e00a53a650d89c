"""Folders of nodes and ranks go with their last spool, and no writer is stopped by that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shipper.discovery import layout
from shipper.discovery.layout import find_spools
from spooler.config import Limits
from spooler.spool.layout import make_directories
from spooler.spool.reader import Reader
from tests.kit import spools
from tests.kit.shipping import spool, step

POD = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"


def test_folders_go_with_the_last_spool_but_not_that_of_the_pod(tmp_path: Path) -> None:
    pod = tmp_path / POD
    first, _ = spool(pod, [step(1)], who=spools.identity(spools.spool_id(1)))
    second, _ = spool(pod, [step(1)], who=spools.identity(spools.spool_id(2)))
    assert first.parent == second.parent == pod / "node_0" / "rank_0"
    Reader(first).delete_spool()
    assert second.is_dir()
    Reader(second).delete_spool()
    assert list(tmp_path.iterdir()) == [pod]
    assert list(pod.iterdir()) == []
    third, writer = spool(pod, [step(1)], who=spools.identity(spools.spool_id(3)), close=False)
    assert list(find_spools(tmp_path)) == [third]
    writer.close()


def test_what_is_not_a_spool_keeps_its_folder(tmp_path: Path) -> None:
    directory, _ = spool(tmp_path, [step(1)])
    (directory.parent / "wandb_metrics.jsonl").write_text("{}")
    Reader(directory).delete_spool()
    assert (tmp_path / "node_0" / "rank_0" / "wandb_metrics.jsonl").exists()


def test_a_folder_of_another_name_stays(tmp_path: Path) -> None:
    directory, _ = spool(tmp_path, [step(1)])
    moved = tmp_path / "mine" / directory.name
    moved.parent.mkdir()
    directory.rename(moved)
    Reader(moved).delete_spool()
    assert moved.parent.is_dir()


_REMOVE = """
import os, random, sys, time
turn, removed, *folders = sys.argv[1:]
turn = os.open(turn, os.O_RDONLY)
seen, left = b"", 0
while True:
    time.sleep(random.random() / 2000)
    number = os.pread(turn, 9, 0)
    if number != seen:
        seen, left = number, 10
    for folder in folders if left > 0 else ():
        try:
            os.rmdir(folder)
        except OSError:
            continue
        left -= 1
        os.close(os.open(removed, os.O_CREAT))
"""


def test_a_writer_makes_its_folders_however_often_they_are_removed(tmp_path: Path) -> None:
    """Another process removes them thousands of times a second, the service now and then.

    For each spool it does so about a dozen times: a writer tries more often, however slow it is.
    """
    root, turn, removed = tmp_path / "root", tmp_path / "turn", tmp_path / "removed"
    folders = [str(root / "node_0" / "rank_0"), str(root / "node_0")]
    turn.write_text("")
    command = [sys.executable, "-c", _REMOVE, str(turn), str(removed), *folders]
    with subprocess.Popen(command) as remover, turn.open("r+b", buffering=0) as now:
        try:
            number = 0
            while number < 300 or not removed.exists():
                os.pwrite(now.fileno(), b"%9d" % number, 0)
                name = f"spool-{number}"
                make_directories(root, ("node_0", "rank_0", name), Limits())
                made = root / "node_0" / "rank_0" / name
                assert made.is_dir()
                made.rmdir()
                number += 1
        finally:
            remover.kill()


@pytest.mark.parametrize(("mode", "found"), [(0o755, 3), (0o3777, 2)])
def test_only_a_root_that_any_user_can_write_to_is_read_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, found: int
) -> None:
    monkeypatch.setattr(layout, "MOST_ENTRIES", 2)
    for number in range(3):
        (tmp_path / spools.spool_id(number)).mkdir()
    tmp_path.chmod(mode)
    assert len(list(find_spools(tmp_path))) == found
