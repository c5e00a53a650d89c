"""The spool root is not there for a while: what was pending is delivered once it is back."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from spooler.spool.reader import Reader
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.images import disk
from tests.kit.running import running
from tests.kit.shipping import ALIVE, config, goodbye, spool, step
from tests.kit.spools import environment, identity, spool_id, wait_until

RUN = (
    "from shipper.delivery import queue\n"
    "from shipper.cli import main\n"
    "queue.RETRY_SECONDS = 0.5\n"
    "main()"
)
RECORDS = [*(step(number) for number in range(20)), goodbye()]


class Moved:
    """A root that is renamed and gets its name back."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "spool"
        self.root.mkdir()

    def go(self) -> None:
        self.root.rename(self.root.with_name("away"))

    def come_back(self) -> None:
        self.root.with_name("away").rename(self.root)

    def end(self) -> None:
        """Nothing is left to undo."""


class Replaced(Moved):
    """As `Moved`, with an empty directory in its place meanwhile."""

    def go(self) -> None:
        super().go()
        self.root.mkdir()

    def come_back(self) -> None:
        self.root.rmdir()
        super().come_back()


class Unmounted(Moved):
    """The top of a file system that is unmounted and mounted again."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self._disk = self._stack.enter_context(disk("ext4", folder))
        self.root = self._disk.top.parent

    def go(self) -> None:
        self._disk.unmount()

    def come_back(self) -> None:
        self._disk.mount()

    def end(self) -> None:
        self._stack.close()


@pytest.mark.promise("G4")
@pytest.mark.promise("G17")
@pytest.mark.parametrize("kind", [Moved, Replaced, Unmounted])
def test_what_was_pending_when_the_root_went_away_is_delivered_when_it_is_back(
    kind: type[Moved], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, its spools were taken for ended, and only a restart delivered them."""
    caplog.set_level(logging.INFO)
    place = kind(tmp_path)
    with FaultyReceiver(path=tmp_path / "received.sqlite") as receiver:
        given = config(
            tmp_path,
            spool=place.root,
            processor_url=receiver.url,
            flush_interval=0.1,
            max_backoff=1,
        )
        receiver.go_away()
        spool(place.root, RECORDS, who=identity(workload_uid="w"))
        try:
            with running(given):
                wait_until(lambda: "sink paused" in caplog.text)
                place.go()
                wait_until(lambda: "spools are not there any more" in caplog.text)
                receiver.come_back()
                place.come_back()
                wait_until(lambda: len(arrived(receiver.store, "w").steps) == 20)
        finally:
            place.end()
    assert "unclean exit" not in caplog.text


def test_a_root_that_is_made_again_is_watched_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, its first spool waited for the next scan: the kernel watched the one before."""
    with FaultyReceiver(path=tmp_path / "received.sqlite") as receiver:
        hour = 3600.0
        given = config(tmp_path, processor_url=receiver.url, rescan_interval=hour)
        spool(given.spool, RECORDS, who=identity(spool_id(1), workload_uid="a"))
        with running(given):
            wait_until(lambda: len(arrived(receiver.store, "a").steps) == 20)
            for salt, name in ((2, "b"), (3, "c")):
                shutil.rmtree(given.spool)
                spool(given.spool, RECORDS, who=identity(spool_id(salt), workload_uid=name))
                wait_until(lambda name=name: len(arrived(receiver.store, name).steps) == 20)


@pytest.mark.promise("G16")
def test_a_folder_that_cannot_be_seen_proves_no_death(tmp_path: Path) -> None:
    directory, _ = spool(tmp_path / "spool", RECORDS)
    reader = Reader(directory)
    assert not reader.is_owned()
    directory.rename(tmp_path / "away")
    assert reader.liveness() == ALIVE
    assert reader.is_unclean() is None
    (tmp_path / "away").rename(directory)
    assert reader.liveness().certain


@pytest.mark.promise("G4")
def test_what_was_pending_when_the_root_was_closed_is_delivered_when_it_is_open(
    tmp_path: Path,
) -> None:
    """By `chmod`, which shuts out every service but that of the superuser."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv, to give up what opens every directory")
    root = tmp_path / "spool"
    spool(root, RECORDS, who=identity(workload_uid="w"))
    with FaultyReceiver(path=tmp_path / "received.sqlite") as receiver:
        receiver.go_away()
        with subprocess.Popen(
            [
                *("setpriv", "--bounding-set=-dac_override,-dac_read_search"),
                *(sys.executable, "-c", RUN, "run", "--spool", str(root)),
                *("--state", str(tmp_path / "state"), "--processor-url", receiver.url),
                *("--rescan-interval", "0.2"),
            ],
            env={**environment(), "LENS_SHIP_HTTP_LISTEN": "off"},
            stderr=subprocess.PIPE,
            text=True,
        ) as service:
            assert service.stderr is not None
            said = iter(service.stderr)
            try:
                assert any("sink paused" in line for line in said)
                root.chmod(0)
                left = {"directory cannot be read", "spool cannot be shipped, retrying"}
                while left:  # the scan or the turn is first
                    line = next(said)
                    left = {event for event in left if event not in line}
                receiver.come_back()  # not before: a turn that has read already would deliver
                root.chmod(0o755)
                wait_until(lambda: len(arrived(receiver.store, "w").steps) == 20)
            finally:
                service.terminate()
            assert service.wait() == 0
