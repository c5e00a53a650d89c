"""Network file systems are told from local ones by the kernel's table of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from spooler.spool.filesystem import file_system_of

MOUNTS = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:26 / /shared rw - nfs4 server:/export rw,vers=4.2
31 30 0:27 / /shared/local rw - xfs /dev/sdb rw
32 22 0:28 / /lustre rw - lustre mgs@tcp:/fs rw
33 22 0:29 / /with\\040space rw - cifs //server/share rw
34 22 0:30 / /s3 rw - fuse.s3fs s3fs rw
35 22 0:31 / /over rw - overlay overlay rw
36 22 0:32 / /rootless rw - fuse.fuse-overlayfs fuse-overlayfs rw
37 22 0:33 / /twice rw - ext4 /dev/sdc rw
38 37 0:34 / /twice rw - nfs server:/other rw
a line that is none
"""


@pytest.mark.parametrize(
    ("path", "kind", "wal"),
    [
        ("/var/spool/lens-ship", "ext4", True),
        ("/shared/metrics/node_0", "nfs4", False),
        ("/sharedmetrics", "ext4", True),
        ("/shared/local/x", "xfs", True),
        ("/lustre/a", "lustre", False),
        ("/with space/a", "cifs", False),
        ("/s3", "fuse.s3fs", False),
        ("/over/lay", "overlay", True),
        ("/rootless/x", "fuse.fuse-overlayfs", True),
        ("/twice/a", "nfs", False),
    ],
)
def test_the_deepest_and_latest_mount_tells_the_type(path: str, kind: str, wal: bool) -> None:
    found = file_system_of(Path(path), MOUNTS)
    assert (found.type, found.is_local) == (kind, wal)


def test_without_a_table_a_path_counts_as_local() -> None:
    found = file_system_of(Path("/anything"), "")
    assert found.type == ""
    assert found.is_local


def test_the_kernels_own_table_can_be_read(tmp_path: Path) -> None:
    found = file_system_of(tmp_path / "not" / "there")
    assert found.type
    assert found.is_local
