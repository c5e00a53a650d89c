"""What the package costs an interpreter: `import spooler`, and its `.pth` line, off and on.

    python bench/import_cost.py [--rounds 30]

`import spooler` is timed inside the interpreter that does it, and as instructions of the whole
interpreter beside one that imports nothing; `import spooler.hooks.wandb`, which happens when wandb
has been imported, as a share of that. The `.pth` file runs at every start of Python in the
environment, also of programs that have nothing to do with training: a folder with it and one with
an empty `.pth` are added to the path, in turns, and what reading them takes is timed; instructions
are counted in the same way. So it is with the hook on, and with collectors wanted as well: what
`python -c pass` pays then. Turns go round by round; figures are medians.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from aims import aim

REPOSITORY = Path(__file__).resolve().parent.parent
PTH = REPOSITORY / "spooler" / "lens_ship.pth"
_TIMED = "import time; begun = time.perf_counter(); {}; print(time.perf_counter() - begun)"
_ON = "import os, site; os.environ.update({})"
_SWITCHED_ON = {
    "with the hook on": {"PRIMUS_LENS_WANDB_OUTPUT_PATH": "/nowhere"},
    "with collectors wanted": {
        "PRIMUS_LENS_WANDB_OUTPUT_PATH": "/nowhere",
        "PRIMUS_LENS_COLLECTORS": "true",
    },
}
_HOOK = f"import wandb; {_TIMED.format('import spooler.hooks.wandb')}"


def environment(**more: str) -> dict[str, str]:
    """Without anything that switches the hook on."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PRIMUS_LENS")}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "0", **more}


def seconds(code: str, program: str = _TIMED) -> float:
    """How long `code` takes in a new interpreter, by its own clock."""
    return float(_run((sys.executable, "-c", program.format(code))))


def instructions(code: str) -> int | None:
    """Those of a whole interpreter; None without valgrind."""
    if shutil.which("valgrind") is None:
        return None
    valgrind = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
    done = subprocess.run(
        (*valgrind, sys.executable, "-c", code),
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    return int(found[1]) if found else None


def _run(command: tuple[str, ...]) -> str:
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    return done.stdout


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as folder:
        ours, empty = Path(folder) / "ours", Path(folder) / "empty"
        for place, text in ((ours, PTH.read_text()), (empty, "\n")):
            place.mkdir()
            (place / PTH.name).write_text(text)
        show_start(folder, given.rounds)
        compare(f"site.addsitedir({str(ours)!r})", f"site.addsitedir({str(empty)!r})", given.rounds)


def show_start(folder: str, rounds: int) -> None:
    """What the call with which a training begins takes longer, once in a process."""
    wanted = {**_SWITCHED_ON["with collectors wanted"], "PRIMUS_LENS_WANDB_OUTPUT_PATH": folder}
    start = "from spooler.diagnosis.start import start_from_environ as start; start()"
    timed = _TIMED.format(start).replace("perf_counter", "process_time")
    program = f"{_ON.format(wanted)}; {timed}"
    _run((sys.executable, "-c", program))  # compiles what is not compiled yet
    taken = median(float(_run((sys.executable, "-c", program))) for _ in range(rounds))
    print(f"  start of the collectors, once in a training process: {1000 * taken:.0f} ms CPU")


def compare(ours: str, empty: str, rounds: int) -> None:
    """Take turns, print."""
    seconds("import spooler")  # compiles what is not compiled yet
    imports, with_line, without = list[float](), list[float](), list[float]()
    ways = {title: f"{_ON.format(on)}; {ours}" for title, on in _SWITCHED_ON.items()}
    hooked: dict[str, list[float]] = {title: [] for title in ways}
    for _ in range(rounds):
        imports.append(seconds("import spooler"))
        with_line.append(seconds(f"import site; {ours}"))
        without.append(seconds(f"import site; {empty}"))
        for title, code in ways.items():
            hooked[title].append(seconds(code))
    hooks = [seconds("", _HOOK) for _ in range(rounds // 4)]
    wandbs = [seconds("import wandb") for _ in range(rounds // 4)]
    line = 1000 * (median(with_line) - median(without))
    print(aim("import spooler", 1000 * median(imports), 15, " ms"))
    print(aim("the .pth line while the hook is off", line, 1, " ms"))
    for title, taken in hooked.items():
        print(f"  the .pth line {title}: {1000 * (median(taken) - median(without)):.2f} ms")
    print(
        f"  import spooler.hooks.wandb, once wandb is there: {1000 * median(hooks):.1f} ms,"
        f" {median(hooks) / median(wandbs):.3f} times what importing wandb takes"
    )
    counts = [
        instructions(code)
        for code in ("pass", "import spooler", f"import site; {ours}", f"import site; {empty}")
    ]
    if None in counts:
        print("  valgrind is not installed: no instructions are counted")
        return
    bare, imported, lined, unlined = (count or 0 for count in counts)
    print(f"  instructions of a bare interpreter: {bare:,}")
    print(f"  import spooler adds {imported - bare:,}: {imported / bare:.3f} times a bare one")
    print(f"  the .pth line adds {lined - unlined:,}: {1 + (lined - unlined) / bare:.5f} times")
    for title, code in ways.items():
        print(f"  {title} it adds {(instructions(code) or 0) - unlined:,}")


if __name__ == "__main__":
    main()
