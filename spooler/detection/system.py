"""The machine and the process: interpreter, kernel, processors, memory, limits, and the command.

Rules:
- The kernel is asked by one system call; the library that describes platforms may run a program.
- Of the command line only the script's name and the names of long options are told; a value may be
  a secret, a path, or a prompt.
- Memory is in GiB, rounded; a limit that does not limit is left out.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from spooler.detection import nvidia
from spooler.detection.gpu import number
from spooler.detection.view import View

GIB = 2**30
KIB = 2**10
MOST_OPTIONS = 64
UNLIMITED = 2**60
"""Version 1 control groups write "no limit" as a number near 2**63."""

_OPTION = re.compile(r"--([A-Za-z][\w.-]{0,63})(?:=.*)?", re.DOTALL)


def look(view: View) -> dict[str, Any]:
    facts = {**_interpreter(view), **_machine(view), **_command(view)}
    return {name: fact for name, fact in facts.items() if fact not in ("", None, [])}


def _interpreter(view: View) -> dict[str, Any]:
    version = sys.version_info
    return {
        "python_version": f"{version.major}.{version.minor}.{version.micro}",
        "python_implementation": sys.implementation.name,
        "executable": view.attribute_text("sys", "executable"),
    }


def _machine(view: View) -> dict[str, Any]:
    kernel = os.uname()
    group = view.search("/proc/self/cgroup", r"^0::(/.*)$").rstrip("/")
    return {
        "platform": f"{kernel.sysname}-{kernel.release}-{kernel.machine}",
        "hostname": kernel.nodename,
        "os_release": view.search("/etc/os-release", r"^PRETTY_NAME=\"?([^\"\n]*)"),
        "cpu_count": os.cpu_count(),
        "cpu_usable": len(os.sched_getaffinity(0)),
        "cpu_limit": _cpu_limit(view, group),
        "memory_gb": _memory(view),
        "memory_limit_gb": _memory_limit(view, group),
        "container": view.exists("/.dockerenv") or view.exists("/run/.containerenv"),
        "nvidia_driver": nvidia.driver_version(view),
    }


def _command(view: View) -> dict[str, Any]:
    argv = view.attributes("sys").get("argv")
    words = [word for word in argv if type(word) is str] if type(argv) is list else []
    options = (_OPTION.fullmatch(word) for word in words[1:])
    names = dict.fromkeys(match.group(1) for match in options if match)
    package = view.attributes("__main__").get("__package__")
    return {
        "script": os.path.basename(words[0]) if words else "",
        "script_package": package if type(package) is str else "",
        "options": list(names)[:MOST_OPTIONS],
    }


def _memory(view: View) -> float | None:
    total = view.search("/proc/meminfo", r"^MemTotal:\s+(\d+) kB")
    return round(number(total) * KIB / GIB, 1) if total else None


def _memory_limit(view: View, group: str) -> float | None:
    text = _first(
        view,
        f"/sys/fs/cgroup{group}/memory.max",
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    )
    limit = number(text) or UNLIMITED
    return round(limit / GIB, 1) if limit < UNLIMITED else None


def _cpu_limit(view: View, group: str) -> float | None:
    text = _first(view, f"/sys/fs/cgroup{group}/cpu.max", "/sys/fs/cgroup/cpu.max")
    if not text:
        quota = view.read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
        text = f"{quota} {view.read('/sys/fs/cgroup/cpu/cpu.cfs_period_us')}"
    quota, _, period = text.partition(" ")
    allowed, every = number(quota), number(period)
    return round(allowed / every, 2) if allowed and every else None


def _first(view: View, *paths: str) -> str:
    return next((text for text in map(view.read, paths) if text), "")
