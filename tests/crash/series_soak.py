"""Training processes and the service are killed while real receivers take steps.

`python -m tests.crash.series_soak --kills 200` starts VictoriaMetrics, Prometheus and MLflow, and a
service with the sinks `otlp`, `prometheus` and `mlflow`. Two training processes at a time log as
fast as they can, or with pauses, until SIGKILL. The service is killed again and again. In the end
each receiver returns every step whose call had returned, with its value, and how each run ended.
`--no-mlflow` leaves out MLflow, which takes a thousand times longer for a point.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from tests.kit.command import lens_ship, start_lens_ship
from tests.kit.engines import Found, Mlflow, Prometheus, VictoriaMetrics
from tests.kit.spools import REPOSITORY, environment

AT_ONCE = 2
PAUSES = (0, 0.0005, 0.01)  # seconds between two steps
PAUSES_WITH_MLFLOW = (0.0005, 0.002, 0.01)
_TRAIN = """
import sys, time
from spooler.hooks.run_tracker import runs
from spooler.hooks.tracked_run import TrackedRun

class Soaked(TrackedRun):
    tracker = "soak"

    def facts(self):
        return {"project": "p"}

run, number = Soaked(sys.argv[1]), 0
while True:
    runs.log(run, number, True, {"loss": number + 0.5, "train/acc": number * 2.0}, True)
    print(number, flush=True)
    number += 1
    time.sleep(float(sys.argv[2]))
"""


@dataclass(kw_only=True)
class Soak:
    """One soak below `folder`; `last` is the last step of each run whose call has returned."""

    folder: Path
    draw: random.Random
    pauses: Sequence[float] = PAUSES
    last: dict[str, int] = field(default_factory=dict)
    service_kills: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def words(self, command: str, *more: str) -> tuple[str, ...]:
        places = ("--spool", str(self.folder / "spool"), "--state", str(self.folder / "state"))
        return (command, *more, "--config", str(self.folder / "lens.toml"), *places)

    def train(self, run: str, pause: float, lasts: float) -> None:
        """A training process, killed some time after its first step."""
        command = [sys.executable, "-c", _TRAIN, run, str(pause)]
        environ = environment(
            PRIMUS_LENS_WANDB_OUTPUT_PATH=str(self.folder / "spool"),
            WORKLOAD_UID="w",
            PYTHONPATH=str(REPOSITORY),
        )
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if run not in self.last:
                    threading.Timer(lasts, process.kill).start()
                self.last[run] = int(line)

    def serve(self) -> None:
        """The service, killed again and again."""
        while not self.ended.is_set():
            process = start_lens_ship(*self.words("run"), stderr=subprocess.DEVNULL)
            self.ended.wait(self.draw.uniform(0.6, 2.5))
            process.kill()
            process.wait()
            self.service_kills += 1

    def run(self, kills: int) -> None:
        """Until so many processes were killed; then everything is delivered."""
        serving = threading.Thread(target=self.serve)
        serving.start()
        try:
            while len(self.last) + self.service_kills < kills:
                some = [
                    threading.Thread(
                        target=self.train,
                        args=(
                            f"r{len(self.last) + one}",
                            self.draw.choice(self.pauses),
                            self.draw.uniform(0.01, 0.8),
                        ),
                    )
                    for one in range(AT_ONCE)
                ]
                for one in some:
                    one.start()
                for one in some:
                    one.join()
        finally:
            self.ended.set()
            serving.join()


def judge(found: Found, last: Mapping[str, int], receiver: str) -> Iterator[str]:
    """What a receiver lacks of what was logged: each series whole, in order, with its values."""
    series = {}
    for labels, samples in found.items():
        known = dict(labels)
        name = known.get("lens.name") or known.get("lens_name") or known["__name__"]
        values = [value for _, value in sorted(set(samples))]
        series[known["run"], name.replace(".", "_")] = values
    for run, number in last.items():
        steps = series.get((run, "training_step"), [])
        # The last call may have been recorded and not returned.
        whole = steps == [float(one) for one in range(len(steps))] and len(steps) > number
        same = series.get((run, "training_loss")) == [one + 0.5 for one in steps] and (
            series.get((run, "train/acc")) == [one * 2 for one in steps]
        )
        if not whole or not same or len(steps) > number + 2:
            yield f"{receiver}: {run}: {len(steps)} steps of {number + 1}"
        if sorted(set(series.get((run, "training_run_status"), []))) != [0.0, 3.0]:
            yield f"{receiver}: {run}: its end is not told"


def judge_runs(mlflow: Mlflow, last: Mapping[str, int]) -> Iterator[str]:
    """The same of MLflow: one run each, with every step once."""
    runs: dict[str, list[Any]] = {}
    for one in mlflow.runs():
        tags = {tag["key"]: tag["value"] for tag in one["data"]["tags"]}
        runs.setdefault(tags["lens.run"], []).append(one["info"])
    for run, number in last.items():
        infos = runs.get(run, [])
        if [info["status"] for info in infos] != ["KILLED"]:
            yield f"MLflow: {run}: {len(infos)} runs, or its end is not told"
            continue
        loss = [(at, value) for at, _, value in mlflow.history(infos[0]["run_id"], "loss")]
        accuracy = [(at, value) for at, _, value in mlflow.history(infos[0]["run_id"], "train/acc")]
        whole = loss == [(at, at + 0.5) for at in range(len(loss))] and (
            accuracy == [(at, at * 2.0) for at in range(len(loss))]
        )
        if not whole or not number < len(loss) <= number + 2:
            yield f"MLflow: {run}: {len(loss)} steps of {number + 1}"


@click.command()
@click.option("--kills", default=200)
@click.option("--mlflow/--no-mlflow", "with_mlflow", default=True)
@click.option("--seed", default=random.SystemRandom().randrange(2**32))
def main(kills: int, with_mlflow: bool, seed: int) -> None:
    """Print what was found; exit with 1 if something is missing."""
    with tempfile.TemporaryDirectory(prefix="lens-ship-series-") as name:
        folder = Path(name)
        victoria = VictoriaMetrics(folder=folder / "victoria")
        prometheus = Prometheus(folder=folder / "prometheus", window="24h")
        mlflow = Mlflow(folder=folder / "mlflow") if with_mlflow else None
        engines = [one for one in (victoria, prometheus, mlflow) if one is not None]
        pauses = PAUSES_WITH_MLFLOW if mlflow else PAUSES
        soak = Soak(folder=folder, draw=random.Random(seed), pauses=pauses)
        try:
            for engine in engines:
                engine.start()
            (folder / "lens.toml").write_text(
                f'[sinks.one]\ntype = "otlp"\nurl = "{victoria.url}/opentelemetry"\n'
                f'[sinks.two]\ntype = "prometheus"\nurl = "{prometheus.url}/api/v1/write"\n'
                + (f'[sinks.three]\ntype = "mlflow"\nurl = "{mlflow.url}"\n' if mlflow else "")
            )
            soak.run(kills)
            for _ in range(20):  # under load a backlog may take longer
                if lens_ship(*soak.words("run", "--once", "--timeout", "30")).code == 0:
                    break
            audit = lens_ship(*soak.words("audit"))
            findings = [
                *judge(victoria.found(), soak.last, "VictoriaMetrics"),
                *judge(prometheus.found(), soak.last, "Prometheus"),
                *(judge_runs(mlflow, soak.last) if mlflow else ()),
                *([audit.out] if audit.code else []),
            ]
        finally:
            for engine in engines:
                engine.kill()
    steps = sum(soak.last.values()) + len(soak.last)
    killed = f"{len(soak.last)} training processes and {soak.service_kills} services killed"
    print(f"{steps:,} steps, {killed}, seed {seed}")
    print("\n".join(findings) or f"{len(engines)} receivers return every step")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
