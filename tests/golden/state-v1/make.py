"""Makes the state database of version 1 with the lens-ship that this interpreter imports.

    PYTHONPATH=<a checkout of lens-ship 0.1.0 before state version 2> python make.py FOLDER

The service ships a spool whose records are good, damaged, missing, of no use and refused; replay
sends it again; a second spool stays half done. Made once, with the last commit of state version 1,
and never again.
"""

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from shipper.ledger.ledger import Ledger, Position, Settled
from shipper.service import ship_once
from spooler.records import gap
from tests.kit import spools
from tests.kit.delivery import settings
from tests.kit.processor import Receiver
from tests.kit.shipping import detection, finish, goodbye, spool, step

DONE = "20260101T000000-17-0badcafe"
HALF = "20260101T000100-18-0badcafe"


def records():
    """Good, refused (a step that the receiver cannot hold), lost and deleted ones."""
    lost = gap.encode(time=1.7e9, reason="disk-full", count=5, first=1.69e9, last=1.7e9)
    yield detection()
    for number in range(12):
        yield step(number)
        yield step(100 + number, run="other")
    yield step(2**40)
    yield "gap", lost
    yield finish()
    yield goodbye()


def ship(folder, url):
    who = spools.identity(DONE, workload_uid="golden", pid=17)
    directory, _ = spool(folder / "spool", records(), who=who, segment_records=10)
    with closing(sqlite3.connect(directory / "00000001.sqlite")) as segment:
        segment.execute("UPDATE record SET checksum = checksum + 1 WHERE seq = 5")
        segment.execute("DELETE FROM record WHERE seq = 7")
        segment.commit()
    assert ship_once(settings(folder / "spool", folder / "state", url), timeout=60) == []
    again = [sys.executable, "-m", "shipper", "replay", "--resend-delivered"]
    place = ["--spool", folder / "spool", "--state", folder / "state", "--processor-url", url]
    subprocess.run([*again, *place, "--run", "r"], check=True)


def half(folder):
    with closing(Ledger(folder / "state")) as ledger:
        identity = spools.identity(HALF, pod_name="pod-1", pid=18).to_map()
        ledger.remember_spool(HALF, Path("/spool/node_0/rank_0") / HALF, identity)
        ledger.remember_workload(HALF, "looked-up")
        ahead = Position(seq=40, ahead={"r": 44}, early=frozenset({42, 44}))
        ledger.acknowledge(HALF, "processor", ahead, Settled(delivered=38, passed=2, requests=3))
        ledger.begin_replay(HALF, "processor~0123456789ab~1")


def main(target):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Receiver(path=folder / "telemetry.sqlite") as receiver:
            ship(folder, receiver.url)
        half(folder)
        with closing(sqlite3.connect(folder / "state" / "ledger.sqlite")) as database:
            database.execute("UPDATE spool SET directory = '/spool/node_0/rank_0/' || id")
            database.execute("UPDATE damage SET path = '/spool/' || substr(path, -14)")
            database.execute(f"UPDATE replay SET directory = '/spool/{DONE}' WHERE ended > 0")
            database.commit()
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(folder / "state" / "ledger.sqlite", target / "ledger.sqlite")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
