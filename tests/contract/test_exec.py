"""`lens-ship exec` around a real job of several processes, ended in each way a scheduler ends one.

What is recorded is delivered within the time of the drain, or left in the spool and named. The job
gets each signal once, and this process ends as the job does.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from shipper.launch.run import _KEEP_SECONDS
from shipper.ledger.service_status import is_running
from tests.kit import job
from tests.kit.command import lens_ship
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import Answer, FaultyReceiver, Normal
from tests.kit.spools import PATIENCE_SECONDS, REPOSITORY, environment, wait_until

MAIN = "import sys; sys.argv[0] = 'lens-ship'; from shipper.cli import main; main()"
JOB = (sys.executable, job.__file__)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "received.sqlite") as running:
        yield running


class Node:
    """One node: its directories, and `lens-ship exec` in a session of its own."""

    def __init__(self, folder: Path, url: str, name: str = "w") -> None:
        self.folder = folder / f"node-{name}"
        self.folder.mkdir(exist_ok=True)
        self.name = name
        self.places = ("--spool", str(self.folder / "spool"), "--state", str(self.folder / "state"))
        self.flags = (*self.places, "--processor-url", url)
        self.main = MAIN
        self.started: list[subprocess.Popen[str]] = []

    def command(self, *command: str, drain: float = PATIENCE_SECONDS) -> list[str]:
        words = command or (*JOB, str(self.folder))
        return [
            sys.executable,
            "-c",
            self.main,
            "exec",
            "--drain",
            str(drain),
            *self.flags,
            "--",
            *words,
        ]

    def environ(self, **more: str) -> dict[str, str]:
        given = environment(WORKLOAD_UID=self.name, PYTHONPATH=str(REPOSITORY), **more)
        return {name: value for name, value in given.items() if not name.startswith("LENS_SHIP_")}

    def start(self, *command: str, drain: float = PATIENCE_SECONDS) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.command(*command, drain=drain),
            env=self.environ(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def training(self, drain: float = PATIENCE_SECONDS) -> subprocess.Popen[str]:
        """A job that has recorded what it does before its end."""
        process = self.start(drain=drain)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def signals(self) -> list[str]:
        path = self.folder / "signals"
        return path.read_text().split() if path.exists() else []

    def service(self) -> int:
        """The pid in the last heartbeat of a service, 0 before the first."""
        shown = lens_ship("status", "--json", *self.places)
        heartbeat = json.loads(shown.out)["heartbeat"] if shown.out else None
        return int(heartbeat["pid"]) if heartbeat else 0

    def is_served(self) -> bool:
        return is_running(self.folder / "state")


Nodes = Callable[..., Node]


@pytest.fixture
def node(tmp_path: Path, receiver: FaultyReceiver) -> Iterator[Nodes]:
    """Make a node of the receiver. None of its processes outlives the test."""
    made: list[Node] = []

    def make(name: str = "w", url: str = receiver.url) -> Node:
        made.append(Node(tmp_path, url, name))
        return made[-1]

    yield make
    for one in made:
        for process in one.started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                assert stream is not None
                stream.close()
        wait_until(lambda one=one: not one.is_served())


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """End the job by its stdin; the code, and what lens-ship has printed."""
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, said


def waited(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The same of a job that was ended otherwise."""
    process.wait(timeout=PATIENCE_SECONDS)
    return ended(process)


# Records, and ends at the first signal.
QUICK = """
import signal
from spooler.recorder import recorder
signal.signal(signal.SIGINT, signal.SIG_DFL)
body = {"run": "r", "step": 0, "time": 1.0, "closed": True, "data": {"loss": 0.5}}
assert recorder().record("step", body)
print("ready", flush=True)
signal.pause()
"""


def is_whole(receiver: FaultyReceiver, name: str = "w") -> bool:
    return sorted(arrived(receiver.store, name).order) == sorted(
        list(range(job.BEFORE + job.AFTER)) * job.TRAINERS
    )


DELIVERED = f"lens-ship: {job.STEPS} records delivered, nothing left\n"


def test_a_job_is_recorded_delivered_and_accounted_for(
    node: Nodes, receiver: FaultyReceiver
) -> None:
    one = node()
    process = one.training()
    assert ended(process) == (0, DELIVERED)
    assert is_whole(receiver)
    assert not one.is_served()


WAYS = {
    "TERM to the group": lambda pid: os.killpg(pid, signal.SIGTERM),
    "TERM to exec alone": lambda pid: os.kill(pid, signal.SIGTERM),
    "TERM to exec, then to the group": lambda pid: (
        os.kill(pid, signal.SIGTERM),
        os.killpg(pid, signal.SIGTERM),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_two_nodes_are_ended_by_a_signal_and_everything_is_delivered(
    node: Nodes, receiver: FaultyReceiver, way: str
) -> None:
    nodes = [node("first"), node("second")]
    for one in nodes:
        # A second signal that comes after the end of the job ends the drain.
        (one.folder / "held").touch()
    for process in [one.training() for one in nodes]:
        WAYS[way](process.pid)
        os.kill(process.pid, signal.SIGCONT)  # is answered after these
    for one in nodes:
        wait_until(lambda one=one: "SIGCONT" in one.signals())
        (one.folder / "held").unlink()
        assert waited(one.started[0]) == (job.CODE, DELIVERED)
        # Of two that are further apart than exec waits for the second, the job gets both.
        got = sorted(set(one.signals()) - {"SIGCONT"})
        assert got in (["SIGTERM"], ["SIGTERM", "SIGUSR2"][: way.count("to ")])
        assert len(one.signals()) == len(got) + 1
        assert is_whole(receiver, one.name)


def test_other_signals_reach_the_job_once(node: Nodes) -> None:
    one = node()
    process = one.training()
    os.kill(process.pid, signal.SIGUSR1)
    wait_until(lambda: one.signals() == ["SIGUSR1"])
    os.killpg(process.pid, signal.SIGUSR1)
    wait_until(lambda: one.signals() == ["SIGUSR1"] * 2)
    assert ended(process)[0] == 0
    assert one.signals() == ["SIGUSR1"] * 2


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_a_signal_that_comes_twice_at_once_reaches_the_job_twice_at_most(
    node: Nodes, send: Callable[[int, int], None]
) -> None:
    one = node()
    process = one.training()
    for _ in range(2):
        send(process.pid, signal.SIGUSR1)
        time.sleep(0.01)  # within the time in which it is found out who has got the first
    os.kill(process.pid, signal.SIGCONT)  # is answered after these
    wait_until(lambda: "SIGCONT" in one.signals())
    before = one.signals().count("SIGUSR1")
    assert before in (1, 2)
    os.kill(process.pid, signal.SIGUSR1)  # is not taken for one of them
    wait_until(lambda: one.signals().count("SIGUSR1") == before + 1)
    assert ended(process)[0] == 0


# Every process of the group gets a signal while exec asks which ones the group has got. The job has
# noted the first by then: two at once are one.
WHILE_ASKED = """
import os, signal, time
from shipper.launch.job import Witness
take = Witness.take
def busy(witness):
    Witness.take = take
    while not os.path.exists({signals!r}):
        time.sleep(0.01)
    os.killpg(0, signal.SIGUSR1)
    return take(witness)
Witness.take = busy
"""


def test_a_signal_to_the_group_that_comes_while_exec_asks_is_not_forwarded(node: Nodes) -> None:
    one = node()
    one.main = WHILE_ASKED.format(signals=str(one.folder / "signals")) + MAIN
    process = one.training()
    os.killpg(process.pid, signal.SIGUSR1)
    wait_until(lambda: one.signals() == ["SIGUSR1"] * 2)
    os.kill(process.pid, signal.SIGCONT)  # is answered after these
    wait_until(lambda: "SIGCONT" in one.signals())
    assert one.signals() == ["SIGUSR1", "SIGUSR1", "SIGCONT"]
    assert ended(process)[0] == 0


def test_kill_after_the_grace_leaves_everything_in_the_spool(
    node: Nodes, receiver: FaultyReceiver
) -> None:
    receiver.otherwise = Answer(status=503)
    one = node()
    process = one.training()
    os.kill(process.pid, signal.SIGTERM)
    receiver.wait_for(lambda seen: len(seen) >= 2, PATIENCE_SECONDS)
    wait_until(lambda: one.signals() == ["SIGTERM"])
    os.killpg(process.pid, signal.SIGKILL)
    assert waited(process)[0] == -signal.SIGKILL
    receiver.otherwise = Normal()
    wait_until(lambda: not one.is_served())
    assert lens_ship("run", "--once", *one.flags).code == 0
    assert set(arrived(receiver.store, "w").order) >= set(range(job.BEFORE))


def test_an_outage_is_reported_with_what_is_left_and_the_command_for_it(
    node: Nodes, receiver: FaultyReceiver
) -> None:
    receiver.otherwise = Answer(status=503)
    one = node()
    code, said = ended(one.training(drain=1.5))
    assert code == 0
    head, command = said.removesuffix("\n").split(". Deliver it: ")
    assert head.startswith(f"lens-ship: 0 records delivered, {job.STEPS + 2} left")
    assert str(one.folder / "spool") in head
    receiver.otherwise = Normal()
    assert lens_ship(*shlex.split(command)[1:]).code == 0
    assert is_whole(receiver)


def test_without_a_receiver_it_says_so_and_the_command_for_the_rest_asks_for_one(
    node: Nodes, receiver: FaultyReceiver
) -> None:
    one = node()
    one.flags = one.places
    code, said = ended(one.training(drain=0))
    assert code == 0
    first, last = said.splitlines()
    root = one.folder / "spool"
    assert first == (
        f"lens-ship: no receiver is given: records stay in {root}, unless the job names one."
        " Give --processor-url, --sink or --config"
    )
    head, command = last.split(". Deliver it: ")
    assert head.startswith("lens-ship: 0 records delivered, ")
    assert head.endswith(f" in {root}")
    words = [receiver.url if word == "URL" else word for word in shlex.split(command)]
    assert receiver.url in words
    assert lens_ship(*words[1:]).code == 0
    assert is_whole(receiver)


def test_it_takes_the_sinks_that_run_takes(node: Nodes) -> None:
    one = node()
    sink = ("--sink", "otlp=http://127.0.0.1:1")
    one.flags = (*one.places, *sink)
    _, said = ended(one.training(drain=0))
    head, command = said.removesuffix("\n").split(". Deliver it: ")
    assert head.count("\n") == 0
    assert command == shlex.join(["lens-ship", "run", "--once", *one.flags])


def test_settings_that_cannot_be_used_are_not_in_the_command_for_the_rest(node: Nodes) -> None:
    one = node()
    one.flags = (*one.flags, "--sink", "otlp=http://u:hunter2@h")
    _, said = ended(one.training(drain=0))
    command = shlex.join(["lens-ship", "run", "--once", *one.places, "--processor-url", "URL"])
    assert said.endswith(f". Deliver it: {command}\n")
    assert "hunter2" not in said


def test_a_job_that_records_nothing_is_told_from_one_that_is_delivered(node: Nodes) -> None:
    code, said = ended(node().start("sh", "-c", "exit 0"))
    assert code == 0
    assert said.startswith("lens-ship: nothing was recorded. ")
    assert "`lens-ship hook status`" in said


def test_a_second_term_ends_the_drain_at_once(node: Nodes, receiver: FaultyReceiver) -> None:
    receiver.otherwise = Answer(status=503)
    one = node()
    process = one.training(drain=3600)
    os.kill(process.pid, signal.SIGTERM)
    receiver.wait_for(lambda seen: len(seen) >= 2, PATIENCE_SECONDS)
    while process.poll() is None:
        os.kill(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    code, said = waited(process)
    assert code == job.CODE
    assert "left" in said


def test_the_death_of_exec_takes_neither_the_job_nor_a_record(
    node: Nodes, receiver: FaultyReceiver
) -> None:
    one = node()
    process = one.training()
    wait_until(one.is_served)
    process.kill()
    process.wait()
    wait_until(lambda: not one.is_served())
    assert process.stdin is not None
    process.stdin.close()  # the job goes on until then
    spools = list((one.folder / "spool").glob("node_0/rank_*/*"))
    wait_until(lambda: not any((spool / "owner").exists() for spool in spools))
    assert len(spools) == job.TRAINERS
    assert lens_ship("run", "--once", *one.flags).code == 0
    assert is_whole(receiver)


def test_a_service_that_is_killed_is_started_again(node: Nodes, receiver: FaultyReceiver) -> None:
    one = node()
    process = one.training()
    receiver.wait_for(lambda seen: seen, PATIENCE_SECONDS)
    wait_until(one.service)  # its first heartbeat may come after its first request
    first = one.service()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: one.is_served() and one.service() not in (0, first))
    assert ended(process)[0] == 0
    assert set(arrived(receiver.store, "w").order) == set(range(job.BEFORE + job.AFTER))


def test_jobs_of_a_node_share_one_service_and_another_takes_over(
    node: Nodes, receiver: FaultyReceiver
) -> None:
    one = node()
    first = one.training()
    wait_until(one.is_served)
    second = one.training()
    assert ended(first) == (0, DELIVERED)
    assert ended(second) == (0, DELIVERED)
    log = (one.folder / "state" / "service.log").read_text()
    starts = [line for line in log.splitlines() if "service started" in line]
    assert len(starts) == 2
    assert "ERROR" not in log


def test_exec_that_is_stopped_for_longer_than_it_waits_goes_on(node: Nodes) -> None:
    one = node()
    first = one.training()
    wait_until(one.is_served)
    second = one.training()  # looks once a second whether the service of the first still runs
    for _ in range(3):
        os.kill(second.pid, signal.SIGSTOP)
        time.sleep(1.5 * _KEEP_SECONDS)
        os.kill(second.pid, signal.SIGCONT)
    assert ended(first) == (0, DELIVERED)
    assert ended(second) == (0, DELIVERED)


def test_the_interrupt_that_ends_the_job_does_not_end_the_drain(
    node: Nodes, receiver: FaultyReceiver
) -> None:
    receiver.otherwise = Answer(status=503)
    process = node().start(sys.executable, "-c", QUICK, drain=4)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    code, said = waited(process)
    assert time.monotonic() - begun >= 4
    assert code == -signal.SIGINT
    assert said.startswith("lens-ship: 0 records delivered, 1 left")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -KILL $$"], -signal.SIGKILL),
        (["sh", "-c", "kill -SEGV $$"], -signal.SIGSEGV),
        (["no-such-command"], 127),
        (["/dev/null"], 126),
    ],
    ids=str,
)
def test_it_ends_as_the_command_does(node: Nodes, command: list[str], code: int) -> None:
    assert ended(node().start(*command))[0] == code


def test_the_end_is_noticed_where_the_caller_ignores_the_ends_of_its_children(node: Nodes) -> None:
    careless = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    words = [sys.executable, "-c", f"{careless}; os.execv(sys.argv[1], sys.argv[1:])"]
    command = [*words, *node().command("sh", "-c", "exit 7")]
    done = subprocess.run(
        command,
        env=node().environ(),
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 7


def test_the_command_gets_stdin_stdout_and_the_environment_as_they_are(node: Nodes) -> None:
    one = node()
    read = "read line; echo $line $PRIMUS_LENS_WANDB_OUTPUT_PATH; "
    read += "grep SigBlk /proc/self/status; grep SigIgn /proc/self/status"
    process = one.start("sh", "-c", read)
    out, _ = process.communicate("hello\n", timeout=PATIENCE_SECONDS)
    plain = subprocess.run(
        ["sh", "-c", read],
        input="hello\n",
        env=one.environ(PRIMUS_LENS_WANDB_OUTPUT_PATH=str(one.folder / "spool")),
        capture_output=True,
        text=True,
        check=True,
    )
    # 32 and 33 are glibc's own.
    got, expected = (
        [int(word, 16) & ~(3 << 31) for word in one.split()[3::2]] for one in (out, plain.stdout)
    )
    assert len(got) == 2
    assert got == expected
    assert out.splitlines()[0] == plain.stdout.splitlines()[0] == f"hello {one.folder / 'spool'}"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--workers", "none"], "--workers: 'none'"),
        (["--token-file", "/no/such/file"], "/no/such/file"),
        (["--sink", "otlx"], "'otlx' is not a type of sink"),
        (["--state", "/proc/no"], "the job runs, and nothing of it is recorded"),
    ],
    ids=str,
)
def test_a_job_runs_even_if_lens_ship_cannot(node: Nodes, flags: list[str], said: str) -> None:
    one = node()
    one.flags = (*one.flags, *flags)
    process = one.start("sh", "-c", "read line; exit 3")
    heard = ""
    assert process.stderr is not None
    while said not in heard:
        line = process.stderr.readline()
        assert line, heard
        heard += line
    assert ended(process)[0] == 3


def test_without_the_libraries_of_the_service_the_job_runs(node: Nodes, tmp_path: Path) -> None:
    code = "import sys; sys.modules['click'] = None; sys.argv[0] = 'lens-ship';"
    code += "import shipper.__main__ as m; m.find_spec = lambda name: None; m.main()"
    words = [sys.executable, "-c", code, "exec", "--drain", "3", "--", "sh", "-c", "exit 9"]
    done = subprocess.run(words, env=node().environ(), capture_output=True, text=True, check=False)
    assert done.returncode == 9
    assert "pip install 'lens-ship[service]'" in done.stderr


# --- terminals ------------------------------------------------------------------------------------


class Terminal:
    """A shell, or another command, with a terminal of its own; what a person types and sees."""

    def __init__(self, words: list[str], environ: dict[str, str]) -> None:
        self.pid, master = pty.fork()
        if self.pid == 0:
            os.execvpe(words[0], words, environ)
        self.master = open(master, "r+b", buffering=0)  # noqa: SIM115 (until close)
        self.seen = ""

    def type(self, text: str) -> None:
        self.master.write(text.encode())

    def wait_for(self, pattern: str, asking: str = "") -> None:
        """Until it is seen after what was waited for before; `asking` is typed meanwhile."""
        end = time.monotonic() + PATIENCE_SECONDS
        screen = select.poll()  # takes any descriptor, of which a long run has many
        screen.register(self.master, select.POLLIN)
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < end, self.seen
            if not screen.poll(200):
                self.type(asking)
            else:
                self.seen += os.read(self.master.fileno(), 4096).decode(errors="replace")
        self.seen = self.seen[found.end() :]

    def close(self) -> None:
        """Lose it. The number may be that of another file later: nothing is closed again."""
        self.master.close()


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def make(words: list[str], environ: dict[str, str]) -> Terminal:
        made.append(Terminal(words, environ))
        return made[-1]

    yield make
    for one in made:
        one.close()
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(one.pid, signal.SIGKILL)
            os.waitpid(one.pid, 0)


def test_a_shell_stops_continues_and_interrupts_the_job_once(
    node: Nodes, receiver: FaultyReceiver, terminal: Callable[..., Terminal]
) -> None:
    one = node()
    shell = terminal(["bash", "--norc", "-i"], one.environ(PS1="> ", TERM="dumb"))
    shell.type(f"{shlex.join(one.command())}\n")
    shell.wait_for(r"\nready\r")
    shell.type("\x1a")
    shell.wait_for(r"Stopped")
    shell.type("fg\n")
    wait_until(lambda: one.signals() == ["SIGCONT"])
    shell.type("\x03")
    shell.wait_for(r"records delivered.*nothing left")
    shell.type("echo code=$?\n")
    shell.wait_for(rf"code={job.CODE}\r")
    assert one.signals() == ["SIGCONT", "SIGINT"]
    assert is_whole(receiver)


def test_a_job_that_reads_the_terminal_in_the_background_is_stopped_by_it(
    node: Nodes, terminal: Callable[..., Terminal]
) -> None:
    one = node()
    shell = terminal(["bash", "--norc", "-i"], one.environ(PS1="> ", TERM="dumb"))
    shell.type(f"{shlex.join(one.command('sh', '-c', 'read line; exit $line'))} &\n")
    shell.wait_for(r"\[1\]")
    shell.wait_for(r"Stopped.*read line", asking="jobs -s\n")
    shell.type("fg\n7\n")
    shell.wait_for(r"nothing was recorded")
    shell.type("echo code=$?\n")
    shell.wait_for(r"code=7\r")


@pytest.mark.parametrize("leader", [True, False], ids=["ssh host lens-ship exec", "a shell"])
def test_a_terminal_that_is_lost_ends_the_job_and_everything_is_delivered(
    node: Nodes, receiver: FaultyReceiver, terminal: Callable[..., Terminal], leader: bool
) -> None:
    one = node()
    words = one.command()
    if leader:
        screen = terminal(words, one.environ())
    else:
        screen = terminal(["bash", "--norc", "-i"], one.environ(PS1="> ", TERM="dumb"))
        screen.type(f"{shlex.join(words)}\n")
    screen.wait_for(r"\nready\r" if not leader else r"ready\r")
    screen.close()
    wait_until(lambda: is_whole(receiver))
    # A shell sends its jobs one and the kernel sends one as the shell ends, to a bare job too. A
    # job that is slow to look sees the two as one.
    got = sorted(set(one.signals()) - {"SIGCONT"})
    assert got in (["SIGHUP"], ["SIGHUP"] if leader else ["SIGHUP", "SIGUSR2"])
    wait_until(lambda: not one.is_served())


def test_process_1_of_a_container_reaps_orphans_and_gets_term(
    node: Nodes, receiver: FaultyReceiver
) -> None:
    inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    probe = subprocess.run([*inside, "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("needs the right to make a pid namespace")
    one = node()
    script = (
        "(sleep 0.01 & echo $! > orphan); trap 'exit 4' TERM; "
        "while [ -e /proc/$(cat orphan) ]; do sleep 0.05; done; echo reaped; "
        "while :; do sleep 0.05; done"
    )
    process = subprocess.Popen(
        [*inside, *one.command("sh", "-c", script, drain=5)],
        env=one.environ(),
        cwd=one.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reaped\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)
    assert process.wait(PATIENCE_SECONDS) == 4
    process.communicate()
