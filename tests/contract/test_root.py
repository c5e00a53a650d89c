"""A spool root that does not exist yet, and a kernel that gives no inotify instance."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shipper.service import Service
from tests.kit.command import lens_ship
from tests.kit.delivery import arrived
from tests.kit.processor import Receiver
from tests.kit.shipping import config, goodbye, spool, step
from tests.kit.spools import PATIENCE_SECONDS, environment, wait_until

# Prints nothing and fails where user namespaces are not allowed.
NAMESPACE = ("unshare", "-Ur", "sh", "-c", 'echo 0 > /proc/sys/user/max_inotify_instances && "$@"')
MAIN = (sys.executable, "-c", "from shipper.cli import main; main()")


def without_inotify(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A command in a user namespace that has no inotify instances."""
    return subprocess.run(
        [*NAMESPACE, "sh", *words],
        env={**environment(), **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize(
    "command", [("run", "--once"), ("status",), ("audit",), ("tail",), ("plot",)]
)
def test_a_root_that_does_not_exist_is_an_error(command: tuple[str, ...], tmp_path: Path) -> None:
    root, state = tmp_path / "spool", tmp_path / "state"
    root.mkdir()
    settings = {
        "LENS_SHIP_SPOOL": str(root),
        "LENS_SHIP_STATE": str(state),
        "LENS_SHIP_PROCESSOR_URL": "http://127.0.0.1:9",
    }
    assert lens_ship("run", "--once", **settings).code == 0
    root.rmdir()
    done = lens_ship(*command, **settings)
    assert done.code == 1
    assert f"{root}" in done.err
    assert "does not exist" in done.err


def test_the_first_job_makes_the_root_and_is_found_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, its first record waited for the next scan of `rescan_interval` seconds."""
    with Receiver(path=tmp_path / "received.sqlite") as receiver:
        given = config(tmp_path, processor_url=receiver.url, rescan_interval=10 * PATIENCE_SECONDS)
        service = Service(given)
        running = threading.Thread(target=service.run)
        running.start()
        try:
            wait_until(lambda: "spool root does not exist yet" in caplog.text)
            spool(given.spool, [step(1), goodbye()])
            wait_until(lambda: arrived(receiver.store, "w").steps)
        finally:
            service.stop()
            running.join()


def test_without_an_inotify_instance_the_root_is_scanned(tmp_path: Path) -> None:
    if without_inotify("true").returncode:
        pytest.skip("no user namespaces here")
    root = tmp_path / "spool"
    spool(root, [step(1), goodbye()])
    with Receiver(path=tmp_path / "received.sqlite") as receiver:
        settings = {
            "LENS_SHIP_SPOOL": str(root),
            "LENS_SHIP_STATE": str(tmp_path / "state"),
            "LENS_SHIP_PROCESSOR_URL": receiver.url,
        }
        once = without_inotify(*MAIN, "run", "--once", **settings)
        assert list(arrived(receiver.store, "w").steps) == [1], once.stderr
    assert once.returncode == 0, once.stderr
    assert "spool root cannot be watched" in once.stderr
    assert "Traceback" not in once.stderr
    checked = without_inotify(*MAIN, "check", **settings)
    assert "inotify.max_user_instances is 0" in " ".join(checked.stdout.split())
