"""Instructions, not seconds: one append, one observed `wandb.log`, one step on its way out.

    python bench/instructions.py            # print the counts and compare them with the kept ones
    python bench/instructions.py --keep     # keep these as the figures to compare with

Each piece of work runs under valgrind's callgrind some times and then twice as many; the difference
is what the work itself takes, without the interpreter's start. The counts do not depend on how busy
the machine is, only on Python, its libraries and the code, so a change of a few percent is a change
of the code. Ends with 1 when a count has grown by more than a tenth of the kept one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT = HERE / "instructions.json"
TOLERANCE = 0.10
_METRICS = '{f"train/metric_{n}": n + 0.5 for n in range(8)}'

_APPEND = f"""
from pathlib import Path
from spooler.spool import codec
from spooler.spool.writer import Writer, Limits
spool = "20260101T000000-1-00000000"
writer = Writer(root=Path(WORK), below=("node_0", "rank_0"), spool=spool,
                identity=codec.pack({{"spool": spool}}), limits=Limits())
body = codec.pack({{"run": "r", "step": 1, "time": 1.7e9, "closed": True, "data": {_METRICS}}})
settle()
for _ in range(COUNT):
    writer.append("step", body)
os._exit(0)
"""

_OBSERVE = f"""
os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = WORK
from spooler.hooks import wandb as hook
from spooler.recorder import recorder
class Run:
    _local_step = 0
run = Run()
run.__dict__["_local_step"] = 0
run.__dict__[hook._STATE] = state = hook._WandbRun(run)
state.generation = recorder().generation
data = {_METRICS}
settle()
for index in range(COUNT):
    hook.observe_log(run, index, data)
os._exit(0)
"""

# What the imports have made is no concern of a collection that falls into the counted work.
_SETTLE = """
def settle():
    import gc
    gc.collect()
    gc.freeze()
"""

# Everything between the spool and the wire for 100 steps: read, plan, body.
_SHIP = f"""
from pathlib import Path
from shipper.sinks import PlanInput
from shipper.sinks.processor.metrics import MetricsOptions, MetricsSink
from shipper.sinks.processor import encode
from spooler.records import step
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader
from spooler.spool.writer import Writer, Limits
spool = "20260101T000000-1-00000000"
who = Identity(spool=spool, created=1.7e9, pid=1, host="h", workload_uid="w")
writer = Writer(root=Path(WORK), below=("node_0", "rank_0"), spool=spool,
                identity=codec.pack(who.to_map()), limits=Limits())
for index in range(100):
    body = step.encode(run="r", step=index, time=1.7e9 + index, closed=True, data={_METRICS})
    writer.append(step.NAME, codec.pack(body))
writer.close()
sink = MetricsSink("processor", MetricsOptions(), {{}})
reader = Reader(writer.directory)
settle()
for _ in range(COUNT):
    records = reader.read(0, 500).records
    plan = sink.plan(PlanInput(identity=who, records=records, ended=True))
    (batch,) = plan.batches
    encode.body(batch.payload, who)
os._exit(0)
"""

# Name -> (program, repetitions, units of work in one repetition).
WORK = {
    "a spool append of 8 metrics": (_APPEND, 300, 1),
    "the hook's part of one wandb.log": (_OBSERVE, 300, 1),
    "one step from spool to request body": (_SHIP, 4, 100),
}


def count(program: str, repetitions: int) -> int:
    """Instructions of a whole interpreter that repeats the work."""
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as work:
        text = f"import os\nWORK = {work + '/spool'!r}\nCOUNT = {repetitions}\n{_SETTLE}{program}"
        done = subprocess.run(
            (
                *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
                *(sys.executable, "-c", text),
            ),
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(HERE.parent)},
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise SystemExit(f"valgrind counted nothing:\n{done.stderr}")
    return int(found[1])


def measure() -> dict[str, int]:
    """Instructions per unit of each work."""
    figures = {}
    for name, (program, repetitions, units) in WORK.items():
        once, twice = (count(program, times * repetitions) for times in (1, 2))
        figures[name] = round((twice - once) / repetitions / units)
    return figures


def machine() -> str:
    """What the counts depend on, besides the code."""
    return (
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.uname().machine}"
    )


def main() -> int:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep these figures")
    given = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("valgrind is not installed: nothing is counted")
        return 0
    figures = measure()
    every = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept = every.get(machine(), {})
    print(f"instructions, {machine()}")
    grown = False
    for name, figure in figures.items():
        before = kept.get(name)
        change = f"  {figure / before - 1:+.1%} against {before:,}" if before else ""
        grown = grown or bool(before and figure > before * (1 + TOLERANCE))
        print(f"  {name:<40}{figure:>10,}{change}")
    if given.keep:
        every[machine()] = figures
        KEPT.write_text(json.dumps(every, indent=2) + "\n")
    return 1 if grown and not given.keep else 0


if __name__ == "__main__":
    sys.exit(main())
