"""A second service or a second state on one root is reported, wherever the root can be written."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipper.health.root_mark import NAME, read_mark
from tests.kit.command import Ran, lens_ship, start_lens_ship
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.shipping import goodbye, spool, step
from tests.kit.spools import PATIENCE_SECONDS

TWICE = "another service ships this root"
AGAIN = "root was shipped with another state"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    spool(tmp_path / "spool", [step(1), goodbye()])
    with FaultyReceiver(path=tmp_path / "received.sqlite") as running:
        yield running


@pytest.fixture
def service(tmp_path: Path, receiver: FaultyReceiver) -> Iterator[subprocess.Popen[str]]:
    """A service on the root, with state `a`, that has delivered what is there."""
    process = start_lens_ship("run", *places(tmp_path, "a"), "--processor-url", receiver.url)
    receiver.wait_for(lambda seen: len(seen) == 1 and seen[0].processed)
    yield process
    process.kill()
    process.communicate()


def places(folder: Path, state: str) -> list[str]:
    return ["--spool", str(folder / "spool"), "--state", str(folder / state)]


def once(folder: Path, state: str, receiver: FaultyReceiver) -> Ran:
    done = lens_ship("run", "--once", *places(folder, state), "--processor-url", receiver.url)
    assert done.code == 0, done.err
    return done


def test_one_state_is_used_again_without_a_word(tmp_path: Path, receiver: FaultyReceiver) -> None:
    for _ in range(2):
        assert "WARNING" not in once(tmp_path, "a", receiver).err
    assert len(receiver.seen) == 1


def test_a_second_state_is_named_before_everything_is_sent_again(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    once(tmp_path, "a", receiver)
    done = lens_ship("check", *places(tmp_path, "b"), "--processor-url", receiver.url)
    assert f"was last shipped with the state {tmp_path / 'a'}" in " ".join(done.out.split())
    (line,) = [one for one in once(tmp_path, "b", receiver).err.splitlines() if AGAIN in one]
    assert f"other={tmp_path / 'a'}" in line
    assert len(receiver.seen) == 2
    assert AGAIN not in once(tmp_path, "b", receiver).err


def test_a_second_service_is_reported_by_its_log_and_by_status(
    tmp_path: Path, receiver: FaultyReceiver, service: subprocess.Popen[str]
) -> None:
    (line,) = [one for one in once(tmp_path, "b", receiver).err.splitlines() if TWICE in one]
    assert f"other={tmp_path / 'a'}" in line
    shown = lens_ship("status", "--json", *places(tmp_path, "b"))
    assert shown.code == 1
    headline = json.loads(shown.out)["status"]["headline"]
    assert headline == (
        f"The service of {tmp_path / 'spool'} runs with --state {tmp_path / 'a'}."
        " Give the same here."
    )
    mine = json.loads(lens_ship("status", "--json", *places(tmp_path, "a")).out)
    assert mine["other_state"] == ""
    service.terminate()
    assert service.wait(PATIENCE_SECONDS) == 0
    assert TWICE not in once(tmp_path, "b", receiver).err


def test_a_service_that_was_killed_counts_for_a_minute(
    tmp_path: Path, receiver: FaultyReceiver, service: subprocess.Popen[str]
) -> None:
    service.kill()
    service.wait()
    assert TWICE in once(tmp_path, "b", receiver).err
    mark = json.loads(os.getxattr(tmp_path / "spool", NAME))
    mark["time"] -= 61
    os.setxattr(tmp_path / "spool", NAME, json.dumps(mark).encode())
    assert TWICE not in once(tmp_path, "c", receiver).err


@pytest.mark.parametrize("content", ["", "[]", "{}", "\xff", '{"id": 1}', "{" * 1000])
def test_an_attribute_that_is_something_else_is_none(tmp_path: Path, content: str) -> None:
    os.setxattr(tmp_path, NAME, content.encode("latin-1"))
    assert read_mark(tmp_path) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_a_tenant_of_a_shared_root_cannot_set_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o3777)
    child = os.fork()
    if child == 0:
        os.setuid(61001)
        try:
            os.setxattr(tmp_path, NAME, b"{}")
        except PermissionError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
