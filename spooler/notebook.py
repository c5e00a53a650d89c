"""`spooler.ship()`: for notebooks, where no command is around the training."""

from __future__ import annotations

import os
import sys
from typing import Any

from spooler import config
from spooler.activate import install
from spooler.async_exceptions import ours

_STATE = "LENS_SHIP_STATE"
# Without the directory of the notebook, where a file may have the name of a library.
_PROGRAM = (
    "import sys; del sys.path[0]; sys.argv[0] = 'lens-ship';"
    " from shipper.__main__ import main; main()"
)


def ship(**settings: Any) -> None:
    """Record what this process logs from now on, and let a service of this user deliver it.

    Finds the service that runs, also after a restart of the kernel, or starts one that outlives the
    kernel. Prints one line. Never raises: a service that cannot be started is reported on stderr,
    and records stay in the spool.

    Args:
        settings: those of `lens-ship start`, as `processor_url="http://…"`,
            `sink="otlp=http://…"` or `config="lens-ship.toml"`. None: as if it was not given.
    """
    try:
        problem = _start(settings)
    except ours(Exception) as error:
        problem = f"lens-ship: {type(error).__name__}: {error}"
    if problem and settings.get("spool"):
        os.environ[config.OUTPUT_PATH] = config.absolute(str(settings["spool"]))
    root = os.environ.get(config.OUTPUT_PATH)
    if root:
        install()
    if problem:
        rest = f"Records go to {root}" if root else f"Nothing is recorded: set {config.OUTPUT_PATH}"
        sys.stderr.write(f"{problem}\nlens-ship: no service was started. {rest}\n")


def _start(settings: dict[str, Any]) -> str:
    """Why no service runs, or "". Of one that runs, commands of this process know the places."""
    import json
    import subprocess

    given = {name.replace("_", "-"): value for name, value in settings.items() if value is not None}
    words = [f"--{name}={value}" for name, value in given.items()]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, "start", "--json", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return done.stderr.strip()
    found = json.loads(done.stdout)
    os.environ[config.OUTPUT_PATH] = found["spool"]
    if found["pid"]:
        os.environ[_STATE] = found["state"]
    sys.stdout.write(f"lens-ship: {found['text']}\n")
    return ""
