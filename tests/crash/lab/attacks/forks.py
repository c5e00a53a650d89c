"""Forks, spawns, execs, signals, threads and abrupt ends during logging.

A child never touches its parent's spool, never repeats what the parent recorded, and never hangs;
what it has recorded itself is there, whatever way it ends. The storm runs in an interpreter of its
own, because a fork inherits what the test's own process holds.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from shipper.discovery.layout import find_spools
from spooler.spool import codec
from spooler.spool.reader import Reader
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.conservation import ALL
from tests.crash.lab.laboratory import REPOSITORY
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit.spools import PATIENCE_SECONDS, environment

STORMS = 1

# Every process appends what it was promised to a file of its own, one line for each record.
PRELUDE = """
import faulthandler, json, multiprocessing, os, random, signal, subprocess, sys, threading, time
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
faulthandler.enable()  # who hangs is asked where, by a signal that children take, too
from spooler.recorder import recorder
seed, promised = int(sys.argv[1]), sys.argv[2]
rng = random.Random(seed * 100 + len(sys.argv))

class Log:
    pid = 0
    def __call__(self, number):
        if self.pid != os.getpid():
            self.pid, self.lock = os.getpid(), threading.RLock()
            self.file = os.open(f"{promised}/{self.pid}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        body = {"run": "r", "step": number, "time": time.time(), "closed": True,
                "data": {"pid": os.getpid()}}
        taken = recorder().record("step", body)
        os.write(self.file, f"{number} {int(taken)}\\n".encode())
        return taken

log = Log()
def burst(count=20):
    for _ in range(count):
        log(rng.randrange(2**62))
def work(number):
    burst(5)
    return number
def wait(child):
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
"""

CLOSES = "the program closes every descriptor and takes their numbers"
STORM = {
    "forks during threads": """
stop = threading.Event()
def run():
    while not stop.is_set():
        burst(3)
threads = [threading.Thread(target=run) for _ in range(3)]
[t.start() for t in threads]
for _ in range(15):
    child = os.fork()
    if child == 0:
        burst()
        os._exit(0)
    wait(child)
stop.set()
[t.join() for t in threads]
""",
    "children end in every way": """
burst()
for ending in ("os._exit(0)", "sys.exit(0)", "os.kill(os.getpid(), 9)",
               "os.execv(sys.executable, [sys.executable, '-c', 'pass'])"):
    for _ in range(3):
        child = os.fork()
        if child == 0:
            burst()
            exec(ending)
        burst(3)
        wait(child)
burst()
""",
    "workers of a pool, each way": """
if __name__ == "__main__":
    burst()
    for method in ("fork", "forkserver", "spawn"):
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            assert sorted(pool.map(work, range(8), chunksize=1)) == list(range(8))
        burst()
""",
    "grandchildren": """
def descend(depth):
    burst(5)
    if depth == 0:
        return
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            descend(depth - 1)
            os._exit(0)
        children.append(child)
    burst(5)
    [wait(child) for child in children]
descend(3)
""",
    "signal handlers that log": """
depth = 0
def handle(number, frame):
    global depth
    if depth > 2:
        return
    depth += 1
    log(rng.randrange(2**62))
    depth -= 1
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
for _ in range(8):
    burst(50)
    child = os.fork()
    if child == 0:
        burst()
        os._exit(0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    wait(child)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
signal.setitimer(signal.ITIMER_REAL, 0)
""",
    "the interpreter ends while daemon threads log": """
def run():
    while True:
        burst(3)
for _ in range(3):
    threading.Thread(target=run, daemon=True).start()
burst(100)
""",
    "os._exit in the midst": """
def run():
    while True:
        burst(3)
for _ in range(3):
    threading.Thread(target=run, daemon=True).start()
burst(100)
os._exit(0)
""",
    CLOSES: """
for _ in range(3):
    burst()
    os.close(log.file)
    os.closerange(3, 1000)
    mine = [os.memfd_create("mine") for _ in range(12)]
    [os.write(file, b"mine") for file in mine]
    log.pid = 0
    while not log(rng.randrange(2**62)):
        time.sleep(0.05)  # what is refused until recording resumes is counted
    burst()
    assert [os.pread(file, 99, 0) for file in mine] == [b"mine"] * 12
    assert [os.lseek(file, 0, os.SEEK_CUR) for file in mine] == [4] * 12
    [os.close(file) for file in mine]
""",
    "exec in the midst": """
burst(50)
if len(sys.argv) < 4:
    os.execv(sys.executable, [sys.executable, *sys.argv, "again"])
""",
}
# Records in a segment. What is closed while another thread uses it is beyond any program.
SEGMENTS = {CLOSES: (1000,)}


def trial(seed: int, work: Path) -> Verdict:
    """Run one kind of storm a few times; consecutive seeds are consecutive kinds."""
    found = Findings()
    name = list(STORM)[seed % len(STORM)]
    for number in range(STORMS):
        _storm(name, random.Random(seed * STORMS + number), work / f"{number}", found)
    return found.verdict()


def _storm(name: str, rng: random.Random, work: Path, found: Findings) -> None:
    root, promised, script = work / "spool", work / "promised", work / "storm.py"
    promised.mkdir(parents=True)
    script.write_text(PRELUDE + STORM[name], encoding="utf-8")
    done = _run(
        [sys.executable, str(script), str(rng.randrange(10**9)), str(promised)],
        environment(
            PYTHONPATH=str(REPOSITORY),
            PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root),
            PRIMUS_LENS_SPOOL_SEGMENT_RECORDS=str(rng.choice(SEGMENTS.get(name, (4, 30, 1000)))),
        ),
    )
    if isinstance(done, str):
        found.check(False, "G2", f"{name}: hangs: {done}")
        return
    found.check(done.returncode == 0, "G2", f"{name}: {done.returncode}, {done.stderr[-300:]}")
    is_quiet = name == CLOSES or "lens-ship" not in done.stderr
    found.check(is_quiet, "G2", f"{name}: {done.stderr[-300:]}")
    spools = _spools(name, root, found)
    for file in promised.iterdir():
        lines = [line.split() for line in file.read_text(encoding="ascii").splitlines()]
        taken = [int(number) for number, was_taken in lines if was_taken == "1"]
        refused = len(lines) - len(taken)
        found.faults += 1
        is_kept = name == CLOSES or refused == 0
        found.check(is_kept, "G2", f"{name}: process {file.name}: {refused} refused")
        got = spools.pop(int(file.name), [])
        lost = set(taken) - set(got)
        found.worst("lost records", len(lost))
        found.check(not lost, "G1", f"{name}: process {file.name} lost {len(lost)}")
        # Beside what was told, one call of each thread may have been under way at its end.
        odd = len(set(got) - set(taken))
        found.check(odd <= 4, "G1", f"{name}: process {file.name} has {odd} that it never logged")
        found.check(len(set(got)) == len(got), "G1", f"{name}: recorded twice by {file.name}")
    stray = {pid: len(steps) for pid, steps in spools.items() if len(steps) > 4}
    found.check(not stray, "G1", f"{name}: records of processes that logged nothing: {stray}")


def _run(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str] | str:
    """What it printed, or where it hangs."""
    storm = subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, complained = storm.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(storm.pid, signal.SIGABRT)
        try:
            return storm.communicate(timeout=PATIENCE_SECONDS)[1][-6000:]
        except subprocess.TimeoutExpired:
            os.killpg(storm.pid, signal.SIGKILL)
            return storm.communicate()[1][-6000:]
    return subprocess.CompletedProcess(command, storm.returncode, said, complained)


def _spools(name: str, root: Path, found: Findings) -> dict[int, list[int]]:
    """The steps that each process has recorded, by its pid."""
    steps: dict[int, list[int]] = {}
    for path in find_spools(root):
        reader = Reader(path)
        if not reader.segments():
            continue
        pid = reader.identity().pid
        chunk = reader.read(0, ALL)
        found.check(not chunk.damage, "G7", f"{name}: {chunk.damage[:2]}")
        found.check(not reader.is_owned(), "G1", f"{name}: a dead process owns its spool")
        bodies = [codec.unpack(s.body) for s in chunk.records if s.kind == "step"]
        whose = {body["data"]["pid"] for body in bodies}
        found.check(whose <= {pid}, "G1", f"{name}: {whose} wrote into the spool of {pid}")
        steps.setdefault(pid, []).extend(body["step"] for body in bodies)
    return steps


ATTACK = Attack(
    meaning=f"forks, spawns, execs, signals, threads and abrupt ends: {len(STORM)} kinds of storm",
    promises=("G1", "G2", "G7"),
    trial=trial,
    trials=Trials(short=len(STORM), usual=6 * len(STORM), long=60 * len(STORM)),
    catches=(
        "parent-connection-after-fork",
        "fork-without-waiting",
        "handler-takes-the-same-number",
        "wakes-with-a-lock",
        "descriptor-not-checked",
    ),
)
