"""`lens-ship start` and `spooler.ship`: one service in the background, however a kernel ends."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import click
import pytest

from shipper.health.root_mark import read_mark
from shipper.launch import background
from shipper.ledger.database import DATABASE_NAME, LOCK_NAME
from shipper.ledger.service_status import is_running
from shipper.log import FILE_BYTES
from tests.kit.command import Ran, lens_ship, start_lens_ship
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.shipping import goodbye, spool, step
from tests.kit.spools import (
    PATIENCE_SECONDS,
    REPOSITORY,
    environment,
    python,
    spools_below,
    wait_until,
)

JUPYTER = Path(os.environ.get("LENS_SHIP_TEST_JUPYTER") or REPOSITORY / ".venv/jupyter/bin/python")
POD = "0b9c6f6e-1f0a-4f0e-8f51-6a0f5c1d2e3f"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "received.sqlite") as running:
        yield running


class User:
    """The places of a user, and the service there."""

    def __init__(self, folder: Path, receiver: FaultyReceiver) -> None:
        self.spool, self.state = folder / "spool", folder / "state"
        self.places = ("--spool", str(self.spool), "--state", str(self.state))
        self.flags = (*self.places, "--processor-url", receiver.url)

    def start(self, *flags: str) -> Ran:
        return lens_ship("start", *(flags or self.flags))

    def services(self) -> int:
        """How many have been started."""
        log = self.state / "service.log"
        return log.read_text().count("service started") if log.exists() else 0


@pytest.fixture
def user(tmp_path: Path, receiver: FaultyReceiver) -> Iterator[User]:
    one = User(tmp_path, receiver)
    yield one
    if pid := background.service_pid(one.state):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(one.state))


def said_pid(text: str) -> int:
    found = re.search(r"process (\d+)", text)
    assert found, text
    return int(found[1])


def test_it_is_started_once_found_again_and_stopped(user: User, receiver: FaultyReceiver) -> None:
    spool(user.spool, [step(1), goodbye()])
    done = user.start()
    (line,) = done.out.splitlines()
    pid = said_pid(line)
    assert (done.code, done.err) == (0, "")
    assert line == (
        f"lens-ship: service (process {pid}) started for {user.spool}."
        f" To see it: lens-ship status --spool {user.spool} --state {user.state}"
    )
    assert json.loads(lens_ship("status", "--json", *user.places).out)["heartbeat"]["pid"] == pid
    wait_until(user.services)  # a thread of the service writes the log
    assert said_pid(user.start(*user.places).out) == pid
    again = user.start().out
    assert "already, with the settings of its start. To change them: lens-ship stop" in again
    command = re.search(r"lens-ship (stop .*?)\. To see it", again)
    assert command
    assert user.services() == 1
    receiver.wait_for(lambda seen: any(post.processed for post in seen), 60.0)
    assert lens_ship(*command[1].split()).out == f"lens-ship: service (process {pid}) stopped\n"
    assert not is_running(user.state)
    # It has let go of its state, and ends.
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or "State:\tZ" in status_of(pid))
    assert lens_ship("stop", *user.places).out == (
        f"lens-ship: no service runs with state {user.state}."
        " If its start had --spool or --state, give them here too\n"
    )


@pytest.mark.parametrize("version", [1, 999], ids=["older", "later"])
def test_a_service_of_another_version_is_stopped_too(user: User, version: int) -> None:
    """Its ledger is not read: that of a service of another version need not be readable."""
    user.state.mkdir()
    with (user.state / LOCK_NAME).open("w") as lock:  # not the service's, and of a lower number
        other = subprocess.Popen(["sleep", "infinity"], stdin=lock)
    try:
        pid = said_pid(user.start(*user.places).out)
        # The service writes meanwhile, however slowly.
        database = sqlite3.connect(user.state / DATABASE_NAME, timeout=PATIENCE_SECONDS)
        with closing(database) as ledger:
            ledger.execute(f"PRAGMA user_version={version}")
        done = lens_ship("stop", *user.places)
        assert (done.err, done.out) == ("", f"lens-ship: service (process {pid}) stopped\n")
        assert not is_running(user.state)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_what_is_not_surely_a_service_is_not_stopped(user: User) -> None:
    """As a command that migrates the ledger has the lock for a while, and the file open."""
    user.state.mkdir()
    lock = user.state / LOCK_NAME
    take = "import fcntl, sys; fcntl.flock(1, fcntl.LOCK_EX); sys.stdin.read()"
    with lock.open("w") as file:
        words = [sys.executable, "-c", take]
        other = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=file)
    try:
        wait_until(lambda: is_running(user.state) or other.poll() is not None)
        done = lens_ship("stop", *user.places)
        assert (done.code, done.out) == (3, "")
        assert "no process that is seen here is surely its service" in done.err
        assert f"Nothing was stopped. To see who has it open: `fuser -v {lock}`" in done.err
        assert other.poll() is None
    finally:
        other.communicate()


def status_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def test_of_two_that_start_one_at_once_both_find_it(user: User) -> None:
    started = [start_lens_ship("start", *user.places, stdout=subprocess.PIPE) for _ in range(2)]
    ends = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], ends
    assert background.service_pid(user.state)
    assert sum("started for" in out for out, _ in ends) == 1
    wait_until(user.services)  # a thread of the service writes the log
    assert user.services() == 1


def test_settings_that_cannot_be_used_are_refused_before_it_starts(user: User) -> None:
    done = user.start(*user.places, "--workers", "none")
    assert done.code == 2
    assert "--workers: 'none'" in done.err
    assert not user.state.exists()


def test_its_log_is_bounded_while_it_runs(user: User) -> None:
    pid, log = said_pid(user.start().out), user.state / "service.log"
    wait_until(user.services)  # a thread of the service writes the log
    with log.open("a") as file:
        file.write("x" * (FILE_BYTES + 1) + "\n")
    os.kill(pid, signal.SIGHUP)  # which it logs
    wait_until(lambda: "SIGHUP ignored" in log.read_text())
    assert log.stat().st_size < 1000
    assert log.with_name("service.log.1").stat().st_size > FILE_BYTES
    assert user.services() == 0, "the first lines are in the other file"


def test_a_service_that_ends_at_once_says_why(user: User) -> None:
    user.state.mkdir()
    (user.state / "ledger.sqlite").write_bytes(b"")
    done = user.start()
    assert done.code == 1
    assert "the service has ended" in done.err
    assert "it is empty: a crash or a full disk has cost its content" in done.err
    assert f"Records stay in {user.spool}. Its log is {user.state / 'service.log'}" in done.err


@pytest.mark.parametrize("below", ["", POD], ids=["a root", "the directory of a pod"])
def test_a_root_that_another_service_ships_gets_no_second_one(
    user: User, tmp_path: Path, below: str
) -> None:
    """For a pod: it sees its own directory of a root that the service of the node ships."""
    place, node = user.spool / below, tmp_path / "node"
    user.spool.mkdir()
    flags = ("--spool", str(user.spool), "--state", str(node), "--pod-directories", "true")
    other = start_lens_ship("run", *flags, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: read_mark(user.spool) is not None or other.poll() is not None)
        if read_mark(user.spool) is None:
            pytest.skip("no extended attributes on this file system")
        place.mkdir(exist_ok=True)
        wait_until(lambda: read_mark(place) is not None)
        done = user.start("--spool", str(place), "--state", str(user.state))
        said = f"a service with state {node} delivers {place} already"
        assert (done.code, done.out) == (0, f"lens-ship: {said}\n")
        assert not is_running(user.state)
        done = lens_ship("stop", "--spool", str(place), "--state", str(user.state))
        said = f"no service runs with state {user.state}. One with state {node} delivers {place}"
        assert (done.code, done.out) == (0, f"lens-ship: {said}\n")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_service_without_a_receiver_is_started_and_says_so(user: User) -> None:
    said = f"started for {user.spool}. No receiver is given (processor_url, sink or config): "
    assert said in user.start(*user.places).out
    assert "No receiver" not in user.start(*user.places).out  # its own settings are not known


def test_it_takes_the_sinks_that_run_takes(user: User, receiver: FaultyReceiver) -> None:
    host = receiver.url.removesuffix("/v1")
    assert user.start(*user.places, "--sink", f"otlp={host}").code == 0
    assert "otlp" in lens_ship("status", *user.places).out


def test_a_setting_that_is_none_is_not_given(user: User) -> None:
    """As of `os.environ.get`, so that no directory is named `None`."""
    places = f"spool={str(user.spool)!r}, state={str(user.state)!r}"
    code = f"import spooler; spooler.ship({places}, processor_url=None)"
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert said_pid(done.stdout) == background.service_pid(user.state)


# --- kernels --------------------------------------------------------------------------------------

needs_jupyter = pytest.mark.skipif(
    not JUPYTER.exists(), reason=f"no {JUPYTER}; `make unit` installs it"
)
Ask = Callable[..., Any]


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    """Ask a notebook whose kernels have the libraries of the service, by the kit's commands."""
    libraries = str(Path(click.__file__).parents[1])
    environ = environment(
        PYTHONPATH=f"{REPOSITORY}:{libraries}",
        IPYTHONDIR=str(tmp_path / "ipython"),
        WORKLOAD_UID="w",
    )
    process = subprocess.Popen(
        [JUPYTER, REPOSITORY / "tests/kit/notebook.py"],
        env={name: value for name, value in environ.items() if not name.startswith("LENS_SHIP_")},
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def command(*words: str) -> Any:
        process.stdin.write(json.dumps(words) + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        return json.loads(process.stdout.readline())  # type: ignore[union-attr]

    yield command
    process.communicate()


def descriptors(pid: int) -> set[str]:
    """The pipes, sockets and terminals that a process has open."""
    found = set[str]()
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # a pipe or socket of the kernel's own between two cells
            found.add(os.readlink(one))
    return {name for name in found if name.startswith(("pipe:", "socket:", "/dev/pts"))}


@needs_jupyter
def test_kernels_that_end_in_every_way_are_delivered_by_one_service(
    user: User, receiver: FaultyReceiver, ask: Ask
) -> None:
    places = f"spool={str(user.spool)!r}, state={str(user.state)!r}"
    ship = f"import spooler; spooler.ship(processor_url={receiver.url!r}, {places})"
    log = "for n in range({}, {}): spooler.log({{'loss': n}}, step=n)"
    kernel = int(ask("run", "import os; print(os.getpid())")["stdout"])
    before = descriptors(kernel)

    printed = ask("run", ship)
    assert printed.keys() == {"stdout"}, printed
    assert printed["stdout"].count("\n") == 1
    pid = said_pid(printed["stdout"])
    assert os.getsid(pid) == pid
    assert not before & descriptors(pid)
    children = Path(f"/proc/{kernel}/task/{kernel}/children").read_text()
    assert children == ""  # no zombie either
    hooked = ask(
        "run", "import sys; print(any(hasattr(one, 'is_lens_ship') for one in sys.meta_path))"
    )
    assert hooked["stdout"] == "True\n"
    ask("run", log.format(0, 10))
    command = "!{sys.executable} -m shipper status --json | head -c 9999"
    shown = json.loads(ask("run", f"import sys\n{command}")["stdout"])  # without the places
    assert shown["heartbeat"]["pid"] == pid

    ask("restart")
    assert said_pid(ask("run", ship)["stdout"]) == pid
    ask("run", log.format(10, 20))
    assert ask("kill") != kernel
    assert said_pid(ask("run", ship)["stdout"]) == pid
    ask("run", log.format(20, 30))
    os.killpg(int(ask("run", "import os; print(os.getpid())")["stdout"]), signal.SIGKILL)

    # Of the last kernel too, whose last step nothing has closed.
    wait_until(lambda: set(arrived(receiver.store, "w").order) == set(range(30)))
    assert user.services() == 1
    assert lens_ship("stop", *user.places).code == 0


@needs_jupyter
def test_without_the_libraries_of_the_service_it_says_what_to_install(tmp_path: Path) -> None:
    mine, other = str(tmp_path / "spool"), str(tmp_path / "other")
    for variable, given in (("", None), (mine, None), (other, mine), ("", mine)):
        root = given or variable
        code = f"import spooler; spooler.ship(spool={given!r}); spooler.log({{'loss': 1}})"
        done = subprocess.run(
            [JUPYTER, "-c", code],
            env=environment(PYTHONPATH=str(REPOSITORY), PRIMUS_LENS_WANDB_OUTPUT_PATH=variable),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0
        assert done.stdout == ""
        assert "pip install 'lens-ship[service]'" in done.stderr
        rest = f"Records go to {root}" if root else "Nothing is recorded"
        assert f"lens-ship: no service was started. {rest}" in done.stderr
    assert os.listdir(tmp_path) == ["spool"]
    assert len(spools_below(Path(mine))) == 3
