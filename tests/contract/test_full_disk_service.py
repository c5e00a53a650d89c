"""The service on a disk without a free block: it needs none to read and deliver what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.command import lens_ship
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.images import disk
from tests.kit.steady import training

pytestmark = pytest.mark.promise("G1")


# The file system, whether the log's index is left if there is one, bytes that are free.
DISKS = (
    ("ext4", "left", 0),
    ("ext4", "gone", 0),
    ("ext4-1k", "left", 0),
    ("ext4-1k", "gone", 12 * 1024),  # enough to make an index, not to fill it
    ("btrfs", "left", 0),
)


@pytest.mark.parametrize(("kind", "index", "free"), DISKS)
def test_what_dead_writers_left_on_a_full_disk_is_delivered(
    kind: str, index: str, free: int, tmp_path: Path
) -> None:
    with disk(kind, tmp_path) as place:
        root = place.top / "spool"
        with training(root, tmp_path / "answers", WORKLOAD_UID="w") as job:
            job.go_on(600)
            job.kill()
        if index == "gone":
            for path in root.rglob("*-shm"):
                path.unlink()
        place.fill()
        place.release(free)
        with FaultyReceiver(path=tmp_path / "telemetry.sqlite") as receiver:
            ran = lens_ship(
                *("run", "--once", "--spool", str(root)),
                *("--state", str(tmp_path / "state"), "--processor-url", receiver.url),
            )
            assert ran.code == 0, ran.err
            steps, taken = sorted(arrived(receiver.store, "w").steps), job.taken()
            # The last call may have been recorded and not returned.
            assert steps in (taken, [*taken, len(taken)])
