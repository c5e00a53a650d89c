"""The training side in an environment without other packages, with a trap for every import.

A virtual environment holds the package, msgpack, the `.pth` file, and a finder that comes before
all others. It reports and refuses every import that is not the standard library, msgpack or
lens-ship. In it processes record, fork, are killed, start others, collect, and end. Every third
trial logs to a real wandb run, where only imports of lens-ship count. Threads are counted by the
interpreter and by the system. Switched off, no process may import lens-ship.
"""

from __future__ import annotations

import random
import subprocess
import sysconfig
import venv
from pathlib import Path

import msgpack

from shipper.discovery.layout import find_spools
from spooler.spool.reader import Reader
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.conservation import ALL
from tests.crash.lab.laboratory import REPOSITORY
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit.spools import PATIENCE_SECONDS, environment

OFF: tuple[dict[str, str | None], ...] = (
    {"PRIMUS_LENS_WANDB_OUTPUT_PATH": None},
    {"PRIMUS_LENS_WANDB_OUTPUT_PATH": ""},
    {"PRIMUS_LENS_WANDB_HOOK": "false"},
    {"PRIMUS_LENS_WANDB_HOOK": " Off"},
)

# The first .pth file of the environment imports this, so that it is there before ours is run.
TRAP = """
import os, sys
ALLOWED = frozenset(sys.stdlib_module_names) | {"msgpack", "spooler", "trap", "program"}
# What the standard library itself tries: `site`, and `copy` for Java's sake.
ALLOWED |= {"sitecustomize", "usercustomize", "org"}
ALONE = bool(os.environ.get("TRAP_ALONE"))
if not ALONE:
    ALLOWED |= {"wandb"}  # the program imports it, and we look for it on its behalf

def tell(text):
    file = os.open(os.environ["TRAP_TOLD"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, text.encode() + b"\\n")
    os.close(file)

def by_us():
    frame = sys._getframe(2)
    while frame is not None and "importlib" in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None and "/spooler/" in frame.f_code.co_filename

class Trap:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ALLOWED or not (ALONE or by_us()):
            return None
        tell(f"imports {name}")
        raise ImportError(f"{name} is not to be imported")

sys.meta_path.insert(0, Trap())
"""

PROGRAM = """
import multiprocessing, os, random, signal, subprocess, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from trap import tell

rng = random.Random(int(sys.argv[1]))
is_on, has_wandb, collects = (word == "1" for word in sys.argv[2:5])

def is_ours(thread):
    if not has_wandb:
        return thread.name != "MainThread"
    target = getattr(thread, "_target", None)  # wandb has threads of its own
    return str(getattr(target, "__module__", "")).startswith("spooler")

def look(most):
    ours = [m for m in sys.modules if m.partition(".")[0] in ("spooler", "shipper")]
    if not is_on and ours:
        tell(f"is off and has loaded {sorted(ours)[:3]}")
    threads = [t for t in threading.enumerate() if is_ours(t)]
    names = sorted(t.name for t in threads)
    if len(threads) > most:
        tell(f"has {len(threads)} threads, not {most}: {names}")
    if not all(t.daemon for t in threads):
        tell(f"has a thread that its end waits for: {names}")
    end = time.monotonic() + 20  # one that has just ended is there for a moment
    while not has_wandb and len(os.listdir("/proc/self/task")) > threading.active_count():
        if time.monotonic() > end:
            tell("has threads that the interpreter does not know")
            break

def burst(count=10):
    for number in range(count):
        if not is_on:
            continue
        if has_wandb:
            wandb.log({"x": number})
        elif recorder().record("step", {"run": "r", "step": number, "time": time.time(),
                                        "closed": True, "data": {"x": number}}):
            tell("took")

def child():
    look(0)
    burst()
    look(LIMIT)
    ending = rng.choice(("os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(0)",
                         "os.execv(sys.executable, [sys.executable, '-c', 'pass'])"))
    try:
        exec(ending)
    finally:
        os._exit(0)

def fork():
    pid = os.fork()
    if pid == 0:
        child()
    os.waitpid(pid, 0)

def spawn():
    words = [str(rng.randrange(10**6)), sys.argv[2], "0", "0", "again"]
    subprocess.run([sys.executable, sys.argv[0], *words], check=True)

def pool():
    with multiprocessing.get_context(rng.choice(("fork", "spawn"))).Pool(1) as made:
        made.map(burst, [3])

def work():
    def run():
        burst(5)
    threads = [threading.Thread(target=run) for _ in range(3)]
    [t.start() for t in threads]
    [t.join() for t in threads]

LIMIT = 1 + 2 * collects if is_on else 0  # the recorder, the agent and its collector
if is_on and not has_wandb:
    from spooler.recorder import recorder
if __name__ == "__main__":
    look(0)
    if has_wandb:
        import wandb
        if is_on and not hasattr(wandb.init, "_lens_ship_original"):
            tell("is on and has not hooked wandb")
        settings = wandb.Settings(console="off", silent=True)
        place = os.path.dirname(sys.argv[0])
        run = wandb.init(mode="offline", project="p", dir=place, settings=settings)
    burst()
    look(LIMIT)
    if is_on and collects:
        from spooler.diagnosis.start import start_from_environ
        start_from_environ()
    ways = [fork, work]
    if not has_wandb:
        ways += [pool] if len(sys.argv) > 5 else [pool, spawn]
    for _ in range(rng.randrange(3, 6)):
        rng.choice(ways)()
        burst()
        look(LIMIT)
    if has_wandb:
        run.finish()
    if is_on and not has_wandb:
        from spooler import detection
        facts = detection.RunFacts(project="p", name="n", id="i", config={}, tags=())
        detection.collect(facts, os.environ, sys.modules)
"""


def trial(seed: int, work: Path) -> Verdict:
    """Run one program switched on, and one switched off, in an environment of their own."""
    rng, found = random.Random(seed), Findings()
    has_wandb = seed % 3 == 2
    python = _environment(work / "env", has_wandb=has_wandb)
    told = work / "told"
    root = work / "spool"
    on: dict[str, str | None] = {"PRIMUS_LENS_WANDB_OUTPUT_PATH": str(root)}
    if rng.random() < 0.5 and not has_wandb:
        log = work / "train.log"
        log.write_text("a line\n" * 9, encoding="utf-8")
        on |= {"PRIMUS_LENS_COLLECTORS": "log", "TRAINING_LOG_FILE": str(log)}
    for is_on, environ in ((True, on), (False, {**on, **rng.choice(OFF)})):
        known = {"TRAP_TOLD": str(told), "TRAP_ALONE": None if has_wandb else "1"}
        words = [is_on, has_wandb, "PRIMUS_LENS_COLLECTORS" in environ]
        done = subprocess.run(
            [str(python), str(work / "program.py"), str(seed), *(str(int(w)) for w in words)],
            env=environment(**{**known, **environ}),
            cwd=work,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        way = "on" if is_on else "off"
        found.check(done.returncode == 0, "G9", f"{way}: ended with {done.stderr[-400:]}")
        said = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
        told.unlink(missing_ok=True)
        taken = said.count("took")
        for text in dict.fromkeys(line for line in said if line != "took"):
            found.check(False, "G9", f"{way}: {text}")
        found.faults += 1
        steps = _steps(root) if is_on else 0
        if is_on and not max(taken, steps) and not found.failures:
            raise RuntimeError("nothing was recorded: there was nothing to be light")
        found.check(steps >= taken, "G9", f"{way}: {taken} were taken, {steps} are there")
    return found.verdict()


def _environment(directory: Path, *, has_wandb: bool) -> Path:
    """An environment with lens-ship, msgpack and the trap. With all packages only for wandb."""
    venv.create(directory, symlinks=True)
    (site,) = directory.glob("lib/python*/site-packages")
    (site / "spooler").symlink_to(REPOSITORY / "spooler")
    (site / "msgpack").symlink_to(Path(msgpack.__file__).parent)
    (site / "trap.py").write_text(TRAP, encoding="utf-8")
    (site / "a_trap.pth").write_text("import trap\n", encoding="utf-8")
    ours = (REPOSITORY / "spooler" / "lens_ship.pth").read_text(encoding="utf-8")
    (site / "lens_ship.pth").write_text(ours, encoding="utf-8")
    if has_wandb:
        (site / "z.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    (directory.parent / "program.py").write_text(PROGRAM, encoding="utf-8")
    return directory / "bin" / "python"


def _steps(root: Path) -> int:
    """How many steps lie in all spools."""
    return sum(
        stored.kind == "step"
        for path in find_spools(root)
        for stored in Reader(path).read(0, ALL).records
    )


ATTACK = Attack(
    meaning="processes record, fork, are killed and end where no other package can be imported",
    promises=("G9",),
    trial=trial,
    trials=Trials(short=1, usual=6, long=40),
    catches=("imports-requests", "second-thread", "imported-when-disabled"),
)
