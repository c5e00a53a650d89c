"""The `lens-ship` command as a process of its own, away from the settings of this one."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click

from tests.kit.spools import PATIENCE_SECONDS, environment

_MAIN = "from shipper.__main__ import main; main()"
_RUN = (sys.executable, "-W", "error", "-c")


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


def lens_ship(*arguments: str, **environ: str) -> Ran:
    """Run the command to its end."""
    done = subprocess.run(
        [*_RUN, _MAIN, *arguments],
        env=_environment(environ),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return Ran(code=done.returncode, out=done.stdout, err=done.stderr)


def start_lens_ship(
    *arguments: str,
    stdout: int = subprocess.DEVNULL,
    stderr: int | IO[str] = subprocess.PIPE,
    before: str = "",
    **environ: str,
) -> subprocess.Popen[str]:
    """Start the command; its words are in `stderr`, what it prints where `stdout` says.

    One that says more than a pipe holds before it ends wants a file for `stderr`. `before` is
    code that its process runs first.
    """
    return subprocess.Popen(
        [*_RUN, f"{before}\n{_MAIN}", *arguments],
        env=_environment(environ),
        stdout=stdout,
        stderr=stderr,
        text=True,
    )


def awaits_signals(process: subprocess.Popen[str]) -> bool:
    """Whether SIGTERM does not end the process at once: it is blocked, or answered."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigBlk", "SigCgt"))]
    return any(mask >> (signal.SIGTERM - 1) & 1 for mask in masks)


def _environment(changes: dict[str, str]) -> dict[str, str]:
    """Without the service's own variables and without proxies, then with `changes`."""
    # Tests run beside each other, and beside a service of this machine: the port is for those that
    # ask for it.
    changes = {"LENS_SHIP_HTTP_LISTEN": "off", **changes}
    return {
        name: value
        for name, value in environment(**changes).items()
        if name in changes
        or not (
            name.startswith("LENS_SHIP_")
            or name == "STATE_DIRECTORY"
            or name.lower().endswith("_proxy")
        )
    }


def commands_of(group: click.Group) -> dict[str, click.Command]:
    """The commands of a group by name, loaded."""
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}
