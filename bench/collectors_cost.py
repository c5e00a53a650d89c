"""What the collectors cost the training process, at their default intervals.

A training-like loop (some milliseconds of Python, then a wait as for a device, a log line each step
and a recorded step each tenth) runs once without and once with the diagnosis agent, which follows
the log, samples an XPU timer's page and stands ready for hangs. What the agent's threads have used
is read from the kernel's accounting of them, which resolves what the difference between two
processes does not; that difference is printed too. The periodic look at the stacks comes every ten
minutes: one is taken and its share reckoned.

    python bench/collectors_cost.py [--seconds 60]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WARM_SECONDS = 12.0  # the first lines of the log load modules: told apart
STEP_SECONDS = 0.01
SAMPLE = "".join(f'XPU_TIMER_MM_KERNEL{{rank="0",kernel="{n}"}} {n}.5\n' for n in range(400))


def step(number: int, log: Any) -> None:
    """A step of training: some work, a line, a wait."""
    until = time.perf_counter() + STEP_SECONDS / 2
    while time.perf_counter() < until:
        sum(range(500))
    log.write(f"step {number} loss {1 / (number + 1):.6f} lr 3.0e-04 grad norm 1.234\n")
    log.flush()
    time.sleep(STEP_SECONDS / 2)


def train(seconds: float, *, collect: bool) -> dict[str, float]:
    """Train for so long; what the process and the agent's thread have used of the processor."""
    from spooler import DiagnosisAgent
    from spooler.recorder import recorder

    agent = DiagnosisAgent.singleton_instance()
    with open(os.environ["TRAINING_LOG_FILE"], "a", encoding="utf-8") as log:
        if collect:
            agent.start()
        begun = time.monotonic()
        before: dict[str, float] = {}
        number = 0
        while (now := time.monotonic() - begun) < WARM_SECONDS + seconds:
            if not before and now >= WARM_SECONDS:
                before = used(agent)
            step(number, log)
            if number % 10 == 0:
                recorder().record("step", {"run": "r", "step": number, "time": 0.0, "data": {}})
            number += 1
        after = used(agent)
    look = time.thread_time()
    agent._stack.store_data(agent._stack.collect_data())
    return {
        "steps": number,
        "first": before["agent"],
        "agent": after["agent"] - before["agent"],
        "process": after["process"] - before["process"],
        "look": time.thread_time() - look,
    }


def used(agent: Any) -> dict[str, float]:
    """Processor seconds so far, of the process and of the agent's threads."""
    threads = (agent._thread, *(turn.thread for turn in agent._turns))
    nanoseconds = sum(
        int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0])
        for thread in threads
        if thread is not None
    )
    return {"process": time.process_time(), "agent": nanoseconds / 1e9}


@contextmanager
def xpu_timer() -> Iterator[int]:
    """A metrics page as the timer has it; its port."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(SAMPLE)))
            self.end_headers()
            self.wfile.write(SAMPLE.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()


def run(seconds: float, port: int, *, collect: bool) -> dict[str, float]:
    """`train`, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as work:
        done = subprocess.run(
            [
                sys.executable,
                __file__,
                "--seconds",
                str(seconds),
                "--part",
                "yes" if collect else "no",
            ],
            env={
                **os.environ,
                "PRIMUS_LENS_WANDB_OUTPUT_PATH": f"{work}/spool",
                "TRAINING_LOG_FILE": f"{work}/train.log",
                "XPU_TIMER_PORT": str(port),
            },
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Both runs, and the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--part", choices=["no", "yes"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(train(options.seconds, collect=options.part == "yes")))
        return
    with xpu_timer() as port:
        without = run(options.seconds, port, collect=False)
        with_them = run(options.seconds, port, collect=True)
    share = 100 * with_them["agent"] / options.seconds
    look = 100 * with_them["look"] / 600
    difference = 100 * (with_them["process"] - without["process"]) / options.seconds
    print(
        f"collectors at default intervals, {options.seconds:.0f} s, {with_them['steps']:.0f} steps:"
    )
    print(f"  log, XPU timer and hang watch  {share:.4f} % of one processor")
    print(
        f"  stacks, every 600 s            {look:.4f} % ({1000 * with_them['look']:.1f} ms a look)"
    )
    print(f"  together                       {share + look:.4f} %, aim: below 0.1 %")
    print(f"  once, in the first {WARM_SECONDS:.0f} s         {1000 * with_them['first']:.0f} ms")
    print(f"  processes with and without     {difference:+.2f} % of one processor, noise included")


if __name__ == "__main__":
    main()
