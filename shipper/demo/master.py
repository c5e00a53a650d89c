"""The training master of the demo: DLRover's own, where there is a DLRover."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from shipper.demo.processes import Child, Place, Stage, answers, environment, free_port

NOT_INSTALLED = "DLRover is not installed"
INSTALL = "'dlrover[k8s]' grpcio kubernetes tornado protobuf"
_PROBE_SECONDS = 60
# What decides in somebody's cluster or environment how a master works.
_FOREIGN = ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")


@dataclass(frozen=True, kw_only=True)
class Found:
    """The interpreter that has a master, or why none takes part."""

    python: str = ""
    why_not: str = ""


def find(given: str) -> Found:
    """The one that was `given`, else this one if DLRover is installed here; tried out."""
    if not given and importlib.util.find_spec("dlrover") is None:
        return Found(why_not=NOT_INSTALLED)
    python = given or sys.executable
    try:
        tried = subprocess.run(
            [python, "-c", _source()],
            env=_environment(python),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Found(why_not=str(error))
    if tried.returncode == 0:
        return Found(python=python)
    lines = tried.stderr.strip().splitlines()
    return Found(why_not=lines[-1] if lines else f"exit code {tried.returncode}")


class Master:
    """One address, and the lives of the master there."""

    def __init__(self, stage: Stage, python: str) -> None:
        self._stage = stage
        self._python = python
        self._port = free_port()
        self._place: Place = stage.place
        self.lives = 0
        self.service = "http" if importlib.util.find_spec("grpc") is None else "grpc"

    @property
    def address(self) -> str:
        """Where it listens, as DLRover names it."""
        return f"127.0.0.1:{self._port}"

    @property
    def environ(self) -> Mapping[str, str]:
        """What DLRover sets for a job."""
        return {"DLROVER_MASTER_ADDR": self.address, "DLROVER_MASTER_SERVICE_TYPE": self.service}

    def start(self) -> Child:
        """Begin a life; it remembers nothing of the one before."""
        self.lives += 1
        arguments = [str(self._place.stored(self.lives)), str(self._port), self.service]
        events = {
            "DLROVER_EVENT_FILE_DIR": str(self._place.logs),
            "KUBECONFIG": str(self._place.root / "none"),
        }
        return self._stage.start(
            "master",
            ["-c", _source(), *arguments],
            {**_environment(self._python), **events},
            python=self._python,
        )

    def answers(self) -> bool:
        """Whether it takes connections."""
        return answers(self._port)


def _source() -> str:
    return (files("shipper.demo") / "dlrover_main.py").read_text(encoding="utf-8")


def _environment(python: str) -> dict[str, str]:
    left_out = {*_FOREIGN, *(("PYTHONPATH",) if python != sys.executable else ())}
    return {name: value for name, value in environment().items() if name not in left_out}
