"""Runs every bench and writes `bench/RESULTS.md`: machine, date, what each said.

    python bench/results.py [--only drain,live] [--out bench/RESULTS.md]

Below half an hour on a quiet machine of two cores. The file is written after each bench, and what
others have said before stays in it, each with its commit and time. What fails is said in its place,
and the end is 1 then; so is what is not installed here.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
_LIMIT_SECONDS = 3600.0
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

# Name -> what it is called with, from the root of the repository.
# Their own defaults are longer where a figure is to be had more exactly.
BENCHES: dict[str, tuple[str, ...]] = {
    "append_cost": ("{python}", "bench/append_cost.py"),
    "hook_cost": ("{python}", "bench/hook_cost.py"),
    "tracker_cost": ("{python}", "bench/tracker_cost.py"),
    "import_cost": ("{python}", "bench/import_cost.py"),
    "lock_share": ("{python}", "bench/lock_share.py", "--seconds", "5", "--rounds", "3"),
    "instructions": ("{python}", "bench/instructions.py"),
    "drain": ("{python}", "bench/drain.py"),
    "live": ("{python}", "bench/live.py"),
    "remote_write": ("{python}", "bench/remote_write.py", "--seconds", "20", "--rounds", "2"),
    "series": ("{python}", "bench/series.py"),
    "wandb_sync": ("{python}", "bench/wandb_sync.py"),
    "growth": ("{python}", "bench/growth.py", "--spools", "1,300,1000", "--seconds", "20"),
    "growth_long": ("{python}", "bench/growth.py", "--only", "drain", "--long"),
    "scale": (
        *("{python}", "bench/scale.py", "--spools", "10,1000", "--records", "1000"),
        *("--seconds", "60"),
    ),
    "sizing": ("{python}", "bench/sizing.py"),
    "gateway": ("{python}", "bench/gateway.py"),
    "sync_cost": ("{python}", "bench/sync_cost.py", "20000", "2"),
    "collectors_cost": ("{python}", "bench/collectors_cost.py", "--seconds", "30"),
    "master_rate": ("{python}", "bench/master_rate.py"),
    "fleet": ("{python}", "bench/fleet.py"),
    "exporter": ("{peers}", "bench/exporter.py", "--service", "{python}"),
    "peers": ("{peers}", "-m", "bench.peers", "--calls", "2000", "--rounds", "3"),
}


_UNKNOWN = "not known"
_LONG = ("growth_long",)  # only when it is asked for: ten minutes, and 4 GB of disk
_TEST_MASTER = "LENS_SHIP_TEST_MASTER"  # the Python of a real master
_OF_THE_MASTER = ("master_rate",)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One bench: its output, how it ended, seconds, and the load when it began."""

    name: str
    command: str
    output: str
    code: int
    seconds: float
    load: float
    commit: str
    when: str

    def section(self) -> str:
        """Its part of the file."""
        ended = "" if self.code == 0 else f", ended with {self.code}"
        return (
            f"## {self.name}\n\n"
            f"`{self.command}`: {self.seconds:.0f} s, load {self.load:.1f} when it began{ended}.\n"
            f"Commit {self.commit}, {self.when}.\n\n"
            f"```text\n{_COLOURS.sub('', self.output).rstrip()}\n```\n"
        )


def machine() -> list[tuple[str, str]]:
    """What the figures depend on, besides the code."""
    return [
        ("processor", _processor()),
        ("cores", f"{os.cpu_count()}, of which this may use {len(os.sched_getaffinity(0))}"),
        ("memory", f"{_memory():.1f} GiB"),
        ("kernel", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("file system of temporary files", _said("stat", "-f", "-c", "%T", _temporary())),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("SQLite", sqlite3.sqlite_version),
    ]


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3


def _temporary() -> str:
    return os.environ.get("TMPDIR", "/tmp")


def _changed() -> str:
    """Whether the tree differs from the commit, by more than what the benches write."""
    ours = (":!bench/RESULTS.md", ":!bench/*.png")
    said = _said("git", "status", "--porcelain", "--", ".", *ours)
    return "" if said == _UNKNOWN else ", and changes"


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    except OSError:
        return _UNKNOWN
    return done.stdout.strip() or _UNKNOWN


def run(name: str) -> Ran:
    """One bench to its end."""
    python = Path(sys.executable)
    peers = python.parent.parent / "peers" / "bin" / "python"
    command = [part.format(python=python, peers=peers) for part in BENCHES[name]]
    shown = " ".join(("python", *BENCHES[name][1:])).format(python=".venv/bin/python")
    load, began = os.getloadavg()[0], time.monotonic()
    commit = _said("git", "describe", "--always", "--exclude", "*") + _changed()
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    if Path(command[0]).exists():
        output, code = _run(name, command)
    else:
        output = "not run: the environment of the peers is not there (`make bench-peers` makes it)"
        code = 1
    return Ran(
        name=name,
        command=shown,
        output=output,
        code=code,
        seconds=time.monotonic() - began,
        load=load,
        commit=commit,
        when=when,
    )


def _run(name: str, command: list[str]) -> tuple[str, int]:
    """What it said, and its exit code."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1", "COLUMNS": "100"}
    if name not in _OF_THE_MASTER:
        environment.pop(_TEST_MASTER, None)  # a setting that the service would not know
    try:
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return f"cut off after {late.timeout:.0f} s\n{late.stdout or ''}", 1
    return done.stdout, done.returncode


def sections(text: str) -> dict[str, str]:
    """The parts of a file that was written before, by bench."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {part[3:].split("\n", 1)[0]: part.rstrip() + "\n" for part in parts}


def page(about: list[tuple[str, str]], said: dict[str, str]) -> str:
    """The file as it is to be written."""
    lines = [
        "# Results",
        "",
        "Written by `make bench-results`. Compare within one bench: its contestants took turns.",
        "Absolute times, tails most of all, are those of this machine at the load that is told.",
        "",
        *(f"- {name}: {value}" for name, value in about),
        "",
    ]
    return "\n".join([*lines, *(said[name] for name in BENCHES if name in said)])


def main() -> int:
    """Run, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--only",
        default=",".join(name for name in BENCHES if name not in _LONG),
        help="which, with commas",
    )
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md")
    given = parser.parse_args()
    names = given.only.split(",")
    strangers = sorted(set(names) - set(BENCHES))
    if strangers:
        parser.error(f"no bench is called {', '.join(strangers)}; there are: {', '.join(BENCHES)}")
    about, failed = machine(), False
    said = sections(given.out.read_text()) if given.out.exists() else {}
    for name in names:
        print(f"{name} …", end=" ", flush=True)
        done = run(name)
        said[name] = done.section()
        given.out.write_text(page(about, said))
        print(f"{done.seconds:.0f} s" + (", failed" if done.code else ""), flush=True)
        failed = failed or bool(done.code)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
