"""What the hook adds to `wandb.log`: by metrics a call, kind of values, threads; and its tail.

    python bench/hook_cost.py [--calls 50000] [--paced 4000] [--each 4000] [--metrics 1,8,64,512]

Real wandb, offline; each row is played in a process of its own, in which calls with the hook and
calls of the method that it wraps take turns in blocks, so that the machine's mood meets both alike.
Figures are microseconds a call. With several threads all of them log at once into one run.

First 8 metrics `--calls` times each: how many calls took more than a millisecond, with the hook and
without, in the same run; then `--paced` times with a millisecond of rest before each, as in a quick
training loop. Then the rows, of `--each` calls each, fewer where there are many metrics.

The hook's own part is shown after a bare `wandb.log`, whose work takes the hook's code and SQLite's
out of the processor's caches, and again and again. The floor is played beside it: an `INSERT` and
an `os.write` of the same bytes, and calls of `wandb.log` with such an `INSERT`. An `INSERT` adds
more than it takes, since wandb finds the caches full of SQLite in turn. "waits" counts how often a
call gave up its processor (`ru_nvcsw`): for the interpreter's lock or any other.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aims import aim, at
from append_cost import bare_insert

HOOKED, BARE = "wandb.log with the hook", "bare wandb.log"
WITH_INSERT = "wandb.log and an INSERT of the same bytes"
OWN, AGAIN = "the hook's own part", "the hook's own part, again and again"
INSERT, WRITE = "an INSERT of the same bytes", "an os.write of the same bytes"
BLOCK = 50
_SLOW = 1_000_000  # nanoseconds
VALUES: dict[str, Callable[[int], Any]] = {
    "float": lambda number: number + 0.5,
    "numpy": lambda number: _numpy(number),
    "torch": lambda number: _torch(number),
}


def _numpy(number: int) -> Any:
    import numpy as np

    return np.float32(number + 0.5)


def _torch(number: int) -> Any:
    import torch

    return torch.tensor(number + 0.5)


def play(
    work: Path, metrics: int, values: str, threads: int, calls: int, pause: float, names: list[str]
) -> dict[str, Any]:
    """The process of one row: so many calls of each contestant in each thread; what they took."""
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(work / "spool")
    os.environ["WANDB_MODE"] = "offline"
    os.environ["WORKLOAD_UID"] = "bench"
    import wandb

    import spooler
    from spooler.hooks import wandb as hook
    from spooler.spool import codec

    spooler.install()
    settings = wandb.Settings(console="off", silent=True)
    run = wandb.init(project="bench", dir=str(work), settings=settings)
    data = {f"metric/{number}": VALUES[values](number) for number in range(metrics)}
    floats = {name: float(value) for name, value in data.items()}
    packed = codec.pack({"run": run.id, "step": 1, "time": time.time(), "data": floats})
    floor = os.open(work / "floor", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    insert = bare_insert(work, packed)
    # The method that the hook wraps.
    bare = functools.partial(type(run).log._lens_ship_original, run, data)
    observe = functools.partial(hook.observe_log, run, 1, data)
    all_of_them = {
        BARE: Contestant(bare),
        HOOKED: Contestant(lambda: run.log(data)),
        WITH_INSERT: Contestant(lambda: (bare(), insert())),
        OWN: Contestant(observe, before=bare),
        AGAIN: Contestant(observe),
        INSERT: Contestant(insert, before=bare),
        WRITE: Contestant(lambda: os.write(floor, packed), before=bare),
    }
    doing = {name: all_of_them[name] for name in names}
    for one in doing.values():
        one.call()  # opens, announces, warms up
    together = threading.Barrier(threads)
    taken: list[dict[str, Taken]] = [{name: Taken() for name in doing} for _ in range(threads)]
    players = [
        threading.Thread(target=_player, args=(doing, calls, pause, together, mine))
        for mine in taken
    ]
    for player in players:
        player.start()
    for player in players:
        player.join()
    wandb.finish()
    return {name: summary([mine[name] for mine in taken]) for name in doing}


@dataclass(frozen=True)
class Contestant:
    """What is timed, and what is done before it."""

    call: Callable[[], Any]
    before: Callable[[], Any] = lambda: None


@dataclass
class Taken:
    """Nanoseconds of each call, and how often they gave up the processor."""

    times: list[int] = field(default_factory=list)
    waits: int = 0


def _player(
    doing: dict[str, Contestant],
    calls: int,
    pause: float,
    together: threading.Barrier,
    taken: dict[str, Taken],
) -> None:
    names = list(doing)
    for _ in range(max(1, calls // BLOCK)):
        for name in names:
            together.wait()
            for _ in range(BLOCK):
                if pause:
                    time.sleep(pause)
                _play_one(doing[name], taken[name])
        names = names[1:] + names[:1]


def _play_one(contestant: Contestant, taken: Taken) -> None:
    clock, usage, this_thread = time.perf_counter_ns, resource.getrusage, resource.RUSAGE_THREAD
    contestant.before()
    waited = usage(this_thread).ru_nvcsw
    began = clock()
    contestant.call()
    ended = clock()
    taken.waits += usage(this_thread).ru_nvcsw - waited
    taken.times.append(ended - began)


def summary(taken: list[Taken]) -> dict[str, float]:
    """What is told of all threads' calls of one contestant, in microseconds."""
    times = sorted(itertools.chain(*(mine.times for mine in taken)))
    quantiles = {f"p{100 * q:g}": at(times, q) for q in (0.5, 0.99, 0.999, 1.0)}
    slow = sum(one > _SLOW for one in times)
    mean = sum(times) / len(times) / 1000
    waits = sum(mine.waits for mine in taken) / len(times)
    return {"mean": mean, **quantiles, "slow": slow, "waits": waits, "calls": len(times)}


def row(
    metrics: int, values: str, threads: int, calls: int, names: tuple[str, ...], pause: float = 0.0
) -> dict[str, dict[str, float]]:
    """One row, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as work:
        numbers = map(str, (metrics, values, threads, calls, pause))
        given = ("--play", work, *numbers, json.dumps(names))
        done = subprocess.run(
            (sys.executable, __file__, *given), capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(given)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def show_long(calls: int, pause: float) -> None:
    """8 metrics, one thread, very often."""
    names = (BARE, HOOKED, WITH_INSERT, OWN, AGAIN, INSERT, WRITE)
    found = row(8, "float", 1, calls, names, pause)
    pace = "a millisecond of rest before each" if pause else "flat out"
    print(f"8 metrics, {found[BARE]['calls']:,.0f} calls each, {pace}, µs a call")
    columns = ("mean", "p50", "p99", "p99.9", "p100")
    print(f"  {'':<40}{''.join(f'{name:>9}' for name in columns)}{'> 1 ms':>8}{'waits':>8}")
    for name in names:
        if name == OWN:
            print("  after a bare wandb.log:")
        figures = "".join(f"{found[name][column]:>9.1f}" for column in columns)
        print(f"  {name:<40}{figures}{found[name]['slow']:>8.0f}{found[name]['waits']:>8.3f}")
    hooked, bare, least = found[HOOKED], found[BARE], found[WITH_INSERT]
    added, floor = hooked["p50"] - bare["p50"], least["p50"] - bare["p50"]
    print(f"  an INSERT of the same bytes adds at p50: {floor:.2f} µs")
    print(aim("added at p50, 8 metrics", added, 20, " µs"))
    print(aim("added at p50 / what an INSERT adds", added / floor, 1.3))
    print(aim("added at p99, 8 metrics", hooked["p99"] - bare["p99"], 80, " µs"))
    print(aim("the hook's own part at p50", found[OWN]["p50"], 20, " µs"))
    print(aim("the hook's own part at p99", found[OWN]["p99"], 80, " µs"))
    print(aim("calls above 1 ms, against those without the hook", hooked["slow"], bare["slow"]))


def show_rows(metrics: list[int], each: int) -> None:
    """All combinations."""
    kinds = [name for name in VALUES if name == "float" or importlib.util.find_spec(name)]
    for name in VALUES.keys() - kinds:
        print(f"{name} is not installed here: no row for its values")
    print(
        f"{'added by the hook, µs a call':<32}{'mean':>8}{'p50':>8}{'p99':>8}   |"
        "  bare p50  the hook's own part p50"
    )
    for number, values, threads in itertools.product(metrics, kinds, (1, 4)):
        calls = max(5 * BLOCK, each // threads // (1 + number // 64))
        found = row(number, values, threads, calls, (BARE, HOOKED, OWN))
        hooked, bare, own = found[HOOKED], found[BARE], found[OWN]
        what = f"{number} {values}, {threads} thread{'s' * (threads > 1)}"
        added = "".join(f"{hooked[name] - bare[name]:>8.0f}" for name in ("mean", "p50", "p99"))
        print(f"  {what:<30}{added}   |{bare['p50']:>10.1f}{own['p50']:>12.1f}", flush=True)


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=50_000, help="of the long row")
    parser.add_argument("--paced", type=int, default=4000, help="of the long row, with rests")
    parser.add_argument("--each", type=int, default=4000, help="of every other row")
    parser.add_argument("--metrics", default="1,8,64,512", help="how many a call, with commas")
    parser.add_argument("--play", nargs=7, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.play:
        work, metrics, values, *rest, names = given.play
        numbers = (int(rest[0]), int(rest[1]), float(rest[2]))
        print(json.dumps(play(Path(work), int(metrics), values, *numbers, json.loads(names))))
        return
    show_long(given.calls, 0.0)
    print()
    show_long(given.paced, 0.001)
    print()
    show_rows([int(number) for number in given.metrics.split(",")], given.each)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
