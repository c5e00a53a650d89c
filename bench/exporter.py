"""What arrives of a run: through Primus' own exporter for wandb, and through lens-ship.

    make bench-exporter      # a virtual environment with both, then: python bench/exporter.py

Real wandb, offline, 8 metrics a step, each step with its number, at several rates for `--seconds`.
Half of the processes end in order, half are killed with SIGKILL at the end of their last call. The
receiver (`thin_receiver.py`) answers at once, and counts each point once however often it comes.
What is told is which part of the steps had arrived when nothing more came; steps per second are
those that arrived by the time that logging took.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from thin_receiver import serve

HERE = Path(__file__).resolve().parent
METRICS = 8
_NAME = "train/metric_"
EXPORTER, OURS = "the exporter", "lens-ship"
ENDS = ("in order", "SIGKILL")
# When for so long nothing more has come, nothing more will; both send every five seconds.
QUIET_SECONDS = 20.0


class Arrived:
    """Distinct points, by workload; told on the receiver's threads."""

    def __init__(self) -> None:
        self.points: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self.last = time.monotonic()
        self._lock = threading.Lock()

    def note(self, head: bytes, body: bytes) -> None:
        """One request."""
        if b"/wandb/metrics" not in head.split(b"\r\n", 1)[0]:
            return
        request = json.loads(body)
        with self._lock:
            self.last = time.monotonic()
            mine = self.points[request["workload_uid"]]
            mine.update(
                (point["name"], point["step"])
                for point in request["metrics"]
                if point["name"].startswith(_NAME)  # not the word of an end without a goodbye
            )

    def steps(self, workload: str) -> float:
        """Whole steps, reckoned from points."""
        with self._lock:
            return len(self.points[workload]) / METRICS

    def wait(self) -> None:
        """Until nothing has come for a while."""
        self.last = time.monotonic()
        while (left := self.last + QUIET_SECONDS - time.monotonic()) > 0:
            time.sleep(left)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training process."""

    tool: str
    rate: float  # steps a second
    steps: int
    end: str

    @property
    def workload(self) -> str:
        """The name under which its points arrive."""
        return f"{self.tool}, {self.rate:g}, {self.end}"


def train(tool: str, rate: float, steps: int, end: str, work: str) -> None:
    """The process of a job: log at the rate, then end."""
    if tool == EXPORTER:
        from primus_lens_wandb_exporter.wandb_hook import install_wandb_hook

        install_wandb_hook()
    else:
        import spooler

        spooler.install()
    import wandb

    settings = wandb.Settings(console="off", silent=True)
    wandb.init(project="bench", dir=work, mode="offline", settings=settings)
    began = time.perf_counter()
    for index in range(steps):
        time.sleep(max(0.0, began + index / rate - time.perf_counter()))
        wandb.log({f"{_NAME}{n}": index + n / 10 for n in range(METRICS)}, step=index)
    if end == "SIGKILL":
        os.killpg(0, signal.SIGKILL)
    wandb.finish()


def start(job: Job, url: str, root: Path) -> subprocess.Popen[bytes]:
    """Its process, with the interpreter that runs this."""
    work = root / job.workload.replace(", ", "-").replace(" ", "_")
    work.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parent),
        "PRIMUS_LENS_API_BASE_URL": url,
        "WORKLOAD_UID": job.workload,
    }
    output = root / "spool" if job.tool == OURS else work
    environment["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(output)
    given = (job.tool, *map(str, (job.rate, job.steps)), job.end, str(work))
    return subprocess.Popen(
        (sys.executable, __file__, "--train", *given),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=(work / "said").open("wb"),
        start_new_session=True,
    )


@contextmanager
def service(root: Path, url: str, python: Path) -> Iterator[None]:
    """A `lens-ship run`."""
    (root / "spool").mkdir()
    command = ("-c", "from shipper.cli import main; main()", "run", "--log-level", "error")
    given = ("--spool", str(root / "spool"), "--state", str(root / "state"), "--processor-url", url)
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "LENS_SHIP_HTTP_LISTEN": "off"}
    running = subprocess.Popen((str(python), *command, *given), env=environment)
    try:
        yield
    finally:
        running.terminate()
        running.wait()


def play(rate: float, seconds: float, python: Path) -> list[tuple[Job, float]]:
    """All jobs of one rate side by side, and how many of their steps arrived."""
    steps = max(1, round(rate * seconds))
    jobs = [
        Job(tool=tool, rate=rate, steps=steps, end=end) for end in ENDS for tool in (EXPORTER, OURS)
    ]
    arrived = Arrived()
    url = serve(arrived.note)
    with tempfile.TemporaryDirectory(
        prefix="lens-ship-bench-", ignore_cleanup_errors=True
    ) as folder:
        root = Path(folder)
        with service(root, url, python):
            running = [(job, start(job, url, root)) for job in jobs]
            for job, one in running:
                expected = -signal.SIGKILL if job.end == "SIGKILL" else 0
                if one.wait() != expected:
                    raise SystemExit(f"{job.workload}: its process ended with {one.returncode}")
            arrived.wait()
    return [(job, arrived.steps(job.workload)) for job in jobs]


def main() -> None:
    """Play every rate, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rates", default="1,10,100", help="steps a second, with commas")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument(
        "--service", type=Path, default=Path(sys.executable), help="the Python that runs lens-ship"
    )
    parser.add_argument("--train", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        tool, rate, steps, end, work = given.train
        train(tool, float(rate), int(steps), end, work)
        return
    print(f"{METRICS} metrics a step, {given.seconds:g} s of logging; steps that arrived")
    columns = f"{'logged':>8}{'arrived':>9}{'':>9}{'steps/s':>9}"
    print(f"{'steps/s':>8}  {'end':<9} {'through':<13}{columns}")
    for rate in map(float, given.rates.split(",")):
        for job, steps in play(rate, given.seconds, given.service):
            print(
                f"{rate:>8g}  {job.end:<9} {job.tool:<13}{job.steps:>8}{steps:>9.0f}"
                f"{steps / job.steps:>9.1%}{steps / given.seconds:>9.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
