"""Whatever a tenant puts into its folder or holds there, neighbours and operators do not wait."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.kit import hostile, spools
from tests.kit.command import start_lens_ship
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.holding import held, own
from tests.kit.shipping import append, spool, step

# Far above what anything here takes on a busy machine. The kernel breaks a lease after 45 s, so one
# step among leased files has less.
BOUND_SECONDS = 600.0
LEASE_SECONDS = 40.0

FILES = ("pipes", "sockets", "folders", "links", "sparse-terabyte")
TENANTS = {
    "files that are none": FILES,
    "thousands of segments": ("many-segments",),
    "locked files": ("locked",),
    "leased files": ("locked",),
}
HELD = {"locked files": "lock", "leased files": "lease"}
# The unit and the manifests give the service 512 MiB.
MEMORY_KIB = 448 * 1024
COMMANDS = ("status", "audit", "check", "inspect ROOT", "tail ROOT", "replay --dry-run ROOT")


class Node:
    """A root with hostile tenants, whose folders come first, and honest neighbours."""

    def __init__(self, folder: Path, receiver: FaultyReceiver) -> None:
        self.root = folder / "spool"
        self.secret = folder / "secret"
        self.secret.write_text("password")
        self.receiver = receiver
        self.log = folder / "log"
        self.bound = BOUND_SECONDS
        self.environ = {
            "LENS_SHIP_SPOOL": str(self.root),
            "LENS_SHIP_STATE": str(folder / "state"),
            "LENS_SHIP_PROCESSOR_URL": receiver.url,
            "LENS_SHIP_FLUSH_INTERVAL": "0.2",
        }

    def tenant(self, kind: str) -> Path:
        folder = self.root / f"a-{kind}"
        folder.mkdir(parents=True)
        place = hostile.Place(folder=folder, victim=folder / "none", secret=self.secret)
        hostile.BUILDERS[kind](place)
        own(folder)
        return folder

    def neighbour(self, name: str, salt: int, where: str = "z") -> spools.Writer:
        """A process that has logged one step and goes on; `name` is its workload."""
        who = spools.identity(spools.spool_id(salt), workload_uid=name)
        _, writer = spool(self.root / where, [step(0)], who=who, close=False)
        return writer

    @contextmanager
    def serving(self, code: str = "") -> Iterator[subprocess.Popen[str]]:
        """The service, running; `code` is run in its process before."""
        with self.log.open("w") as log:
            service = start_lens_ship("run", stderr=log, before=code, **self.environ)
            try:
                yield service
            finally:
                service.kill()
                service.communicate()

    def stop(self, service: subprocess.Popen[str]) -> str:
        """End it as a manager does; what it has said."""
        service.send_signal(signal.SIGTERM)
        service.wait(timeout=self.bound)
        words = self.log.read_text()
        assert service.returncode == 0, words
        return words

    def health(self) -> str:
        """What the service says of its health; "" where it has no port or does not answer."""
        port = re.search(r"HTTP port opened address=(http://\S+)", self.log.read_text())
        if port is None:
            return ""
        try:
            with urllib.request.urlopen(f"{port[1]}/-/healthy", timeout=self.bound) as answer:
                text: bytes = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                text = error.read()
        except (OSError, http.client.HTTPException):
            return ""
        return text.decode()

    def wait_for(self, workload: str, steps: int) -> None:
        wait_until(
            lambda: arrived(self.receiver.store, workload).order == list(range(steps)),
            f"{steps} steps of {workload} arrive",
            self.bound,
        )


def wait_until(holds: Callable[[], bool], what: str, bound: float = BOUND_SECONDS) -> None:
    deadline = time.monotonic() + bound
    while not holds():
        assert time.monotonic() < deadline, f"not within {bound:.0f} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with FaultyReceiver(path=tmp_path / "receiver.sqlite") as receiver:
        yield Node(tmp_path, receiver)


def serving_among(kind: str, node: Node, holds: ExitStack) -> subprocess.Popen[str]:
    """A service among tenants of this kind that has delivered the first neighbour's record."""
    for builder in TENANTS[kind]:
        folder = node.tenant(builder)
        if kind in HELD:
            holds.enter_context(held(folder, HELD[kind]))
    if HELD.get(kind) == "lease":
        node.bound = LEASE_SECONDS
    service = holds.enter_context(node.serving())
    node.wait_for("first", 1)
    return service


@pytest.mark.promise("G15")
@pytest.mark.parametrize("kind", TENANTS)
def test_neighbours_are_delivered_and_the_service_ends_in_time(node: Node, kind: str) -> None:
    first = node.neighbour("first", 1)
    with ExitStack() as holds:
        service = serving_among(kind, node, holds)
        append(first, [step(1)])
        second = node.neighbour("second", 2)
        node.wait_for("first", 2)
        node.wait_for("second", 1)
        words = node.stop(service)
    assert "internal error" not in words
    for writer in (first, second):
        writer.close()


@pytest.mark.promise("G15")
@pytest.mark.parametrize("kind", TENANTS)
def test_commands_of_operators_come_back(node: Node, kind: str) -> None:
    writer = node.neighbour("first", 1)
    with ExitStack() as holds:
        service = serving_among(kind, node, holds)
        for command in COMMANDS:
            words = command.replace("ROOT", str(node.root)).split()
            process = start_lens_ship(*words, stdout=subprocess.PIPE, **node.environ)
            holds.callback(process.kill)
            try:
                said, errors = process.communicate(timeout=node.bound)
            except subprocess.TimeoutExpired:
                pytest.fail(f"{command} does not come back")
            assert process.returncode in (0, 1), (command, errors)
            assert "Traceback" not in errors, (command, errors)
            assert "password" not in said, command
        node.stop(service)
    writer.close()


@pytest.mark.promise("G15")
def test_records_of_the_allowed_size_leave_the_service_its_memory(node: Node) -> None:
    """2.5 million numbers in one map, of several tenants."""
    for number in range(3):
        folder = node.root / f"a-{number}"
        folder.mkdir(parents=True)
        place = hostile.Place(folder=folder, victim=folder, secret=folder)
        where = place.spool(number)
        whose = hostile.identity(where, workload_uid=f"wide{number}")
        hostile.segment(where, [hostile.wide_step(2_500_000), hostile.step_body(1)], who=whose)
    writer = node.neighbour("first", 1)
    with node.serving() as service:
        node.wait_for("first", 1)
        for number in range(3):
            wait_until(
                lambda: bool(arrived(node.receiver.store, f"wide{number}").order),  # noqa: B023
                f"the next step of tenant {number} arrives",
            )
        status = Path(f"/proc/{service.pid}/status").read_text()
        words = node.stop(service)
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak is not None
    assert int(peak[1]) < MEMORY_KIB, words
    assert words.count("reason=too-large") == 3, words
    writer.close()


STUCK = """
import threading
from shipper.health import liveness
from spooler.spool.reader import Reader

liveness.LOOP_SECONDS = 1.0

identity = Reader.identity
def stuck(self):
    if "stuck" in self.directory.parts:
        threading.Event().wait()
    return identity(self)
Reader.identity = stuck
"""


@pytest.mark.promise("G15")
def test_a_look_that_never_comes_back_holds_up_neither_delivery_nor_the_end(node: Node) -> None:
    first = node.neighbour("first", 1, where="a")
    node.neighbour("hostile", 2, where="stuck").close()
    node.environ["LENS_SHIP_HTTP_LISTEN"] = "127.0.0.1:0"  # its page looks at the spools, too
    with node.serving(STUCK) as service:
        node.wait_for("first", 1)
        append(first, [step(1)])
        node.wait_for("first", 2)
        wait_until(lambda: "housekeeping has not run" in node.health(), "it is noticed")
        words = node.stop(service)
    assert "spool root still being read at shutdown" in words
    first.close()
