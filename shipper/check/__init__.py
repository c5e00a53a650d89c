"""What `lens-ship check` checks: one file each, and one line in `REGISTRY`.

A check is a function from `CheckContext` to findings. It changes nothing, on disk or at a receiver,
may run beside the service, and ends within seconds. A finding that is not ok says what to do next.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path

from shipper.config.schema import Config
from shipper.discovery.layout import find_spools
from shipper.finding import Finding, fail, ok, warn
from spooler.errors import SpoolError
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader

REGISTRY: dict[str, str] = {
    "state": "shipper.check.state:findings",
    "spools": "shipper.check.spools:findings",
    "disk": "shipper.check.disk:findings",
    "system": "shipper.check.system:findings",
    "sinks": "shipper.check.sinks:findings",
}

Check = Callable[["CheckContext"], Iterable[Finding]]


@dataclass(frozen=True)
class CheckContext:
    """What the checks share."""

    config: Config

    @cached_property
    def spools(self) -> list[Path]:
        """The directories of all spools below the root that this user can see."""
        return list(find_spools(self.config.spool))

    @cached_property
    def identities(self) -> list[Identity]:
        """Of the spools that can be read."""
        found = []
        for directory in self.spools:
            try:
                found.append(Reader(directory).identity())
            except (SpoolError, OSError):
                continue
        return found


def nearest(path: Path) -> Path:
    """`path`, or the nearest directory above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if os.path.exists(folder))


def check_settings(config: Config) -> Iterator[Finding]:
    """Findings about settings that `shipper.config.load` has accepted."""
    given = len(config.given)
    yield ok("settings", f"{given} given, the others at their defaults; see `config show`")
    for warning in config.warnings:
        name = warning.partition(":")[0]
        yield warn("settings", warning, f"rename or unset {name}")


def run_checks(config: Config) -> Iterator[Finding]:
    """All findings, in the registry's order. A check that raises is a finding too."""
    yield from check_settings(config)
    context = CheckContext(config)
    for name, place in REGISTRY.items():
        module, _, attribute = place.partition(":")
        check: Check = getattr(import_module(module), attribute)
        try:
            yield from check(context)
        except Exception as error:  # noqa: BLE001 - the other checks still run
            yield fail(
                name,
                f"this check failed: {type(error).__name__}: {error}",
                "report it, with the output of `lens-ship check --json`",
            )
